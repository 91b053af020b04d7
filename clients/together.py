"""Local training of many sites at once: their small models as one stacked model.

Each site draws from its own generator what it would draw alone, in the same order. Batches are
filled up to one size with rows of zeros' weight, which change no sum: a site's result is the same
to the last bit in any company, and to float32's rounding what `clients.training.train_alone` finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from clients.fits import Fit, Fitted, PlainFit, PrivateFit
from clients.side_by_side import (
    EVEN,
    Passes,
    at_step,
    batches_of,
    dropped,
    gathered,
    multiple,
    padded,
    put,
    sample_masks,
)
from clients.steering import Steering
from clients.training import make_optimizer, shorten, train_alone
from clients.workbench import Workbench
from federation.models.stacked import MOST_AT_ONCE, StackedModel
from federation.privacy.book_keeping import BookKeeping
from federation.privacy.engine import poisson_sample
from federation.privacy.noise import grid, on_grid
from federation.privacy.stacked_layers import stacked_rule_for
from federation.training import OptimizerSection

Result = Callable[[], Fitted]
"""What came of training a site's model; raises what training it raised."""

LANES = 32
"""Exponentials are taken of so many numbers at a time; what is left over is computed otherwise, so
nothing is left over."""
ROOM = 2.8
"""Standard deviations of a Poisson sample's size for which there is room; the rest of a larger
sample, one in 400, takes another pass."""


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
        if workbench.stacks(group[0].model, group[0].study) and _repeatable(group[0]):
            yield from _Group(group, workbench).results()
        else:
            yield from (partial(train_alone, fit) for fit in group)


def _repeatable(fit: Fit) -> bool:
    """Outside of simulations nothing repeats private draws, and one site is trained at a time."""
    if not isinstance(fit, PrivateFit):
        return True
    usual = fit.clipped.mode == "book_keeping" and fit.randomness().seeded
    return usual and _sample_size(fit) <= fit.study.privacy.physical_batch


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
    study = fits[0].study
    training, dropout = fits[0].training, study.fusion.modality_dropout
    size = multiple(training.batch_size, EVEN)
    passes = [Passes(fit, size) for fit in fits]
    positive = _positive_weights(fits)
    ends = [one.steps for one in passes]
    losses: list[list[float]] = [[] for _ in fits]
    optimizer = make_optimizer(stacked.vector, training.optimizer)
    steering = Steering(fits, stacked.vector)
    at_once = steering.idle and training.max_grad_norm is None
    plain = _plain_step(training.optimizer) if at_once else None
    results = _Results(fits, stacked)
    for step, ((values, present, labels), sizes) in enumerate(batches_of(fits, passes, size), 1):
        if dropout:
            present = dropped(present, sizes, dropout, [one.uniform for one in passes])
        factors = _shares(torch.tensor(sizes), len(labels) // len(fits), stacked.device)
        weight = (
            None
            if positive is None
            else _filled(positive.repeat_interleave(len(labels) // len(fits)))
        )

        def loss(logits: Tensor, labels: Tensor = labels, weight: Tensor | None = weight) -> Tensor:
            found = binary_cross_entropy_with_logits(
                _filled(logits), _filled(labels), reduction="none", pos_weight=weight
            )
            return found[: len(logits)]

        found = stacked.differentiate(values, present, loss, factors, plain)
        means = (found * factors).view(len(fits), -1).sum(1)
        for one, mean in zip(losses, means.tolist(), strict=True):
            one.append(mean)
        if plain is None:
            assert stacked.vector.grad is not None
            shorten(stacked.vector.grad, training.max_grad_norm)
            steering.before_step()
            optimizer.step()
            steering.after_step()
        results.keep(step, ends)
    variances = steering.variances(ends)
    return [
        Fitted.of(weights, one[:end], end, variance)
        for weights, one, end, variance in zip(
            results.weights, losses, ends, variances, strict=True
        )
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
    weight = study.task.weights(fits[0].cohort.labels[:0], study.training.loss)
    losses = partial(_weighted_losses, weight)
    clipped = BookKeeping(stacked, losses, norm, stacked_rule_for)
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
    optimizer = make_optimizer(stacked.vector, fits[0].training.optimizer)
    steering = Steering(fits, stacked.vector)
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
                sample_masks(fit, some, source.uniform)
                for fit, some, source in zip(fits, chosen, sources, strict=True)
            ]
        gradient.zero_()
        for start in range(0, max(map(len, chosen)), size):
            part = [some[start : start + size] for some in chosen]
            rows = [padded([some], 1, size) for some in part]
            values, present, labels = at_step(gathered(fits, rows, 1, size), 0, size)
            if masks is not None:
                some = [{k: m[start : start + size] for k, m in mask.items()} for mask in masks]
                present = put(present, some)
            real = _shares(torch.tensor([len(some) for some in part]), size, stacked.device) > 0
            if clipped(values, present, torch.stack([labels, real.float()], 1)) is not None:
                raise NotTogether
        for row, source, on in zip(noise, sources, going, strict=True):
            if on:
                row[:parameters] = source.normal(parameters)
        noised = on_grid(noise, gradient.cpu(), scale, grids)
        gradient.copy_(noised.div_(expectations))
        steering.before_step()
        optimizer.step()
        steering.after_step()
        results.keep(step, ends)
    return [Fitted(w, None, end) for w, end in zip(results.weights, ends, strict=True)]


def _sample_size(fit: Fit) -> int:
    """Return how many rows each site has in a private step."""
    expected = fit.training.batch_size
    return multiple(math.ceil(expected + ROOM * math.sqrt(expected)), EVEN)


def _plain_step(section: OptimizerSection) -> float | None:
    """Return by what a gradient is multiplied, if a step of the optimiser is no more than that."""
    return -section.lr if section.plain_sgd else None


def _positive_weights(fits: Sequence[PlainFit]) -> Tensor | None:
    """Return what a positive patient weighs at each site; None if as much as a negative one."""
    section = fits[0].study.training.loss
    if section.class_weight == "none":
        return None
    found = [fit.study.task.weights(fit.cohort.labels[fit.rows], section) for fit in fits]
    weights = [torch.ones(()) if weight is None else weight for weight in found]
    return torch.stack(weights).to(fits[0].model.device)


class _Results:
    """The weights of each site, as they were after its last step."""

    def __init__(self, fits: Sequence[Fit], stacked: StackedModel):
        self._stacked = stacked
        self.weights = [fit.start for fit in fits]
        stacked.load(self.weights)

    def keep(self, step: int, ends: Sequence[int]) -> None:
        """Take out the weights of the sites that end with this step; the others go on."""
        ended = [copy for copy, end in enumerate(ends) if step == end]
        if ended:
            for copy, weights in zip(ended, self._stacked.weights(ended), strict=True):
                self.weights[copy] = weights


def _weighted_losses(positive: Tensor | None, logits: Tensor, told: Tensor) -> Tensor:
    """Losses of labels and whether a row is a patient, (rows, 2); 0 where it is none."""
    found = binary_cross_entropy_with_logits(
        _filled(logits), _filled(told[:, 0]), reduction="none", pos_weight=positive
    )
    return found[: len(logits)] * told[:, 1]


def _filled(numbers: Tensor) -> Tensor:
    return pad(numbers, (0, -len(numbers) % LANES))


def _shares(sizes: Tensor, size: int, device: torch.device) -> Tensor:
    """Return what each row weighs in the mean of its site's batch, (sites * size,) float32."""
    filled = torch.arange(size) < sizes.unsqueeze(1)
    return (filled / sizes.clamp(min=1).unsqueeze(1)).flatten().to(device)
