"""Whoever sends weights of whatever magnitude, no patient adds more than C, or else nothing."""

import random
import zlib

import pytest
import torch
from private_models import PATIENTS, Flat, Toy, added, bce
from torch import nn
from torch.nn import functional as F

from federation.privacy.clipping import clipped_sum
from federation.privacy.norms import row_squares

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # torch on vmap
]

OWN = ("book_keeping", "per_patient")
OPACUS = ("hooks", "functorch", "ew")
CLIPPING_NORMS = (1e-30, 1e-12, 1e-3, 1.0, 1e4)
SLACK = 1e-20
"""Of rounding up from zero."""


class Loose(nn.Module):
    """Parameters of its own, which no rule knows."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return x * self.scale + self.shift


def numbers(*shape):
    return lambda: torch.randn(PATIENTS, *shape)


def words(*shape):
    return lambda: torch.randint(0, 5, (PATIENTS, *shape))


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), numbers(6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), numbers(6)),
    "linear of few tokens": (lambda: nn.Linear(32, 32), numbers(2, 32)),
    "linear of many tokens": (lambda: nn.Linear(6, 5), numbers(9, 6)),
    "embedding": (lambda: nn.Embedding(5, 4, padding_idx=0), words(6)),
    "embedding of one index": (lambda: nn.Embedding(5, 4), words(1)),
    "convolution": (lambda: nn.Conv1d(2, 3, 3), numbers(2, 9)),
    "convolution larger than what it sees": (lambda: nn.Conv1d(32, 32, 3), numbers(32, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), numbers(4, 5)),
    "layer norm": (lambda: nn.LayerNorm(6), numbers(3, 6)),
    "bare parameters": (Loose, numbers(6)),
}


class Between(nn.Module):
    """A layer between a linear one, where its input is of numbers, and one more."""

    def __init__(self, layer, x):
        super().__init__()
        self.first = nn.Linear(x.shape[-1], x.shape[-1]) if x.is_floating_point() else nn.Identity()
        self.layer = layer
        with torch.no_grad():
            self.last = nn.Linear(layer(x).shape[-1], 3)

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


def magnitudes(dice):
    """Of an input, of each of its layers' weights, and of the loss: any, or such as cancel out."""
    x, first, layer, last, loss = (10 ** dice.uniform(-38, 38) for _ in range(5))
    kind = dice.random()
    if kind < 0.3:  # a gradient of which float32 takes the square for 0
        x, first, last, layer = 10 ** dice.uniform(0, 18), 1.0, 1.0, 10 ** dice.uniform(-38, 0)
        loss = 10 ** dice.uniform(-29, -22)
    elif kind < 0.8:  # input and gradient of the layer far apart, their product in reach
        x = 10 ** dice.uniform(-19, 38)
        first, last, layer = 1.0, 1.0, 10 ** dice.uniform(-38, 0)
        loss = min(max(10 ** dice.uniform(-4, 9) / x, 1e-38), 1e38)
    return x, first, layer, last, loss


UNABLE = {("embedding of one index", "ew"), ("bare parameters", "ew")}
"""Torch has no expanded weights for these."""
PAIRS = [(k, mode) for k in LAYERS for mode in (*OWN, *OPACUS) if (k, mode) not in UNABLE]


def single(batch, i):
    return {"x": batch[i : i + 1]}, {}, torch.ones(1)


@pytest.mark.parametrize(("kind", "mode"), PAIRS)
def test_no_magnitude_of_weights_inputs_or_losses_passes_the_clipping_norm(kind, mode):
    torch.manual_seed(0)
    dice = random.Random(zlib.crc32(kind.encode()))
    make, inputs = LAYERS[kind]
    at_first = inputs()
    model = Flat(Toy(Between(make(), at_first)))
    model.module.train()
    net, start = model.module.net, model.vector.detach().clone()
    scaled = 1.0
    sums = [clipped_sum(model, lambda z, y: z * scaled, c, mode) for c in CLIPPING_NORMS]
    moved = 0
    for trial in range(45 if mode in OWN else 15):
        size, first, layer, last, scaled = magnitudes(dice)
        with torch.no_grad():
            model.vector.copy_(start)
            for part, factor in ((net.first, first), (net.layer, layer), (net.last, last)):
                for parameter in part.parameters():
                    parameter.mul_(factor)
        x = at_first * size if at_first.is_floating_point() else at_first
        for clipped, norm in zip(sums, CLIPPING_NORMS, strict=True):
            found = added(model, clipped, single(x, trial % PATIENTS)).norm()
            assert found <= norm * (1 + 1e-5) + (SLACK if mode == "book_keeping" else 1e-4 * SLACK)
            moved += bool(found > 0)
    assert moved > 3


