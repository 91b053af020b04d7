"""Local training of many sites at once: their small models as one stacked model.

Each site draws from its own generator what it would draw alone, in the same order. Batches are
filled up to one size with rows that weigh nothing, so that what a site computes has the same shape
whoever is beside it: its result is the same to the last bit in any company, and to float32's
rounding what `clients.training.train_alone` finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad
from torch.nn.utils.rnn import pad_sequence

from clients.training import (
    Fit,
    Fitted,
    PlainFit,
    PrivateFit,
    batches,
    drop_modalities,
    make_optimizer,
    positive_weight,
    train_alone,
)
from clients.workbench import Workbench
from federation.models.losses import patient_losses
from federation.models.stacked import MOST_AT_ONCE, StackedModel, can_stack
from federation.privacy.book_keeping import BookKeeping
from federation.privacy.engine import poisson_sample
from federation.privacy.noise import grid, on_grid
from federation.privacy.stacked_layers import stacked_rule_for

Result = Callable[[], Fitted]
"""What came of training a site's model; raises what training it raised."""

LANES = 32
"""Exponentials are taken of so many numbers at a time; what is left over is computed otherwise, so
nothing is left over."""
EVEN = 8
"""Rows of a site are a multiple of it."""
WINDOW = 8
"""Batches gathered from a cohort in one go."""
ROOM = 2.8
"""Standard deviations of a Poisson sample's size for which there is room; the rest of a larger
sample, one in 400, takes another pass."""

Rows = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
"""Values and presence by modality, and labels, of all sites."""


class NotTogether(Exception):
    """A patient's gradient is not finite; each site must leave out its own."""


def train_all(fits: Sequence[Fit], workbench: Workbench) -> Iterator[Result]:
    """Train sites' models, several at once where they are small.

    Which way follows from the study, for one site as for many, and not from who is asked at once.

    Args:
        fits: of one study.
        workbench: keeps the stacked models; its ``together`` says whether there may be any.

    Yields:
        One result for each fit; nothing is trained before it is asked for.
    """
    for start in range(0, len(fits), MOST_AT_ONCE):
        group = fits[start : start + MOST_AT_ONCE]
        if workbench.together and _stackable(group[0]):
            yield from _Group(group, workbench).results()
        else:
            yield from (partial(train_alone, fit) for fit in group)


def _stackable(fit: Fit) -> bool:
    if isinstance(fit, PrivateFit):
        # Outside of simulations nothing repeats the draws, and one site is trained at a time.
        usual = fit.clipped.mode == "book_keeping" and fit.randomness().seeded
        if not usual or _sample_size(fit) > fit.study.privacy.physical_batch:
            return False
    return can_stack(fit.model)


class _Group:
    """Fits that are trained together when the first result is asked for."""

    def __init__(self, fits: Sequence[Fit], workbench: Workbench):
        self._fits, self._workbench = fits, workbench
        self._found: list[Fitted] | None = None
        self._tried = False

    def results(self) -> list[Result]:
        """Return the results of the fits, not yet computed."""
        return [partial(self._result, place) for place in range(len(self._fits))]

    def _result(self, place: int) -> Fitted:
        if not self._tried:
            self._tried = True
            self._found = self._together()
        return train_alone(self._fits[place]) if self._found is None else self._found[place]

    def _together(self) -> list[Fitted] | None:
        """Train the group; None if each site must be trained alone."""
        stacked = self._workbench.stacked(self._fits[0].model, len(self._fits))
        private = [fit for fit in self._fits if isinstance(fit, PrivateFit)]
        try:
            if private:
                return privately_together(private, stacked)
            return plainly_together([f for f in self._fits if isinstance(f, PlainFit)], stacked)
        except NotTogether:
            return None


