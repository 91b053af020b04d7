"""What a strategy does in each step of local training, beside the gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clients.fits import Fit
from federation.bodies import LARGEST_VARIANCE
from federation.models.build import Vector


class Steering:
    """What strategies do in each step of one model, or of several, the rows of a matrix.

    Args:
        fits: one for each row; of one study and strategy.
        vector: (parameters,), or (fits, at least the parameters).
    """

    def __init__(self, fits: Sequence[Fit], vector: torch.nn.Parameter):
        assert vector.grad is not None
        self._rows = vector.detach().view(len(fits), -1)
        self._gradients = vector.grad.view(len(fits), -1)
        first = fits[0]
        pulls = [fit.pull for fit in fits if fit.pull is not None]
        directions = [pull.direction for pull in pulls if pull.direction is not None]
        anchors = [pull.anchor for pull in pulls if pull.anchor is not None]
        self._strength = pulls[0].strength if pulls else 0.0
        self._directions = self._matrix(directions) if directions else None
        self._anchors = self._matrix(anchors) if self._strength else None
        held = (*first.held, *first.model.frozen)
        self._held = [(part.start, part.stop) for part in held]
        self._starts = self._matrix([fit.start for fit in fits]) if held else None
        slowed = [fit.slowed for fit in fits if fit.slowed is not None]
        self._slowed = torch.tensor(slowed, device=vector.device).unsqueeze(1) if slowed else None
        self._sum = torch.zeros_like(self._gradients) if first.watched else None
        self._squares = torch.zeros(len(fits), dtype=torch.float64, device=vector.device)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do, so that a step need not make the gradient."""
        todo = self._slowed, self._directions, self._anchors, self._sum, self._starts
        return all(one is None for one in todo)

    def before_step(self) -> None:
        """Watch the gradients, slow them, then add the pulls to them."""
        if self._sum is not None:
            self._sum += self._gradients
            self._squares += self._gradients.double().square().sum(1)
        if self._slowed is not None:
            self._gradients.mul_(self._slowed)
        if self._directions is not None:
            self._gradients.add_(self._directions)
        if self._anchors is not None:
            self._gradients.add_(self._rows - self._anchors, alpha=self._strength)

    def after_step(self) -> None:
        """Put back what is held."""
        if self._starts is not None:
            for start, stop in self._held:
                self._rows[:, start:stop] = self._starts[:, start:stop]

    def variances(self, steps: Sequence[int]) -> list[float | None]:
        """Return the squared standard error of each row's mean gradient over so many steps."""
        if self._sum is None:
            return [None] * len(steps)
        of_sum = self._sum.double().square().sum(1)
        return [
            _variance(float(squares - total / k), k)
            for squares, total, k in zip(self._squares, of_sum, steps, strict=True)
        ]

    def _matrix(self, vectors: Sequence[Vector]) -> Tensor:
        """Put vectors into rows as long as the parameters', the rest zero."""
        found = torch.zeros_like(self._rows)
        for row, vector in zip(found, vectors, strict=True):
            row[: len(vector)] = torch.from_numpy(vector.copy())
        return found


def _variance(apart: float, steps: int) -> float | None:
    """Return the squared standard error of a mean; None of one step, or if training diverged."""
    found = max(apart, 0.0) / (steps * (steps - 1)) if steps > 1 else None
    return found if found is not None and found <= LARGEST_VARIANCE else None