@pytest.mark.parametrize("mode", [*OWN, *OPACUS])
def test_hidden_layer_of_huge_numbers_below_a_saturated_loss_is_clipped(mode):
    """The attack: inputs of 1e18 times gradients of 1e-23, whose squares float32 takes for 0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    model = Flat(Toy(net))
    model.module.train()
    with torch.no_grad():
        model.vector.zero_()
        net[0].bias.fill_(1e18)
        net[2].bias.fill_(1e-3)
        net[4].weight.fill_(1.0)
        net[4].bias.fill_(-52.2)
    batch = {"x": torch.randn(1, 6)}, {}, torch.zeros(1)
    for norm in (1e-6, 1e-4):
        found = added(model, clipped_sum(model, bce, norm, mode), batch)
        assert found.norm() <= norm * (1 + 1e-5)


@pytest.mark.parametrize("mode", [*OWN, *OPACUS])
@pytest.mark.parametrize("tokens", [(), (2,), (9,)])
@pytest.mark.parametrize("size", [1e25, 1e30, 3e38])
def test_input_whose_square_is_infinite_adds_nothing_and_leaves_others_alone(mode, tokens, size):
    torch.manual_seed(0)
    model = Flat(Toy(nn.Linear(32, 32)))
    model.module.train()
    x = torch.randn(PATIENTS, *tokens, 32)
    clipped = clipped_sum(model, lambda z, y: z * y, 0.1, mode)
    labels = torch.ones(PATIENTS)
    labels[2] = 1e-30  # the gradient itself is in reach
    without = torch.arange(PATIENTS) != 2
    expected = added(model, clipped, ({"x": x[without]}, {}, labels[without]))
    x[2] *= size
    found = added(model, clipped, ({"x": x}, {}, labels))
    if mode == "book_keeping" and tokens != (9,):  # elsewhere it can be had, and be clipped
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert (found - expected).norm() <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("mode", [*OWN, *OPACUS])
@pytest.mark.parametrize("tokens", [(), (2,), (9,)])
@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e-12, 1e12, 1e18])
def test_input_and_gradient_far_apart_make_an_ordinary_gradient(mode, tokens, size):
    torch.manual_seed(0)
    model = Flat(Toy(nn.Linear(32, 32, bias=False)))
    model.module.train()
    x = torch.randn(1, *tokens, 32) * size
    clipped = clipped_sum(model, lambda z, y: z / size * 1e3, 0.5, mode)
    found = added(model, clipped, ({"x": x}, {}, torch.ones(1))).norm()
    assert found <= 0.5 * (1 + 1e-5)
    if 1e-12 <= size <= 1e12:
        assert found >= 0.5 * (1 - 1e-5)


class Weighed(nn.Module):
    """A linear layer whose tokens weigh differently in the loss."""

    def __init__(self, width, weights):
        super().__init__()
        self.layer = nn.Linear(width, width, bias=False)
        self.register_buffer("weights", weights)

    def forward(self, x):
        return self.layer(x) * self.weights[:, None]


@pytest.mark.parametrize("mode", [*OWN, *OPACUS])
@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize(("width", "tokens"), [(64, 24), (512, 250)])
def test_tokens_that_cancel_but_all_round_upwards_stay_below_the_norm(mode, size, width, tokens):
    root = 2.0**-12
    weights = torch.full((tokens,), root)
    weights[[0, -1]] = 1.0
    x = torch.full((tokens,), 1.02 * root, dtype=torch.float64)  # each adds half a bit, and more
    x[0] = 1.0
    x[-1] = -(x[:-1] * weights[:-1]).sum()
    model = Flat(Toy(Weighed(width, weights)))
    model.module.train()
    one = (x.float() * size)[None, :, None].expand(1, tokens, width).contiguous()
    scale = tokens * width / size
    for norm in (1e-9, 1e-3):
        clipped = clipped_sum(model, lambda z, y: z * scale, norm, mode)
        found = added(model, clipped, ({"x": one}, {}, torch.ones(1))).norm()
        assert found <= norm * (1 + 1e-5) + SLACK


def test_many_small_numbers_are_not_lost_to_a_large_one():
    values = torch.full((1, 1 << 20), 2.0**-13)
    values[0, :64] = 1.0
    found = row_squares(values).double()
    torch.testing.assert_close(found, values.double().square().sum(1), rtol=1e-6, atol=0)


def test_numbers_whose_squares_are_lost_count_for_more_than_they_are():
    values = torch.tensor([[1e-45], [1e-38], [1e-23], [1e-20], [3e-13], [1.0], [1e18]])
    found = row_squares(values).double()
    exact = values.double().square().sum(1)
    assert (found >= exact * (1 - 1e-6)).all()
    torch.testing.assert_close(found[5:], exact[5:], rtol=1e-6, atol=0)
    assert row_squares(torch.tensor([[1e20]])).isinf().all()


@pytest.mark.parametrize("mode", OWN)
def test_autocast_does_not_reach_the_clipped_sum(mode):
    torch.manual_seed(0)
    model = Flat(Toy(nn.Sequential(nn.Linear(32, 32), nn.Tanh())))
    batch = {"x": torch.randn(PATIENTS, 3, 32)}, {}, torch.ones(PATIENTS)
    clipped = clipped_sum(model, bce, 0.1, mode)
    expected = added(model, clipped, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = added(model, clipped, batch)
        assert F.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype == torch.bfloat16
    assert torch.equal(found, expected)
