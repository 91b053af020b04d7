"""Which of the connected sites are asked in a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.randomness import derive_seed
from federation.study import Study

Places = NDArray[np.int64]

MOST_DRAWS = 1000
"""After so many draws of too few sites, the round has too few."""


@dataclass
class Known:
    """What the coordinator knows of the sites when it draws.

    Attributes:
        sizes: training patients by site, as far as the sites tell them.
        losses: training loss by site, when it was last heard.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)


def participants(
    study: Study, nodes: Mapping[str, int], round_: int, known: Known | None = None
) -> Mapping[str, int]:
    """Return the nodes that a round asks, by site in order.

    The draw depends on the study's seed, the round, the connected sites and what is known of them;
    all models of a run that are trained by the federation meet the same draws in the same rounds.

    Args:
        study: the resolved study.
        nodes: those that are connected, by site in order.
        round_: from 1.
        known: of the sites; a site whose size is not told counts as the smallest that is.

    >>> from federation.study import Study
    >>> study = Study.model_validate({"study": {"name": "s"}, "task": {"label": "y"},
    ...     "modalities": {"ehr": {}},
    ...     "strategy": {"participation": {"kind": "random", "fraction": 0.25}}})
    >>> len(participants(study, {f"site-{i:02d}": i for i in range(20)}, 1))
    5
    """
    section, names = study.strategy.participation, list(nodes)
    known = known or Known()
    if section.kind == "all":
        return nodes
    draws = np.random.default_rng(derive_seed(study.study.seed, "participation", round_))
    if section.kind == "poisson":
        return {names[place]: nodes[names[place]] for place in _by_chance(study, names, draws)}
    wanted = section.sites
    if wanted is None:
        assert section.fraction is not None
        wanted = max(round(section.fraction * len(nodes)), study.strategy.minimum_sites)
    if wanted >= len(nodes):
        return nodes
    chosen = {
        "random": lambda: draws.choice(len(names), wanted, replace=False),
        "by_size": lambda: _by_size(names, wanted, draws, known),
        "power_of_choice": lambda: _largest_losses(study, names, wanted, draws, known),
    }[section.kind]()
    return {names[place]: nodes[names[place]] for place in np.sort(chosen)}


def _by_chance(study: Study, names: list[str], draws: np.random.Generator) -> Places:
    """Draw each by itself; all again while they are fewer than a round needs."""
    section, needed = study.strategy.participation, study.strategy.minimum_sites
    assert section.fraction is not None
    lucky = np.arange(0)
    for _ in range(MOST_DRAWS):
        lucky = np.flatnonzero(draws.random(len(names)) < section.fraction)
        if len(lucky) >= min(needed, len(names)):
            break
    return lucky


def _by_size(names: list[str], wanted: int, draws: np.random.Generator, known: Known) -> Places:
    """Draw without replacement, with probabilities like the sites' training patients."""
    told = [known.sizes[name] for name in names if name in known.sizes]
    least = min(told, default=1)
    sizes = np.array([max(known.sizes.get(name, least), 1) for name in names], np.float64)
    return draws.choice(len(names), wanted, replace=False, p=sizes / sizes.sum())


def _largest_losses(
    study: Study, names: list[str], wanted: int, draws: np.random.Generator, known: Known
) -> Places:
    """Of candidates drawn by size, take those with the largest loss; unheard sites come first."""
    candidates = study.strategy.participation.candidates
    assert candidates is not None
    drawn = _by_size(names, min(max(candidates, wanted), len(names)), draws, known)
    losses = [known.losses.get(names[place], np.inf) for place in drawn]
    order = np.argsort(-np.array(losses), kind="stable")
    return drawn[order[:wanted]]
