"""What every fusion must do, with one vector a modality, with several, and with imputed ones."""

import itertools

import pytest
import torch
from private_models import added, bce, expected_sum, gradients, part
from sklearn.linear_model import LogisticRegression
from torch import nn

from federation.models.build import build_model
from federation.models.encoded import Imputer, Tokens
from federation.models.inputs import probe_inputs
from federation.models.registry import FUSIONS
from federation.privacy.clipping import clipped_sum
from federation.privacy.layers import check_forward, check_private
from federation.vocabulary import agreed_vocabulary

WAYS = [(kind, absent, "one") for kind in FUSIONS for absent in ("token", "imputed")]
WAYS += [(kind, "token", "all") for kind, fusion in FUSIONS.items() if fusion.several]
NAMES = ("ehr", "image", "text")
every = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def built(make_study):
    """Return a function: a way -> a model and a batch with every subset of modalities."""

    def built(way):
        kind, absent, tokens = way
        ehr = {"encoder": "transformer", "max_events": 8, "width": 8, "heads": 2, "layers": 1}
        study = make_study(
            *NAMES,
            modalities={
                "ehr": {**ehr, "buckets": 8},
                "image": {"encoder": "vit", "size": 32, "width": 8, "heads": 2, "layers": 1},
                "text": {"width": 8, "buckets": 32, "max_tokens": 6},
            },
            fusion={"kind": kind, "absent": absent, "tokens": tokens},
        )
        vocabulary = agreed_vocabulary(study.modalities.ehr)
        values, _ = probe_inputs(study, vocabulary, 8)
        subsets = list(itertools.product([True, False], repeat=3))
        present = {
            name: torch.tensor([subset[k] for subset in subsets]) for k, name in enumerate(NAMES)
        }
        return build_model(study, vocabulary), (values, present, (torch.arange(8) % 2).float())

    return built


@every
def test_every_subset_gets_a_finite_logit_and_clipped_sums_equal_a_loop(built, way):
    model, batch = built(way)
    model.module.train()
    logits = model.module(*batch[:2])
    assert logits.shape == (8,)
    assert logits.isfinite().all()
    check_private(model.module)
    check_forward(model.module, *batch[:2])
    rows = gradients(model, batch)
    norm = float(rows.norm(dim=1).median())
    found = added(model, clipped_sum(model, bce, norm), batch)
    assert (found - expected_sum(rows, norm)).norm() <= 1e-4 * norm * 8


@every
def test_what_stands_in_an_absent_modality_changes_no_bit(built, way):
    model, (values, present, labels) = built(way)

    def bits(values):
        model.vector.grad.zero_()
        logits = model.module(values, present)
        bce(logits, labels).sum().backward()
        return logits.detach().numpy().tobytes() + model.vector.grad.numpy().tobytes()

    noisy = {
        name: torch.where(
            present[name].view(-1, *[1] * (x.dim() - 1)), x, 7 if name == "text" else float("nan")
        )
        for name, x in values.items()
    }
    assert bits(noisy) == bits(values)


@every
def test_prediction_does_not_depend_on_the_rest_of_the_batch(built, way):
    model, batch = built(way)
    together = model.module(*batch[:2])
    for i in range(8):
        alone = model.module(*part(batch, slice(i, i + 1))[:2])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)


@every
def test_parts_cover_the_model_once_and_imputing_gives_all_of_the_fusion_to_it(built, way):
    model, _ = built(way)
    edges = [p.start for p in model.parts] + [model.parts[-1].stop]
    assert edges == [0, *(p.stop for p in model.parts)]
    assert {p.name for p in model.parts} <= {*NAMES, "fusion"}
    encoders = sum(p.numel() for p in model.module.encoders.parameters())
    of_fusion = sum(p.stop - p.start for p in model.parts if p.name == "fusion")
    if way[1] == "imputed":
        assert of_fusion == len(model.vector) - encoders


def test_imputed_encoding_follows_the_others_and_touches_nothing_that_is_there():
    torch.manual_seed(0)
    imputer = Imputer({"ehr": 3, "image": 2})
    encoded = {"ehr": torch.randn(3, 3), "image": torch.randn(3, 2)}
    present = {
        "ehr": torch.tensor([True, True, False]),
        "image": torch.tensor([True, False, False]),
    }
    filled, now = imputer(encoded, present)
    assert torch.equal(filled["ehr"][:2], encoded["ehr"][:2])
    assert torch.equal(filled["image"][0], encoded["image"][0])
    expected = imputer.guess["image"](torch.cat([encoded["ehr"][1], torch.ones(1)]))
    torch.testing.assert_close(filled["image"][1], expected)
    assert now["image"].tolist() == now["ehr"].tolist() == [True, True, False]


WIDTHS = {"ehr": 4, "image": 4}
SETS = {"both": (True, True), "ehr": (True, False), "image": (False, True), "none": (False, False)}


