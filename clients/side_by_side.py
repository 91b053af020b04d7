"""Rows of many sites' cohorts side by side, as many for each site, for a stacked model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from clients.fits import Fit, PlainFit, PrivateFit
from clients.training import drop_modalities, one_pass

EVEN = 8
"""Rows of a site are a multiple of it."""
WINDOW = 8
"""Most batches gathered from a cohort in one go."""
GATHERED = 1 << 23
"""Numbers that are gathered at once, of all sites, unless one batch has more."""

Rows = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
"""Values and presence by modality, and labels, of all sites."""


class Passes:
    """A site's passes over its training patients, batch by batch.

    Attributes:
        steps: how many batches the round has.
    """

    def __init__(self, fit: PlainFit, size: int):
        self._fit, self._generator = fit, fit.generator()
        self._batch, self._size = fit.training.batch_size, size
        self._order = fit.rows[:0]
        self._patients: list[int] = []
        self.steps = self._left = fit.training.steps(len(fit.rows))

    @property
    def ready(self) -> int:
        """How many batches are left of the pass; a new one begins with the draw of its order."""
        if not self._patients and self._left:
            order = one_pass(self._fit, self._generator)
            batch, of_all = self._batch, len(order)
            self._patients = [min(batch, of_all - at) for at in range(0, of_all, batch)]
            del self._patients[self._left :]
            order = pad(order, (0, -of_all % batch))
            if self._size != batch:
                order = pad(order.view(-1, batch), (0, self._size - batch)).flatten()
            self._order = order
        return len(self._patients)

    def take(self, batches: int) -> tuple[Tensor, list[int]]:
        """Return the next batches, (batches * size,) rows, and how many of each batch are real.

        After the last one there are batches of nobody.
        """
        if not self._patients:
            return torch.zeros(batches * self._size, dtype=torch.long), [0] * batches
        sizes, self._patients = self._patients[:batches], self._patients[batches:]
        self._left -= batches
        rows = batches * self._size
        taken, self._order = self._order[:rows], self._order[rows:]
        return taken, sizes

    def uniform(self, size: int) -> Tensor:
        """Return numbers in [0, 1), (size,)."""
        return torch.rand(size, generator=self._generator)


def batches_of(
    fits: Sequence[Fit], passes: Sequence[Passes], size: int
) -> Iterator[tuple[Rows, list[int]]]:
    """Yield each step's batches of all sites, and how many patients each site has in its own."""
    modalities = fits[0].cohort.modalities.values()
    row = sum(modality.values[:1].numel() for modality in modalities)
    most = min(max(GATHERED // (len(fits) * size * row), 1), WINDOW)
    while any(ready := [one.ready for one in passes]):
        window = min(most, min(number for number in ready if number))
        taken = [one.take(window) for one in passes]
        together = gathered(fits, [rows for rows, _ in taken], window, size)
        for step in range(window):
            patients = [sizes[step] for _, sizes in taken]
            yield at_step(together, step, multiple(max(patients), EVEN)), patients


def gathered(fits: Sequence[Fit], rows: Sequence[Tensor], steps: int, size: int) -> Rows:
    """Gather rows of each site's cohort, (sites, steps, size, ...) each."""
    device = fits[0].model.device
    shape = len(fits), steps, size

    def gather(tensors: list[Tensor]) -> Tensor:
        out = tensors[0].new_empty(len(fits), steps * size, *tensors[0].shape[1:])
        for into, tensor, which in zip(out, tensors, rows, strict=True):
            torch.index_select(tensor, 0, which, out=into)
        return out.view(*shape, *out.shape[2:]).to(device)

    cohorts = [fit.cohort for fit in fits]
    names = list(cohorts[0].modalities)
    return (
        {name: gather([c.modalities[name].values for c in cohorts]) for name in names},
        {name: gather([c.modalities[name].present for c in cohorts]) for name in names},
        gather([c.labels for c in cohorts]),
    )


def at_step(together: Rows, step: int, size: int) -> Rows:
    """Return what the sites see in one step, the first rows of each, (sites * size, ...)."""
    values, present, labels = together
    return (
        {name: value[:, step, :size].flatten(0, 1) for name, value in values.items()},
        {name: mask[:, step, :size].flatten() for name, mask in present.items()},
        labels[:, step, :size].flatten(),
    )


def dropped(
    present: dict[str, Tensor],
    sizes: Sequence[int],
    probability: float,
    uniform: Sequence[Callable[[int], Tensor]],
) -> dict[str, Tensor]:
    """Hide modalities of the sites' batches, each by its own draws."""
    sites = {name: mask.view(len(sizes), -1) for name, mask in present.items()}
    masks = [
        drop_modalities({k: m[s, :n] for k, m in sites.items()}, probability, draw)
        for s, (n, draw) in enumerate(zip(sizes, uniform, strict=True))
        if n
    ]
    kept = iter(masks)
    return put(present, [next(kept) if n else {} for n in sizes])


def sample_masks(
    fit: PrivateFit, chosen: Tensor, uniform: Callable[[int], Tensor]
) -> dict[str, Tensor]:
    """Return which modalities of a sample are seen, drawn as for physical batches."""
    privacy, dropout = fit.study.privacy, fit.study.fusion.modality_dropout
    present = {name: m.present[chosen] for name, m in fit.cohort.modalities.items()}
    parts = [
        drop_modalities(
            {k: m[start : start + privacy.physical_batch] for k, m in present.items()},
            dropout,
            uniform,
        )
        for start in range(0, len(chosen), privacy.physical_batch)
    ]
    return {k: torch.cat([part[k] for part in parts]) for k in present} if parts else {}


def put(present: dict[str, Tensor], masks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return presence, (sites * size,), with each site's first rows exchanged."""
    sites = {name: mask.view(len(masks), -1).clone() for name, mask in present.items()}
    for s, mask in enumerate(masks):
        for name, seen in mask.items():
            sites[name][s, : len(seen)] = seen.to(sites[name].device)
    return {name: mask.flatten() for name, mask in sites.items()}


def padded(chosen: Sequence[Tensor], steps: int, size: int) -> Tensor:
    """Return rows of a cohort, (steps * size,); where there are too few, the first one."""
    if not chosen:
        return torch.zeros(steps * size, dtype=torch.long)
    short = pad_sequence(list(chosen), batch_first=True)
    return pad(short, (0, size - short.shape[1], 0, steps - short.shape[0])).flatten()


def multiple(number: int, of: int) -> int:
    """Return the least multiple that is no smaller than a number."""
    return -(-number // of) * of
