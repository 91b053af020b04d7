"""Local training: one loop over plain or private gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from clients.augmentation import Draws, augmented, step_number
from clients.fits import Fit, Fitted, PlainFit, PrivateFit
from clients.steering import Steering
from federation.privacy.engine import Batch, poisson_sample, private_mean
from federation.study import Study
from federation.training import OptimizerSection


def train_alone(fit: Fit) -> Fitted:
    """Train one site's model: a step of the optimiser for each gradient."""
    model = fit.model
    model.load(fit.start)
    optimizer = make_optimizer(model.vector, fit.training.optimizer)
    steering = Steering([fit], model.vector)
    if not model.module.training:  # walking the modules costs as much as a small step
        model.module.train()
    losses, steps = [], 0
    for loss in _gradients(fit):
        steering.before_step()
        optimizer.step()
        steering.after_step()
        steps += 1
        if loss is not None:
            losses.append(loss)
    (variance,) = steering.variances([steps])
    return Fitted.of(model.weights(), losses, steps, variance)


def _gradients(fit: Fit) -> Iterable[float | None]:
    """Fill the model's gradient for each step; give the batch's loss, or None."""
    if isinstance(fit, PrivateFit):
        return _private(fit)
    assert isinstance(fit, PlainFit)
    return _plain(fit)


def _plain(fit: PlainFit) -> Iterator[float]:
    """The gradient of each batch's mean loss."""
    model, cohort, study = fit.model, fit.cohort, fit.study
    generator, gradient = fit.generator(), model.vector.grad
    assert gradient is not None
    losses = losses_of(study, cohort.labels[fit.rows])

    def uniform(size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    for rows in batches(fit, generator):
        values, present = cohort.inputs(rows, model.device)
        if study.modalities.augmented:
            values = augmented(values, study, _draws(fit, rows, step_number(uniform(2))))
        labels = cohort.labels[rows].to(model.device)
        if study.fusion.modality_dropout:
            present = drop_modalities(present, study.fusion.modality_dropout, uniform)
        with _precision(fit):
            logits = model.module(values, present)
        loss = losses(logits.float(), labels).mean()
        gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        shorten([gradient], fit.training.max_grad_norm)
        yield loss.item()


def _private(fit: PrivateFit) -> Iterator[None]:
    """The noised mean of each step's clipped gradients.

    Modality dropout is drawn from the private randomness too: with a seed that the coordinator
    knows, one patient more would shift the others' masks, and so their gradients, visibly. So is
    the number of a step by which patients are augmented.
    """
    model, cohort, privacy = fit.model, fit.cohort, fit.study.privacy
    rows, randomness, gradient = fit.rows, fit.randomness(), model.vector.grad
    assert gradient is not None
    study, dropout = fit.study, fit.study.fusion.modality_dropout

    def physical(chosen: Tensor, step: int) -> Iterator[Batch]:
        for some in torch.split(chosen, privacy.physical_batch):
            values, present = cohort.inputs(some, model.device)
            if study.modalities.augmented and len(some):
                values = augmented(values, study, _draws(fit, some, step))
            if dropout and len(some):
                present = drop_modalities(present, dropout, randomness.uniform)
            yield values, present, cohort.labels[some].to(model.device)

    for _ in range(fit.segment.steps):
        step = step_number(randomness.uniform(2)) if study.modalities.augmented else 0
        chosen = poisson_sample(rows, fit.segment.sampling_rate, randomness)
        private_mean(
            fit.clipped,
            gradient,
            physical(chosen, step),
            fit.segment,
            privacy.max_grad_norm,
            len(rows),
            randomness,
        )
        yield None


def _precision(fit: Fit) -> torch.autocast:
    """Return the context in which a model's products are computed."""
    short = fit.training.precision == "bfloat16"
    return torch.autocast(fit.model.device.type, torch.bfloat16, enabled=short)


def _draws(fit: Fit, rows: Tensor, step: int) -> Draws:
    return Draws(step, fit.cohort.patients.subject_ids[rows.numpy()])


def drop_modalities(
    present: Mapping[str, Tensor], probability: float, uniform: Callable[[int], Tensor]
) -> dict[str, Tensor]:
    """Hide each modality of each patient with a probability, but never a patient's last one."""
    kept = {
        name: mask & (uniform(len(mask)) >= probability).to(mask.device)
        for name, mask in present.items()
    }
    something = torch.stack(list(kept.values())).any(0)
    return {name: torch.where(something, kept[name], present[name]) for name in present}


def batches(fit: Fit, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the rows of each batch: whole passes, or steps over as many as needed."""
    left = fit.training.steps(len(fit.rows))
    while left:
        for batch in torch.split(one_pass(fit, generator), fit.training.batch_size)[:left]:
            left -= 1
            yield batch


def one_pass(fit: Fit, generator: torch.Generator) -> Tensor:
    """Return the rows of a pass, as many as there are training patients."""
    rows = fit.rows
    if fit.training.sampling == "shuffled":
        return rows[torch.randperm(len(rows), generator=generator)]
    _, of, counts = torch.unique(fit.cohort.labels[rows], return_inverse=True, return_counts=True)
    drawn = torch.multinomial(1 / counts[of].double(), len(rows), True, generator=generator)
    return rows[drawn]


def shorten(gradients: Iterable[Tensor], most: float | None) -> None:
    """Scale each gradient that is longer than it may be; None is no bound."""
    if most is None:
        return
    for gradient in gradients:
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((most / norm.clamp(min=1e-12)).clamp(max=1))


class FlatSgd:
    """SGD with momentum and weight decay on one parameter, as torch.optim.SGD defines it.

    Torch's own step costs several times the arithmetic of a small model, in every step of every
    site. The two are compared in the tests.
    """

    def __init__(self, vector: torch.nn.Parameter, section: OptimizerSection):
        self._vector, self._section = vector, section
        self._velocity: Tensor | None = None

    def step(self) -> None:
        """Apply the gradient."""
        direction, section = self._vector.grad, self._section
        assert direction is not None
        if section.weight_decay:
            direction = direction.add(self._vector, alpha=section.weight_decay)
        if section.momentum:
            if self._velocity is None:
                self._velocity = direction.clone()
            else:
                self._velocity.mul_(section.momentum).add_(direction)
            direction = self._velocity
        self._vector.add_(direction, alpha=-section.lr)


def make_optimizer(
    vector: torch.nn.Parameter, section: OptimizerSection
) -> FlatSgd | torch.optim.Optimizer:
    """Return the study's optimiser of a flat vector, or of one for each row of a matrix."""
    if section.name == "sgd":
        return FlatSgd(vector, section)
    kind = torch.optim.Adam if section.name == "adam" else torch.optim.AdamW
    return kind([vector], lr=section.lr, weight_decay=section.weight_decay)


def losses_of(study: Study, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the study's loss at a site: logits and labels -> losses, (patients,).

    Args:
        study: the resolved study.
        labels: of the site's training patients, by which classes are balanced where asked.
    """
    return study.task.minimised(labels, study.training.loss)
