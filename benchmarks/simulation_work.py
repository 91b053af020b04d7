"""The work that every contender of the simulation benchmark does, in plain PyTorch.

100 patients a site, one local epoch, batches of 32, SGD at 0.05, and the mean of the sites' models.
A contender is a module with ``run(job)``; ``simulation_contender.py`` runs it in a process of its
own. Nothing here needs more than PyTorch and numpy, so that it runs in a peer's environment too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

PATIENTS, BATCH, LEARNING_RATE = 100, 32, 0.05
VALUES, WIDTH = 64, 112
IMAGE, IMAGE_WIDTH = 32, 64

Kind = Literal["mlp", "cnn"]
Data = tuple[Tensor, Tensor]
"""One site's inputs, (patients, ...) float32, and labels, (patients,) float32."""

DISTINCT: dict[Kind, int] = {"mlp": 50, "cnn": 20}
"""Sites whose content differs; the others repeat it. What the numbers are does not matter for
time, and the DICOM files of a thousand sites would be a hundred thousand."""


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        model: an MLP of 20k parameters over 64 values, or a CNN of 126k over 32 x 32 pixels.
        sites: how many there are.
        sampled: how many of them train in a round.
    """

    model: Kind
    sites: int
    sampled: int

    @property
    def name(self) -> str:
        """As rows are called: ``mlp_20_of_1000``."""
        return f"{self.model}_{self.sampled}_of_{self.sites}"

    def asked(self, round_: int) -> list[int]:
        """Return the sites that train in a round."""
        if self.sampled == self.sites:
            return list(range(self.sites))
        drawn = np.random.default_rng(round_).choice(self.sites, self.sampled, replace=False)
        return sorted(int(site) for site in drawn)


@dataclass
class Stopwatch:
    """When rounds ended.

    Attributes:
        first: when the first round ended, by ``time.monotonic()``, which all processes share.
        rounds: seconds of each round after it.
    """

    first: float | None = None
    rounds: list[float] = field(default_factory=list)
    _last: float = 0.0

    def round_done(self) -> None:
        """Note that a round ended now."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        else:
            self.rounds.append(now - self._last)
        self._last = now

    def restart(self) -> None:
        """Count the next round from now: what lies between was no round."""
        self.rounds.clear()
        self._last = time.monotonic()


@dataclass(frozen=True)
class Job:
    """What one contender does in one process.

    Attributes:
        column: the work.
        rounds: rounds after the first.
        workers: processes that train, where a contender has them; 0 for its own process.
        folder: of the sites' files, for a contender that reads them.
        watch: told of each round.
    """

    column: Column
    rounds: int
    workers: int = 0
    folder: str = ""
    watch: Stopwatch = field(default_factory=Stopwatch)


class PlainCnn(nn.Module):
    """The layers of our registry's ``small_cnn`` and a linear head, as a researcher writes them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for below, above in ((1, 16), (16, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(below, above, 3, stride=2, padding=1)]
            layers += [nn.GroupNorm(8, above), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, IMAGE_WIDTH), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(IMAGE_WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, 1, 32, 32) in [0, 1] -> logits, (patients, 1)."""
        logits: Tensor = self.layers(x - 0.5)
        return logits


def plain_module(kind: Kind) -> nn.Module:
    """Return the initial model, always the same: (patients, ...) -> logits, (patients, 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if kind == "cnn":
            return PlainCnn()
        return nn.Sequential(
            nn.Linear(VALUES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, 1),
        )  # fmt: skip


def site_arrays(kind: Kind, site: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a site's patients.

    Returns:
        (patients, 64) of standard normal values, labelled by the sign of a weighted sum; or
        (patients, 1, 32, 32) of noise in [0, 1] with labels at random. And (patients,) labels.
    """
    rng = np.random.default_rng(site % DISTINCT[kind])
    if kind == "cnn":
        x = rng.random((PATIENTS, 1, IMAGE, IMAGE), dtype=np.float32)
        return x, rng.random(PATIENTS) < 0.5
    x = rng.standard_normal((PATIENTS, VALUES)).astype(np.float32)
    return x, x @ np.linspace(-1, 1, VALUES) > 0


def site_data(kind: Kind, site: int) -> Data:
    """Return a site's patients as tensors."""
    x, y = site_arrays(kind, site)
    return torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))


def in_order(patients: int) -> list[slice]:
    """Return the batches of an epoch over patients as they lie: they were drawn at random."""
    return [slice(start, start + BATCH) for start in range(0, patients, BATCH)]


def train_site(module: nn.Module, data: Data, batches: Iterable[slice | Tensor]) -> None:
    """Train a module in place for the steps of one site's round."""
    x, y = data
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    for rows in batches:
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(module(x[rows]).squeeze(-1), y[rows]).backward()
        optimizer.step()
