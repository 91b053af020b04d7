"""Book-keeping: every kind of layer, shared, frozen and unknown ones, and what it must not do."""

import gc
import math

import pytest
import torch
from private_models import (
    PATIENTS,
    Flat,
    Toy,
    added,
    bce,
    clipping_norms,
    expected_sum,
    first,
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


class Attention(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        def split(y):
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Embedded words and places, and one block."""

    def __init__(self, width=8, attention=None, words=11, tokens=5):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.places = nn.Embedding(tokens, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention or Attention(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        places = torch.arange(x.shape[1]).expand(len(x), -1)
        y = self.words(x) + self.places(places)
        y = y + self.attention(self.before(y))
        return (y + self.narrow(F.gelu(self.wide(self.after(y))))).mean(1)


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.sin(self.layer(x)))


class TwiceLooked(nn.Module):
    """An embedding looked up for words and, in other numbers, for pairs of them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 4, padding_idx=0)

    def forward(self, x):
        return torch.sin(self.words(x)).sum(1) * self.words(x[:, 1:]).cos().sum(1)


class Bare(nn.Module):
    """Parameters of its own around a layer that is called."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(6))
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x * self.token) + self.layer(self.token.expand(len(x), -1))


class SelfAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.both = nn.Linear(6, 4), nn.Bilinear(6, 4, 3)

    def forward(self, x):
        return self.both(x, self.left(x).tanh())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.down(self.up(x).tanh())


class Channels(nn.Module):
    """Convolutions of an image whose channels lie last in memory."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 3)
        )

    def forward(self, x):
        return self.layers(x.contiguous(memory_format=torch.channels_last))


def frozen(layer, *names):
    for name in names:
        getattr(layer, name).requires_grad_(False)
    return layer


def numbers(*shape):
    return lambda: torch.randn(PATIENTS, *shape)


def words(tokens=5):
    return lambda: torch.randint(0, 11, (PATIENTS, tokens))


KNOWN = {
    "linear without bias": (lambda: nn.Linear(6, 3, bias=False), numbers(6)),
    "linear of few tokens": (lambda: nn.Linear(32, 32), numbers(3, 32)),
    "linear of many tokens": (lambda: nn.Linear(6, 5), numbers(9, 6)),
    "linear of a grid of tokens": (lambda: nn.Linear(6, 5), numbers(3, 3, 6)),
    "layers of few tokens": (
        lambda: nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32, bias=False)),
        numbers(2, 2, 32),
    ),
    "layers of many tokens": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5, bias=False)),
        numbers(9, 6),
    ),
    "in-place activations": (
        lambda: nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(inplace=True), nn.LayerNorm(5), nn.ReLU(True), nn.Linear(5, 2)
        ),
        numbers(6),
    ),
    "transformer": (Transformer, words()),
    "embedding of one index": (lambda: nn.Embedding(11, 4), words(1)),
    "embedding of one index or padding": (lambda: nn.Embedding(11, 4, padding_idx=0), words(1)),
    "embedding of one vector": (lambda: nn.Embedding(1, 4), lambda: words(3)() * 0),
    "embedding looked up twice": (TwiceLooked, words()),
    "linear called twice": (lambda: Twice(nn.Linear(6, 6)), numbers(6)),
    "linear of tokens called twice": (lambda: Twice(nn.Linear(6, 6)), numbers(9, 6)),
    "convolution called twice": (lambda: Twice(nn.Conv1d(4, 4, 3, padding=1)), numbers(4, 9)),
    "layer norm called twice": (lambda: Twice(nn.LayerNorm(6)), numbers(4, 6)),
    "group norm called twice": (lambda: Twice(nn.GroupNorm(2, 4)), numbers(4, 3, 3)),
    "one layer in two places": (
        lambda: (lambda layer: nn.Sequential(layer, nn.Tanh(), layer))(nn.Linear(6, 6)),
        numbers(6),
    ),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), numbers(4, 15)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), bias=False), numbers(3, 8, 9)),
    "convolution larger than what it sees": (
        lambda: nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 16, 3)),
        numbers(16, 3, 3),
    ),
    "convolution larger than what it sees, without bias": (
        lambda: nn.Conv1d(32, 32, 3, groups=2, bias=False),
        numbers(32, 4),
    ),
    "convolution larger than what it sees, called twice": (
        lambda: Twice(nn.Conv1d(32, 32, 3, padding=1)),
        numbers(32, 4),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding=1), numbers(2, 4, 5, 6)),
    "grouped convolution": (lambda: nn.Conv2d(4, 8, 3, groups=2, dilation=2), numbers(4, 8, 8)),
    "depthwise convolution": (lambda: nn.Conv2d(4, 8, 3, groups=4), numbers(4, 8, 8)),
    "convolution padded to the same size": (
        lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=2),
        numbers(2, 9, 9),
    ),
    "channels last": (Channels, numbers(4, 9, 9)),
    "group norm": (
        lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh(), nn.GroupNorm(4, 4, affine=False)),
        numbers(4, 5),
    ),
    "group norm of rows": (lambda: nn.GroupNorm(2, 6), numbers(6)),
    "layer norm over two dimensions": (lambda: nn.LayerNorm((3, 4)), numbers(2, 3, 4)),
    "layer norm of rows": (
        lambda: nn.Sequential(
            nn.LayerNorm(6, bias=False), nn.LayerNorm(6, elementwise_affine=False)
        ),
        numbers(6),
    ),
    "frozen weights": (
        lambda: nn.Sequential(
            frozen(nn.Conv1d(3, 4, 3), "weight"),
            frozen(nn.GroupNorm(2, 4), "bias"),
            frozen(nn.Linear(7, 6), "weight"),
            frozen(nn.Linear(6, 6), "weight", "bias"),
            frozen(nn.LayerNorm(6), "weight"),
            frozen(nn.Linear(6, 2), "bias"),
        ),
        numbers(3, 9),
    ),
    "frozen weights of rows": (
        lambda: nn.Sequential(frozen(nn.Linear(6, 6), "weight"), frozen(nn.Linear(6, 2), "bias")),
        numbers(6),
    ),
    "a layer whose output is not used": (
        lambda: nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)]),
        numbers(6),
    ),
}
REPLAYED = {
    "convolution with reflected edges": (
        lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"),
        numbers(3, 9),
    ),
    "convolution with uneven padding": (lambda: nn.Conv1d(3, 4, 4, padding="same"), numbers(3, 9)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), numbers(3, 5, 5)),
    "prelu": (lambda: nn.Sequential(nn.Linear(6, 4), nn.PReLU(4), nn.Linear(4, 2)), numbers(6)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4)), numbers(3, 6)),
    "rms norm called twice": (lambda: Twice(nn.RMSNorm(6)), numbers(3, 6)),
    "torch's attention": (lambda: Transformer(8, SelfAttention(8)), words()),
    "torch's encoder": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        numbers(3, 8),
    ),
    "bare parameters": (Bare, numbers(6)),
    "two inputs": (TwoInputs, numbers(6)),
    "tied weights": (Tied, numbers(6)),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        numbers(6),
    ),
}


