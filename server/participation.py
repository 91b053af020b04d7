"""Which of the connected sites are asked in a round."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.randomness import derive_seed
from federation.study import Study


def participants(study: Study, nodes: Mapping[str, int], round_: int) -> Mapping[str, int]:
    """Return the nodes that a round asks, by site in order.

    The draw depends on the study's seed, the round and the connected sites; all models of a run
    that are trained by the federation meet the same sites in the same rounds.

    Args:
        study: the resolved study.
        nodes: those that are connected, by site in order.
        round_: from 1.

    >>> from federation.study import Study
    >>> study = Study.model_validate({"study": {"name": "s"}, "task": {"label": "y"},
    ...     "modalities": {"ehr": {}},
    ...     "strategy": {"participation": {"kind": "random", "fraction": 0.25}}})
    >>> len(participants(study, {f"site-{i:02d}": i for i in range(20)}, 1))
    5
    """
    section = study.strategy.participation
    if section.kind == "all":
        return nodes
    wanted = section.sites
    if wanted is None:
        assert section.fraction is not None
        wanted = max(round(section.fraction * len(nodes)), study.strategy.minimum_sites)
    if wanted >= len(nodes):
        return nodes
    draws = np.random.default_rng(derive_seed(study.study.seed, "participation", round_))
    names = list(nodes)
    chosen = np.sort(draws.choice(len(names), wanted, replace=False))
    return {names[place]: nodes[names[place]] for place in chosen}
