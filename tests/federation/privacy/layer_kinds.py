"""Networks of every kind of layer: with a rule of book-keeping, and those that are run again."""

import math

import torch
from private_models import PATIENTS, Flat, Toy
from torch import nn
from torch.nn import functional as F


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
    """A model of a kind of layer, and a batch for it."""
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
