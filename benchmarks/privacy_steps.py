"""What a step of DP-SGD costs, next to the same step without privacy.

Three models (an MLP of 20k parameters, a CNN with GroupNorm on 28 x 28 pixels, a transformer of two
blocks over 128 tokens), batches of 64, one thread. The plain step is forward, backward and update;
the private one is the clipped sum of the patients' gradients, noise, and update. Steps of all kinds
are interleaved, so that a busy machine slows all of them alike; the figures are medians of process
time. Memory is the most that a step allocates on top of what was there before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from reporting import Row
from steps import Step, peak_bytes, seconds_of
from torch import Tensor, nn
from torch.nn import functional as F

from federation.privacy.clipping import Mode, clipped_sum

BATCH = 64
MODES = [mode for mode in get_args(Mode) if mode not in ("auto", "book_keeping", "per_patient")]
STEP_GOALS = {"mlp": 1.8, "cnn": 1.7, "transformer": 1.3}
MEMORY_GOAL = 1.5
MEMORY_BATCHES = {"mlp": 512, "cnn": 256, "transformer": 64}


def measure(quick: bool) -> list[Row]:
    """Return the rows of all three models; the quick run leaves Opacus's modes out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        modes = ["book_keeping", *([] if quick else MODES)]
        rows = []
        for name in STEP_GOALS:
            rows += _times(name, modes, 9 if quick else 15)
        for name in STEP_GOALS:
            rows += _memory(name, modes)
        return rows
    finally:
        torch.set_num_threads(threads)


def _times(name: str, modes: list[str], repeats: int) -> list[Row]:
    steps = {"plain": _plain_step(name, BATCH), **{m: _private_step(name, BATCH, m) for m in modes}}
    median = seconds_of(steps, repeats)
    base, rows = median["plain"], []
    for mode in modes:
        ratio, goal = median[mode] / base, STEP_GOALS[name]
        note = f"{mode} {1e3 * median[mode]:.3g} ms a step, plain {1e3 * base:.3g} ms"
        rows.append(_row(f"privacy/step/{name}", mode, ratio, goal, note))
    return rows


def _memory(name: str, modes: list[str]) -> list[Row]:
    batch = MEMORY_BATCHES[name]
    base, rows = peak_bytes(_plain_step(name, batch)), []
    for mode in modes:
        peak = peak_bytes(_private_step(name, batch, mode))
        note = f"{mode} {peak / 2**20:.3g} MiB a step of {batch}, plain {base / 2**20:.3g} MiB"
        rows.append(_row(f"privacy/memory/{name}", mode, peak / base, MEMORY_GOAL, note))
    return rows


def _row(name: str, mode: str, ratio: float, goal: float, note: str) -> Row:
    if mode == "book_keeping":
        return Row(f"{name}/ratio", ratio, goal, 0.0, ratio <= goal, note)
    return Row(f"{name}/{mode}/ratio", ratio, note=f"Opacus's {note}")


def _plain_step(name: str, batch: int) -> Step:
    model, (values, labels) = FlatNetwork(NETWORKS[name]()), _data(name, batch)
    vector, gradient = model.vector.detach(), model.gradient

    def step() -> None:
        gradient.zero_()
        F.cross_entropy(model.module(values, {}), labels).backward()
        vector.add_(gradient, alpha=-1e-3)

    return step


def _private_step(name: str, batch: int, mode: Any) -> Step:
    model, (values, labels) = FlatNetwork(NETWORKS[name]()), _data(name, batch)
    vector, gradient = model.vector.detach(), model.gradient
    clipped = clipped_sum(model, _loss, 1.0, mode)
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        gradient.zero_()
        clipped.add(values, {}, labels)
        gradient.add_(torch.randn(len(gradient), generator=generator))
        vector.add_(gradient, alpha=-1e-3 / batch)

    return step


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


class FlatNetwork:
    """A network whose parameters and gradients are views of two vectors, as a study's are."""

    def __init__(self, network: nn.Module):
        self.module = Called(network).train()
        parameters = list(self.module.parameters())
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.vector = nn.Parameter(flat, requires_grad=False)
        self.gradient = torch.zeros_like(flat)
        self.vector.grad = self.gradient
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.data = flat[start:stop].view(parameter.shape)
            parameter.grad = self.gradient[start:stop].view(parameter.shape)
            start = stop


class Called(nn.Module):
    """A network called as a study's model is."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """values: ``x``, (patients, ...) -> (patients, classes)."""
        logits: Tensor = self.network(values["x"])
        return logits


class Attention(nn.Module):
    """Self-attention out of linear layers."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, tokens, width) -> the same."""
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Attention, then two linear layers, each around its LayerNorm."""

    def __init__(self, width: int = 64, heads: int = 4):
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, tokens, width) -> the same."""
        x = x + self.attend(x)
        return x + self.think(x)


class Pooled(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, tokens, width) -> (patients, width)."""
        return x.mean(1)


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 160), nn.ReLU(), nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 2)
    )


def _cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for below, above, groups in ((1, 16, 4), (16, 32, 8)):
        layers += [nn.Conv2d(below, above, 3, padding=1), nn.GroupNorm(groups, above), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head)


def _transformer() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 64), Block(), Block(), nn.LayerNorm(64), Pooled(), nn.Linear(64, 2)
    )


NETWORKS = {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}
SHAPES = {"mlp": (64,), "cnn": (1, 28, 28), "transformer": (128, 32)}


def _data(name: str, batch: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(batch, *SHAPES[name], generator=generator)
    return {"x": values}, torch.randint(0, 2, (batch,), generator=generator)
