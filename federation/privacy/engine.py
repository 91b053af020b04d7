"""DP-SGD on a site's patients (Abadi et al., CCS 2016): sample, clip, add noise.

A patient is one row of the cohort, with all visits, images and notes: one gradient, one clipped
contribution. Who is in a step is decided by an independent draw for each patient (Poisson
sampling), so the size of a batch varies; a step that drew nobody is a step like any other, with
noise, and is accounted for. The sum is divided by the expected size of a batch, which is public,
never by the number that was drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from federation.privacy.accounting import Segment
from federation.privacy.noise import Randomness, noised

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor]
"""Values and presence by modality, and labels, of some of the patients of a step."""


class Adds(Protocol):
    """Adds clipped gradients up; ``federation.privacy.clipping`` has those."""

    def add(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """Add the clipped gradients of a batch's patients to the model's gradient."""
        ...


def poisson_sample(rows: Tensor, rate: float, randomness: Randomness) -> Tensor:
    """Return the patients of a step: each of ``rows`` independently with probability ``rate``."""
    return rows[randomness.uniform(len(rows)) < rate]


def private_mean(
    clipped: Adds,
    gradient: Tensor,
    batches: Iterable[Batch],
    segment: Segment,
    max_grad_norm: float,
    patients: int,
    randomness: Randomness,
) -> None:
    """Overwrite a gradient with the noised mean of a step's clipped gradients.

    Args:
        clipped: adds to ``gradient``.
        gradient: (parameters,) float32.
        batches: the patients of the step, in as many physical batches as fit into memory; how they
            are divided does not matter.
        segment: its rate and noise multiplier.
        max_grad_norm: to which each patient's gradient was clipped.
        patients: of whom the step was sampled; declared public.
        randomness: of the noise.
    """
    gradient.zero_()
    for values, present, labels in batches:
        clipped.add(values, present, labels)
    total = noised(gradient, segment.noise_multiplier * max_grad_norm, randomness)
    gradient.copy_(total.div_(segment.sampling_rate * patients))