def patient_with(names, encoded):
    """Encodings and presence of one patient with some modalities."""
    present = {k: torch.tensor([there]) for k, there in zip(WIDTHS, SETS[names], strict=True)}
    return {name: x.unsqueeze(0) for name, x in encoded.items()}, present


def test_late_fusion_begins_as_a_plain_sum_and_stays_one_where_nothing_is_lacking():
    torch.manual_seed(0)
    fusion = FUSIONS["late"].build(WIDTHS, 1)
    encoded = {name: torch.randn(4) for name in WIDTHS}
    score = {name: fusion.heads[name](encoded[name]) for name in WIDTHS}
    sums = {**score, "both": score["ehr"] + score["image"], "none": torch.zeros(1)}
    for names in SETS:
        torch.testing.assert_close(fusion(*patient_with(names, encoded)), sums[names])
    with torch.no_grad():
        for gate in fusion.gates.values():
            gate.weight.fill_(0.5)
    for names, factor in {"both": 1, "ehr": 1.5, "image": 1.5, "none": 0}.items():
        torch.testing.assert_close(fusion(*patient_with(names, encoded)), factor * sums[names])


@pytest.mark.parametrize("gated", [True, False])
def test_gates_of_late_fusion_make_up_for_what_two_modalities_both_tell(gated):
    torch.manual_seed(0)
    severity = torch.randn(4000)
    views = {name: (severity + 0.3 * torch.randn(4000)).unsqueeze(1) for name in WIDTHS}
    labels = (torch.rand(4000) < (2 * severity - 1).sigmoid()).float()
    present = {"ehr": torch.ones(4000, dtype=torch.bool), "image": torch.rand(4000) < 0.7}
    fusion = FUSIONS["late"].build({"ehr": 1, "image": 1}, 1)
    fusion.gates.requires_grad_(gated)
    optimizer = torch.optim.LBFGS(
        [p for p in fusion.parameters() if p.requires_grad],
        max_iter=200,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        mean = bce(fusion(views, present), labels).mean()
        mean.backward()
        return mean

    optimizer.step(loss)
    lacking = ~present["image"]
    logits = fusion(views, present).detach()[lacking].numpy()
    slope = LogisticRegression(C=1e6).fit(logits[:, None], labels[lacking]).coef_.item()
    assert abs(slope - 1) < 0.02 if gated else slope > 1.1


def test_what_cross_attention_takes_of_a_modality_does_not_depend_on_the_others():
    torch.manual_seed(0)
    fusion = FUSIONS["cross_attention"].build(WIDTHS, 1)
    fusion.head = nn.Identity()
    for name in WIDTHS:
        nn.init.normal_(fusion.absent[name].vector.weight)
    encoded = {name: torch.randn(4) for name in WIDTHS}
    seen = {names: fusion(*patient_with(names, encoded)) for names in SETS}
    torch.testing.assert_close(seen["both"] + seen["none"], seen["ehr"] + seen["image"])
    assert not torch.allclose(seen["both"], seen["ehr"])


def test_a_modality_that_is_there_without_a_token_is_borne_and_adds_nothing():
    torch.manual_seed(0)
    fusion = FUSIONS["cross_attention"].build(WIDTHS, 1)
    image = torch.randn(2, 4)
    present = {name: torch.ones(2, dtype=torch.bool) for name in WIDTHS}
    empty = Tokens(torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.bool))
    logits = fusion({"ehr": empty, "image": image}, present)
    lacking = {"ehr": ~present["ehr"], "image": present["image"]}
    torch.testing.assert_close(logits, fusion({"ehr": empty, "image": image}, lacking))
    logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in fusion.parameters() if p.grad is not None)


def test_many_equal_tokens_weigh_as_one():
    torch.manual_seed(0)
    fusion = FUSIONS["cross_attention"].build(WIDTHS, 1)
    one, image = torch.randn(2, 4), torch.randn(2, 4)
    present = {name: torch.ones(2, dtype=torch.bool) for name in ("ehr", "image")}
    many = Tokens(one.unsqueeze(1).expand(2, 50, 4), torch.arange(50).expand(2, 50) < 40)
    torch.testing.assert_close(
        fusion({"ehr": many, "image": image}, present),
        fusion({"ehr": one, "image": image}, present),
    )


@pytest.mark.parametrize(
    ("fusion", "told"),
    [
        ({"kind": "late", "tokens": "all"}, 'is for kind "cross_attention"'),
        ({"kind": "cross_attention", "tokens": "all", "absent": "imputed"}, 'give tokens = "one"'),
        ({"kind": "middle"}, "kind"),
    ],
)
def test_what_excludes_another_is_refused(make_study, fusion, told):
    with pytest.raises(ValueError, match=told):
        make_study("ehr", "text", fusion=fusion)
