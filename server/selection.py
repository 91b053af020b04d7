"""Which round's model is measured and kept, and when training may end before the last round."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.models.build import Vector
from federation.study import Study

AVERAGE, BEST, SCORE = "average", "best", "score"


class Selection:
    """Follows one model through its rounds.

    Args:
        study: its ``selection``, and ``strategy.ema``.

    Attributes:
        best_round: the round whose model measured best; 0 before one was measured.
    """

    def __init__(self, study: Study):
        self._section, self._ema = study.selection, study.strategy.ema
        self._lower = study.task.lower_is_better(study.selection.metric)
        self._average: NDArray[np.float64] | None = None
        self._best: Vector | None = None
        self._score = -np.inf
        self._since = 0
        self.best_round = 0

    def average(self, weights: Vector) -> Vector:
        """Take in a round's model; return the one to measure: a moving average where asked."""
        if self._ema is None:
            return weights
        if self._average is None:
            self._average = weights.astype(np.float64)
        else:
            self._average = self._ema * self._average + (1 - self._ema) * weights
        return self.averaged(weights)

    def averaged(self, weights: Vector) -> Vector:
        """Return the model to measure, ``weights`` having been taken in."""
        return weights if self._average is None else self._average.astype(np.float32)

    def see(self, round_: int, metrics: dict[str, Any] | None, weights: Vector) -> None:
        """Note what a round's model measured on the tuning split, if anything could be."""
        value = (metrics or {}).get(self._section.metric)
        if value is None or not self._section.measures:
            return
        score = -value if self._lower else value
        if score > self._score + (self._section.minimum_change if self.best_round else 0.0):
            self._score, self._since, self.best_round = score, 0, round_
            if self._section.keep == "best":
                self._best = weights.copy()
        else:
            self._since += 1

    @property
    def ended(self) -> str:
        """Why training ends now; empty if it goes on."""
        patience = self._section.patience
        if patience is None or self._since < patience:
            return ""
        return (
            f"{self._section.metric} on the tuning split has not improved since round "
            f"{self.best_round}, in {self._since} measurements (selection.patience)"
        )

    def chosen(self, weights: Vector) -> Vector:
        """Return the model to keep, of which ``weights`` is the last that was measured."""
        return weights if self._best is None else self._best

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what the next round follows from."""
        numbers = np.array([self._score, self._since, self.best_round], np.float64)
        kept: dict[str, NDArray[Any]] = {SCORE: numbers}
        if self._average is not None:
            kept[AVERAGE] = self._average
        if self._best is not None:
            kept[BEST] = self._best
        return kept

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on where ``state`` was returned."""
        self._score, since, best = (float(number) for number in state[SCORE])
        self._since, self.best_round = int(since), int(best)
        self._average, self._best = state.get(AVERAGE), state.get(BEST)