def plainly_together(fits: Sequence[PlainFit], stacked: StackedModel) -> list[Fitted]:
    """Train several sites of one study without privacy.

    Args:
        fits: as many as the stacked model has copies.
        stacked: of the fits' model.
    """
    training, dropout = fits[0].study.training, fits[0].study.fusion.modality_dropout
    size = _multiple(training.batch_size, EVEN)
    window = 1 if dropout else WINDOW  # dropout is drawn between batches
    generators = [fit.generator() for fit in fits]
    sources = [batches(f.rows, training, g) for f, g in zip(fits, generators, strict=True)]
    weights = [positive_weight(fit.cohort.labels[fit.rows], fit.study) for fit in fits]
    balanced = any(weight is not None for weight in weights)
    per_row = torch.cat([(torch.ones(()) if w is None else w).expand(size) for w in weights])
    per_row = _filled(per_row.to(stacked.device))
    ends = [training.steps(len(fit.rows)) for fit in fits]
    losses: list[list[float]] = [[] for _ in fits]

    def gathered() -> Iterator[tuple[Rows, Tensor]]:
        while True:
            chosen = [list(islice(source, window)) for source in sources]
            steps = max(map(len, chosen))
            if not steps:
                return
            sizes = [[len(b) for b in some] + [0] * (steps - len(some)) for some in chosen]
            rows = [_padded(some, steps, size) for some in chosen]
            together = _inputs(fits, rows, steps, size)
            for step, n in enumerate(torch.tensor(sizes).t()):
                yield _at(together, step), n

    optimizer = make_optimizer(stacked.vector, training.optimizer)
    results = _Results(fits, stacked)
    for step, ((values, present, labels), n) in enumerate(gathered(), start=1):
        if dropout:
            present = _dropped(present, n.tolist(), dropout, [_uniform(g) for g in generators])
        factors = _shares(n, size, stacked.device)

        def loss(logits: Tensor, labels: Tensor = labels) -> Tensor:
            found = binary_cross_entropy_with_logits(
                _filled(logits),
                _filled(labels),
                reduction="none",
                pos_weight=per_row if balanced else None,
            )
            return found[: len(logits)]

        found = stacked.set_gradient(values, present, loss, factors)
        for one, mean in zip(
            losses, (found * factors).view(len(fits), -1).sum(1).tolist(), strict=True
        ):
            one.append(mean)
        optimizer.step()
        results.keep(step, ends)
    return [
        Fitted.of(weights, one[:end], end)
        for weights, one, end in zip(results.weights, losses, ends, strict=True)
    ]


def privately_together(fits: Sequence[PrivateFit], stacked: StackedModel) -> list[Fitted]:
    """Train several sites of one study by DP-SGD.

    Args:
        fits: as many as the stacked model has copies.
        stacked: of the fits' model.

    Raises:
        NotTogether: if the gradient of some patient is not finite.
    """
    study, gradient = fits[0].study, stacked.vector.grad
    assert gradient is not None
    norm, dropout = study.privacy.max_grad_norm, study.fusion.modality_dropout
    size = _sample_size(fits[0])
    clipped = BookKeeping(stacked, _weighted_losses, norm, stacked_rule_for)
    sources, ends = [fit.randomness() for fit in fits], [fit.segment.steps for fit in fits]
    rates = [fit.segment.sampling_rate for fit in fits]
    deviations = [fit.segment.noise_multiplier * norm for fit in fits]
    scale = torch.tensor(deviations).unsqueeze(1)
    grids = torch.tensor([grid(deviation) for deviation in deviations]).unsqueeze(1)
    expectations = torch.tensor(
        [rate * len(fit.rows) for rate, fit in zip(rates, fits, strict=True)]
    ).unsqueeze(1)
    parameters = len(fits[0].model.vector)
    noise = torch.zeros(gradient.shape)
    optimizer = make_optimizer(stacked.vector, study.training.optimizer)
    results = _Results(fits, stacked)
    for step in range(1, max(ends) + 1):
        going = [step <= end for end in ends]
        chosen = [
            poisson_sample(fit.rows, rate, source) if on else fit.rows[:0]
            for fit, rate, source, on in zip(fits, rates, sources, going, strict=True)
        ]
        masks = None
        if dropout:
            masks = [
                _masks(fit, some, source.uniform)
                for fit, some, source in zip(fits, chosen, sources, strict=True)
            ]
        gradient.zero_()
        for start in range(0, max(map(len, chosen)), size):
            part = [some[start : start + size] for some in chosen]
            rows = [_padded([some], 1, size) for some in part]
            values, present, labels = _at(_inputs(fits, rows, 1, size), 0)
            if masks is not None:
                some = [{k: m[start : start + size] for k, m in mask.items()} for mask in masks]
                present = _put(present, some)
            real = _shares(torch.tensor([len(some) for some in part]), size, stacked.device) > 0
            if clipped(values, present, torch.stack([labels, real.float()], 1)) is not None:
                raise NotTogether
        for row, source, on in zip(noise, sources, going, strict=True):
            if on:
                row[:parameters] = source.normal(parameters)
        noised = on_grid(noise, gradient.cpu(), scale, grids)
        gradient.copy_(noised.div_(expectations))
        optimizer.step()
        results.keep(step, ends)
    return [Fitted(w, None, end) for w, end in zip(results.weights, ends, strict=True)]


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def _sample_size(fit: Fit) -> int:
    """Return how many rows each site has in a private step."""
    expected = fit.study.training.batch_size
    return _multiple(math.ceil(expected + ROOM * math.sqrt(expected)), EVEN)