class FirstOnly(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        self.layers[1](x)
        return self.layers[0](x)


def built(kind, seed=0):
    torch.manual_seed(seed)
    make, inputs = {**KNOWN, **REPLAYED}[kind]
    net = make()
    if isinstance(net, nn.ModuleList):
        net = FirstOnly(net)
    for parameter in net.parameters():  # norms begin as ones and zeros, where mistakes hide
        parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    model = Flat(Toy(nn.Sequential(net, nn.Tanh())))
    model.module.train()
    return model, ({"x": inputs()}, {}, (torch.arange(PATIENTS) % 2).float())


@pytest.mark.parametrize("kind", [*KNOWN, *REPLAYED])
def test_clipped_sum_of_any_layer_equals_the_loop_over_patients(kind):
    model, batch = built(kind)
    rows = gradients(model, batch)
    assert (rows != 0).any(0).sum() > 0
    for norm in clipping_norms(rows):
        clipped = clipped_sum(model, bce, norm, "book_keeping")
        for patients in (0, 1, PATIENTS):
            found = added(model, clipped, first(batch, patients))
            error = (found - expected_sum(rows[:patients], norm)).norm()
            assert error <= 1e-5 * norm * max(patients, 1)
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
        clipped = clipped_sum(model, bce, norm, "book_keeping")
        for i in range(PATIENTS):
            found = added(model, clipped, part(batch, slice(i, i + 1)))
            assert found.norm() <= norm * (1 + 1e-5)


def test_model_in_float64_is_summed_in_float64():
    torch.manual_seed(0)
    model = Flat(Toy(nn.Sequential(nn.Linear(32, 32), nn.Tanh())).double())
    batch = ({"x": torch.randn(PATIENTS, 3, 32, dtype=torch.float64)}, {}, torch.ones(PATIENTS))
    rows = gradients(model, batch)
    found = added(model, clipped_sum(model, bce, 0.1), batch)
    assert (found - expected_sum(rows, 0.1)).norm() <= 1e-5 * 0.1 * PATIENTS
