"""What every kind of shift has in common: its table in the file, its scope and its effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from federation.randomness import derive_seed
from federation.tasks import Task
from federation.validation import Section
from simulations.hospitals import Hospital
from simulations.shifts.tables import SiteTables

Floats = NDArray[np.float64]


class ShiftSection(Section):
    """Keys of every ``[[shift]]`` table."""

    kind: str
    strength: float = Field(default=1.0, ge=0, le=1, strict=True)
    sites: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The sites at which it acts; all where it is left away."""


@dataclass(frozen=True)
class Scope:
    """One shift at one site.

    Attributes:
        site: its name.
        sites: names of all sites at which the shift acts, sorted.
        strength: in (0, 1]: the shift's own times the file's.
        seed: of the shift, the same at all its sites.
    """

    site: str
    sites: tuple[str, ...]
    strength: float
    seed: int

    def random(self, *purpose: str | int) -> np.random.Generator:
        """Random numbers of this shift at this site; they do not depend on the strength."""
        return np.random.default_rng(derive_seed(self.seed, self.site, *purpose))

    def shared_random(self, *purpose: str | int) -> np.random.Generator:
        """Random numbers of this shift that all its sites see alike."""
        return np.random.default_rng(derive_seed(self.seed, "all sites", *purpose))


@dataclass(frozen=True)
class Effect:
    """What a shift did at a site.

    Attributes:
        tables: what the site holds now.
        drawn: the site's own parameters, strength included.
        touched: how many patients, labels, events or codes it changed or took away.
        note: why it did nothing, where it did nothing.
    """

    tables: SiteTables
    drawn: Mapping[str, Any]
    touched: Mapping[str, int]
    note: str = ""


@dataclass(frozen=True)
class Place:
    """A synthetic hospital's place in its consortium, and the consortium's seed."""

    index: int
    seed: int


@dataclass(frozen=True)
class Kind:
    """A family of shifts.

    Attributes:
        section: its ``[[shift]]`` table.
        apply: changes what a site has recorded: (section, tables, scope) -> effect.
        in_profile: changes a synthetic hospital before its patients are drawn, where that is
            more right: (section, hospital, scope, place) -> hospital and what was drawn.
        through_logit: whether that changes labels by the logit of deterioration alone.
        unfit: says why it has no meaning for labels of a task; empty if it has.
    """

    section: type[ShiftSection]
    apply: Callable[[Any, SiteTables, Scope], Effect]
    in_profile: (
        Callable[[Any, Hospital, Scope, Place], tuple[Hospital, Mapping[str, Any]]] | None
    ) = None
    through_logit: bool = False
    unfit: Callable[[Any, Task], str] = lambda section, task: ""


def rounded(value: float) -> float:
    """A drawn number as it is recorded.

    >>> rounded(0.123456789)
    0.123457
    """
    return round(float(value), 6)