class _Results:
    """The weights of each site, as they were after its last step."""

    def __init__(self, fits: Sequence[Fit], stacked: StackedModel):
        self._stacked = stacked
        self.weights = [fit.start for fit in fits]
        for copy, fit in enumerate(fits):
            stacked.load(copy, fit.start)

    def keep(self, step: int, ends: Sequence[int]) -> None:
        """Take out the weights of the sites that end with this step; the others go on."""
        for copy, end in enumerate(ends):
            if step == end:
                self.weights[copy] = self._stacked.weights(copy)


def _weighted_losses(logits: Tensor, told: Tensor) -> Tensor:
    """Losses of labels and whether a row is a patient, (rows, 2); 0 where it is none."""
    found = patient_losses(_filled(logits), _filled(told[:, 0]))
    return found[: len(logits)] * told[:, 1]


def _filled(numbers: Tensor) -> Tensor:
    return pad(numbers, (0, -len(numbers) % LANES))


def _padded(chosen: Sequence[Tensor], steps: int, size: int) -> Tensor:
    """Return rows of a cohort, (steps * size,); where there are too few, the first one."""
    if not chosen:
        return torch.zeros(steps * size, dtype=torch.long)
    short = pad_sequence(list(chosen), batch_first=True)
    return pad(short, (0, size - short.shape[1], 0, steps - short.shape[0])).flatten()


def _inputs(fits: Sequence[Fit], rows: Sequence[Tensor], steps: int, size: int) -> Rows:
    """Gather rows of each site's cohort, (sites, steps, size, ...) each."""
    device = fits[0].model.device
    shape = len(fits), steps, size

    def gathered(tensors: list[Tensor]) -> Tensor:
        out = tensors[0].new_empty(len(fits), steps * size, *tensors[0].shape[1:])
        for into, tensor, which in zip(out, tensors, rows, strict=True):
            torch.index_select(tensor, 0, which, out=into)
        return out.view(*shape, *out.shape[2:]).to(device)

    cohorts = [fit.cohort for fit in fits]
    names = list(cohorts[0].modalities)
    return (
        {name: gathered([c.modalities[name].values for c in cohorts]) for name in names},
        {name: gathered([c.modalities[name].present for c in cohorts]) for name in names},
        gathered([c.labels for c in cohorts]),
    )


def _at(together: Rows, step: int) -> Rows:
    """Return what the sites see in one step, (sites * size, ...) each."""
    values, present, labels = together
    return (
        {name: value[:, step].flatten(0, 1) for name, value in values.items()},
        {name: mask[:, step].flatten() for name, mask in present.items()},
        labels[:, step].flatten(),
    )


def _shares(sizes: Tensor, size: int, device: torch.device) -> Tensor:
    """Return what each row weighs in the mean of its site's batch, (sites * size,) float32."""
    filled = torch.arange(size) < sizes.unsqueeze(1)
    return (filled / sizes.clamp(min=1).unsqueeze(1)).flatten().to(device)


def _uniform(generator: torch.Generator) -> Callable[[int], Tensor]:
    return lambda size: torch.rand(size, generator=generator)


def _dropped(
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
    return _put(present, [next(kept) if n else {} for n in sizes])


def _masks(fit: PrivateFit, chosen: Tensor, uniform: Callable[[int], Tensor]) -> dict[str, Tensor]:
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


def _put(present: dict[str, Tensor], masks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return presence, (sites * size,), with each site's first rows exchanged."""
    sites = {name: mask.view(len(masks), -1).clone() for name, mask in present.items()}
    for s, mask in enumerate(masks):
        for name, seen in mask.items():
            sites[name][s, : len(seen)] = seen.to(sites[name].device)
    return {name: mask.flatten() for name, mask in sites.items()}
