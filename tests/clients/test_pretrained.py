"""A pretrained encoder of notes: found by its checksum, frozen, run once, trained on top of."""

import tomllib

import pytest
import tomli_w
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from clients import pretrained
from clients.site import load_site
from clients.workbench import Workbench
from federation.checksums import checksum
from federation.errors import UserError

WORDS = ("dense", "opacity", "on", "the", "left", "no", "clear", "lungs", ".")
FEATURES = 12


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a tiny random BERT and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=FEATURES,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def cohort_of(tmp_path, write_site, make_study, bert):
    """Return a function: changes of the study's table -> the cohort of a site with notes."""
    folder = write_site(tmp_path / "site", 20, notes=True)
    file = folder / "site.toml"
    document = tomllib.loads(file.read_text())
    document["data"]["notes"]["models"] = str(bert.parent)
    file.write_text(tomli_w.dumps(document))

    def cohort_of(privacy=None, max_tokens=8, **changes):
        named = {"name": bert.name, "sha256": checksum(bert), "features": FEATURES, **changes}
        text = {"encoder": "huggingface", "width": 4, "max_tokens": max_tokens}
        text["pretrained"] = named
        study = make_study(modalities={"ehr": None, "text": text}, privacy=privacy or {})
        return Workbench().cohort(str(folder), study, None), study, folder

    return cohort_of


def test_features_are_the_mean_over_the_tokens_of_a_patient_s_notes(cohort_of, bert):
    cohort, _, _ = cohort_of()
    found = cohort.modalities["text"]
    assert found.values.shape == (20, FEATURES)
    assert found.present.all()
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    texts = ("Dense opacity on the left.", "No opacity. Clear lungs.")
    expected = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=8)
        expected.append(model(**ids).last_hidden_state.mean(1)[0].detach())
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    for row, label in zip(found.values, cohort.labels, strict=True):
        text = expected[0] if label else expected[1]
        torch.testing.assert_close(row, text, rtol=1e-4, atol=1e-5)


def test_notes_longer_than_the_study_takes_are_cut_and_counted(cohort_of):
    # All notes have six tokens between a first and a last one: eight, which are as many as fit.
    assert cohort_of()[0].unusable == {}
    cohort, _, _ = cohort_of(max_tokens=7)
    assert cohort.unusable == {"note: cut at the study's max_tokens": 20}


def test_the_encoder_runs_once_and_its_features_are_kept(cohort_of, monkeypatch):
    first, study, folder = cohort_of()
    monkeypatch.setattr(pretrained, "FrozenEncoder", None)  # would fail if it were used
    again = Workbench().cohort(str(folder), study, None)
    assert torch.equal(again.modalities["text"].values, first.modalities["text"].values)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, "its SHA-256 is [0-9a-f]{64}, and the study names 0{64}"),
        ({"name": "other"}, "is not a folder"),
        ({"features": 768}, "the encoder gives 12 features, and the study says 768"),
    ],
)
def test_another_encoder_than_the_study_s_is_refused(cohort_of, changes, told):
    with pytest.raises(UserError, match=told) as caught:
        cohort_of(**changes)
    assert caught.value.exit_code == 2


def test_site_that_names_no_folder_of_encoders_is_told_how(tmp_path, write_site, cohort_of):
    _, study, _ = cohort_of()
    plain = write_site(tmp_path / "plain", 20, notes=True)
    assert load_site(plain).settings.data.notes.models is None
    with pytest.raises(UserError, match=r"data\.notes\.models.*no folder of encoders"):
        Workbench().cohort(str(plain), study, None)


def test_adapter_over_the_features_trains_privately(cohort_of):
    _, study, _ = cohort_of(privacy={"mechanism": "dp_sgd", "epsilon": 4.0})
    bench = Workbench()
    model = bench.model(study, None)
    assert bench.clipped(study, None, model).mode == "book_keeping"
    assert len(model.vector) < 500  # nothing of the encoder itself travels
