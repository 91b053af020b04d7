"""Names, numbers and dates planted in every text, code, note, tag, file name and path stay there.

They are searched for in every message that leaves a site and in all that a run leaves behind.
`test_superlink.py` does the same with real processes.
"""

import pytest
from flwr.common.serde import recorddict_to_proto
from planted import NAME, STREET, TEXT, Planted

import clients.app
from federation.errors import UserError
from federation.messages import DESCRIBE, EVALUATE, PREPARE, TRAIN, Reply
from federation.study import Study
from simulations.consortium import synthesize
from simulations.host import SiteHost
from simulations.runner import simulate

PRIVATE = {"mechanism": "dp_sgd", "epsilon": 4.0}
RANGES = {"LAB//CRP": [0, 50], "VITAL//HEART_RATE": [60, 100]}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Two planted hospitals below a folder that is named like a patient."""
    folder = tmp_path_factory.mktemp("data") / f"{NAME}-{STREET}"
    synthesize(folder, sites=2, patients=40, seed=5)
    planted = Planted()
    for site in sorted(folder.glob("*/site.toml")):
        planted.plant(site.parent)
    return folder, planted


@pytest.fixture
def sent(monkeypatch):
    """All bytes that leave a site, by the type of the message that asked for them."""
    kept: dict[str, bytes] = {}
    play = SiteHost.run

    def run(host, orders, end=None):
        arrivals = play(host, orders, end)
        for order, arrival in zip(orders, arrivals, strict=False):
            content = recorddict_to_proto(arrival.content).SerializeToString()
            kept[order.kind] = kept.get(order.kind, b"") + content
        return arrivals

    monkeypatch.setattr(SiteHost, "run", run)
    return kept


def study(vocabulary, privacy):
    ehr = {"width": 8, "buckets": 16, "vocabulary": vocabulary, "reference_ranges": RANGES}
    return Study.model_validate(
        {
            "study": {"name": "planted"},
            "task": {"label": "deterioration"},
            "modalities": {"ehr": ehr, "image": {"width": 8, "size": 32}, "text": {"width": 8}},
            "training": {"rounds": 2, "batch_size": 16},
            "strategy": {"minimum_sites": 1},
            "privacy": privacy,
            "evaluation": {"subgroups": ["sex", "age_band", "ethnicity"]},
        }
    )


def set_bins(folder, bins):
    for file in folder.glob("*/site.toml"):
        lines = file.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("score_bins")]
        at = kept.index("[policy]") + 1
        file.write_text("\n".join([*kept[:at], f'score_bins = "{bins}"', *kept[at:]]))


@pytest.mark.parametrize("bins", ["merged", "fine"])
@pytest.mark.parametrize(
    ("vocabulary", "privacy"),
    [("prepared", {}), ("hashed", PRIVATE)],
    ids=["plain", "private"],
)
def test_nothing_planted_is_in_a_message_or_in_what_a_run_leaves(
    hospitals, sent, tmp_path, capfd, vocabulary, privacy, bins
):
    folder, planted = hospitals
    set_bins(folder, bins)
    out = tmp_path / "run"
    outcome = simulate(study(vocabulary, privacy), folder, out, workers=0)
    assert sent.keys() >= {DESCRIBE, TRAIN, EVALUATE}
    assert (PREPARE in sent) == (vocabulary == "prepared")
    assert len(b"".join(sent.values())) > 100_000
    assert {kind: found for kind, c in sent.items() if (found := planted.found(c))} == {}
    assert (out / "report.html").is_file() and any(out.rglob("checkpoints/*"))
    assert planted.found_in(out.rglob("*")) == {}
    printed = "".join(capfd.readouterr()) + "".join(outcome.warnings)
    assert planted.found(printed.replace(str(folder), "").encode()) == set()


@pytest.mark.parametrize("spoiled", ["data/labels.parquet", "data/meds/data", "site.toml"])
def test_an_error_names_the_file_and_nothing_that_stands_in_it(hospitals, tmp_path, spoiled):
    folder, planted = hospitals
    (site, *_) = sorted(path.parent for path in folder.glob("*/site.toml"))
    path = site / spoiled
    file = next(path.rglob("*.parquet")) if path.is_dir() else path
    kept = file.read_bytes()
    file.write_bytes(b"PAR1" + TEXT.encode() + kept[200:])
    try:
        with pytest.raises(UserError) as caught:
            simulate(study("hashed", {}), folder, tmp_path / "run", workers=0)
    finally:
        file.write_bytes(kept)
    told = str(caught.value).replace(str(folder), "")
    assert file.name in told
    assert planted.found(told.encode()) == set()
    assert planted.found_in((tmp_path / "run").rglob("*")) == {}


def test_the_search_finds_what_is_really_there(hospitals, tmp_path):
    folder, planted = hospitals
    for pattern in ("*/data/labels.parquet", "*/data/meds/data/*.parquet", "*/data/dicom/*/*"):
        file = next(folder.glob(pattern))
        assert planted.found_in([file]) != {}, f"{file} is not planted"
    site = next(folder.glob("*/site.toml")).parent
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "log.txt").write_text(f"cannot read {site / 'data'}")
    assert planted.found_in(copy.rglob("*")).popitem()[1] == {NAME.encode(), STREET.encode()}


def test_the_search_finds_what_a_site_without_its_gate_would_tell(
    hospitals, sent, tmp_path, monkeypatch
):
    folder, planted = hospitals

    class Telling(Reply):
        def to_records(self):
            records = super().to_records()
            next(iter(records.config_records.values()))["patient"] = TEXT
            return records

    monkeypatch.setattr(clients.app, "released", lambda reply, *_: Telling(**vars(reply)))
    simulate(study("hashed", {}), folder, tmp_path / "run", workers=0)
    assert planted.found(b"".join(sent.values())) >= {NAME.encode(), b"7731940"}
