"""Book-keeping: every kind of layer, shared, frozen and unknown ones, and what it must not do."""

import gc

import pytest
import torch
from layer_kinds import KNOWN, REPLAYED, built
from private_models import (
    PATIENTS,
    Flat,
    Toy,
    added,
    bce,
    check_bound,
    check_sum,
    clipping_norms,
    expected_sum,
    gradients,
    part,
)
from torch import nn
from torch.nn import functional as F

from federation.privacy.book_keeping import can_replay
from federation.privacy.clipping import clipped_sum
from federation.privacy.layer_rules import ReplayedLayer, rule_for
from federation.privacy.layers import units

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # torch on vmap
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]


@pytest.mark.parametrize("kind", [*KNOWN, *REPLAYED])
def test_clipped_sum_of_any_layer_equals_the_loop_over_patients(kind):
    model, batch = built(kind)
    rows = gradients(model, batch)
    assert (rows != 0).any(0).sum() > 0
    for norm in clipping_norms(rows):
        clipped = clipped_sum(model, bce, norm, "book_keeping")
        check_sum(model, clipped, batch, rows, norm)
        halves = added(model, clipped, part(batch, slice(0, 3)), part(batch, slice(3, None)))
        assert (halves - expected_sum(rows, norm)).norm() <= 1e-5 * norm * PATIENTS


def test_only_layers_without_a_rule_are_run_again():
    for kind in KNOWN:
        rules = {rule_for(unit) for unit in units(built(kind)[0].module).values()}
        assert ReplayedLayer not in rules, kind
    for kind in REPLAYED:
        rules = {rule_for(unit) for unit in units(built(kind)[0].module).values()}
        assert ReplayedLayer in rules, kind


def test_patient_that_is_not_finite_leaves_a_layer_run_again_alone():
    model, batch = built("bare parameters")
    rows = gradients(model, batch)
    batch[0]["x"][4] = float("nan")
    found = added(model, clipped_sum(model, bce, 0.1, "book_keeping"), batch)
    others = torch.arange(PATIENTS) != 4
    assert (found - expected_sum(rows[others], 0.1)).norm() <= 1e-6 * PATIENTS


@pytest.mark.parametrize(
    ("net", "mode"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 1)), "book_keeping"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4)), "book_keeping"),
        (lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0), "book_keeping"),
        (lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1), "per_patient"),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.GRU(6, 6)), "per_patient"),
    ],
)
def test_auto_follows_from_what_the_model_is_made_of(net, mode):
    model = Flat(Toy(net()))
    assert clipped_sum(model, bce, 1.0).mode == mode
    assert can_replay(model.module) == (mode == "book_keeping")


class Places(nn.Module):
    """Places looked up once for all patients: a gradient of all of them together."""

    def __init__(self, tokens):
        super().__init__()
        self.places = nn.Embedding(tokens, 4)

    def forward(self, x):
        return x * self.places(torch.arange(x.shape[1]))


def test_layer_that_is_not_called_with_one_row_a_patient_is_refused():
    model = Flat(Toy(Places(5)))
    batch = ({"x": torch.randn(PATIENTS, 5, 4)}, {}, torch.ones(PATIENTS))
    with pytest.raises(ValueError, match=r"net\.places: its input has shape \(5,\)"):
        clipped_sum(model, bce, 1.0, "book_keeping").add(*batch)
    assert "forward" not in model.module.net.places.__dict__
    rows = gradients(model, batch)
    found = added(model, clipped_sum(model, bce, 1.0, "per_patient"), batch)
    assert (found - expected_sum(rows, 1.0)).norm() <= 1e-5 * PATIENTS


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 3), (3,)),
        (nn.Conv1d(3, 3, 2), (3, 5)),
        (nn.Conv2d(3, 3, 2), (3, 5, 5)),
        (nn.LayerNorm(3), (3,)),
    ],
)
def test_input_of_one_patient_without_a_batch_is_no_batch_of_as_many_patients(layer, shape):
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return x.flatten(1).sum(1) * self.layer(x[0].reshape(shape)).sum()

    model = Flat(Toy(Unbatched()))
    batch = ({"x": torch.randn(3, *shape)}, {}, torch.ones(3))
    with pytest.raises(ValueError, match=r"net\.layer: its input has shape"):
        clipped_sum(model, bce, 1.0, "book_keeping").add(*batch)


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        y = torch.sin(x)
        z = self.layer(y)
        y.mul_(2)
        return z


def test_input_that_is_overwritten_after_the_call_is_refused():
    model = Flat(Toy(Overwriting()))
    with pytest.raises(RuntimeError, match=r"net\.layer: .*in place"):
        clipped_sum(model, bce, 1.0).add(*({"x": torch.randn(2, 6)}, {}, torch.ones(2)))
    assert not model.vector.grad.any()


class Reached(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.hidden = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x) + F.linear(x, self.hidden.weight)


def test_no_gradient_arrives_that_was_not_clipped():
    model = Flat(Toy(Reached()))
    clipped = clipped_sum(model, bce, 1e-3, "book_keeping")
    found = added(model, clipped, ({"x": 100 * torch.randn(1, 6)}, {}, torch.ones(1)))
    assert found.norm() <= 1e-3


@pytest.mark.parametrize("kind", ["transformer", "channels last", "torch's attention"])
def test_nothing_is_kept_after_a_batch(kind):
    model, batch = built(kind)
    clipped = clipped_sum(model, bce, 1.0)
    clipped.add(*batch)
    gc.collect()
    gc.disable()  # what only gc would free stays until then, and that may be many batches
    try:
        before = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
        clipped.add(*batch)
        assert sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()) == before
    finally:
        gc.enable()


def test_calls_are_counted_anew_in_each_batch():
    model, batch = built("linear called twice")
    rows = gradients(model, batch)
    clipped = clipped_sum(model, bce, 0.1)
    for _ in range(3):
        found = added(model, clipped, batch)
        assert (found - expected_sum(rows, 0.1)).norm() <= 1e-6 * PATIENTS


def test_batch_on_which_no_layer_acts_adds_nothing():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, x):
            return x.sum(1)

    model = Flat(Toy(Skipping()))
    batch = ({"x": torch.ones(2, 6)}, {}, torch.ones(2))
    assert not added(model, clipped_sum(model, bce, 1.0), batch).any()


@pytest.mark.parametrize("left", [0.0, 1e-6, 1e-3])
def test_no_convolution_passes_the_clipping_norm_where_places_cancel(left):
    torch.manual_seed(0)
    model = Flat(Toy(nn.Conv1d(32, 32, 1)))
    half = 1e4 * torch.randn(PATIENTS, 32, 4)
    x = torch.cat([half, 1e4 * left * torch.randn(PATIENTS, 32, 4) - half], 2)
    batch = ({"x": x}, {}, torch.ones(PATIENTS))
    model.vector.detach().mul_(1e-6)  # or logits as large as the places
    for norm in (1e-4, 1e-2, 1.0):
        check_bound(model, clipped_sum(model, bce, norm, "book_keeping"), batch, norm)


def test_model_in_float64_is_summed_in_float64():
    torch.manual_seed(0)
    model = Flat(Toy(nn.Sequential(nn.Linear(32, 32), nn.Tanh())).double())
    batch = ({"x": torch.randn(PATIENTS, 3, 32, dtype=torch.float64)}, {}, torch.ones(PATIENTS))
    rows = gradients(model, batch)
    found = added(model, clipped_sum(model, bce, 0.1), batch)
    assert (found - expected_sum(rows, 0.1)).norm() <= 1e-5 * 0.1 * PATIENTS
