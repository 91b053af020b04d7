"""Training patients as they might have been recorded as well: one view of each patient in a step.

A patient's view follows from a number of the step and from the patient alone. So it does not depend
on who else is in the batch or where the batch is computed, and under differential privacy one
patient more changes no other's view.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from federation.augmentation import ImageAugmentSection
from federation.modalities import EhrSection
from federation.models.triplets import FACTS
from federation.study import Study

SMALLEST_SINCE = math.exp(-50)
"""Of ``since``; below it a code has no time, or none that matters."""
WORD = 2**64 - 1


class Draws:
    """Random numbers of patients, each from a generator of the patient's own.

    Args:
        step: tells this step from others.
        subjects: (patients,) pseudonyms.
    """

    def __init__(self, step: int, subjects: NDArray):  # type: ignore[type-arg]
        self._generators = [
            torch.Generator().manual_seed(_mixed(step ^ subject) >> 1)
            for subject in subjects.tolist()
        ]

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), (patients, *shape) float32."""
        return torch.stack([torch.rand(shape, generator=one) for one in self._generators])

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, (patients, *shape) float32."""
        return torch.stack([torch.randn(shape, generator=one) for one in self._generators])

    def within(self, most: float, *shape: int) -> Tensor:
        """Return numbers from -most to most, (patients, *shape) float32."""
        return most * (2 * self.uniform(*shape) - 1)


def _mixed(number: int) -> int:
    """Return a number that has nothing in common with its neighbours'.

    Source: Steele, Lea and Flood, OOPSLA 2014 (SplitMix64).
    """
    number = (number + 0x9E3779B97F4A7C15) & WORD
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & WORD
    return number ^ (number >> 31)


def step_number(uniform: Tensor) -> int:
    """Return the number of a step of 48 bits, from two draws in [0, 1)."""
    high, low = (uniform.double() * 2**24).long().tolist()
    return int(high) << 24 | int(low)


def augmented(values: Mapping[str, Tensor], study: Study, draws: Draws) -> dict[str, Tensor]:
    """Return the patients of a step as the study has them seen, values by modality.

    Args:
        values: (patients, ...) each, of at least one patient, on any device.
        study: whose tables say what may change.
        draws: of these patients.
    """
    seen, modalities = dict(values), study.modalities
    if modalities.ehr is not None and modalities.ehr.augment.used:
        change = _events if modalities.ehr.chosen.reads == "events" else _aggregates
        seen["ehr"] = change(values["ehr"], modalities.ehr, draws)
    if modalities.image is not None and modalities.image.augment.used:
        seen["image"] = image_views(values["image"], modalities.image.augment, draws)
    return seen


def image_views(images: Tensor, section: ImageAugmentSection, draws: Draws) -> Tensor:
    """Turn, move and recolour each patient's image.

    Args:
        images: (patients, channels, [planes,] size, size) float32 in [0, 1].
        section: how much.
        draws: of these patients.

    Returns:
        The same shape, in [0, 1]; what comes in from beyond the edge is black.
    """

    def each(numbers: Tensor) -> Tensor:
        return numbers.view(-1, *[1] * (images.dim() - 1)).to(images.device)

    seen = _moved(images, section, draws) if section.moves else images
    if section.contrast or section.brightness:
        contrast, brightness = 1 + draws.within(section.contrast), draws.within(section.brightness)
        seen = (seen - 0.5) * each(contrast) + 0.5 + each(brightness)
    if section.noise:
        spread = section.noise * draws.uniform()
        seen = seen + each(spread) * draws.normal(*images.shape[1:]).to(images.device)
    return seen.clamp(0, 1)


def _moved(images: Tensor, section: ImageAugmentSection, draws: Draws) -> Tensor:
    turn = torch.deg2rad(draws.within(section.rotation))
    scale = 1 / (1 + draws.within(section.zoom))
    # A grid runs from -1 to 1, so that a whole side is 2.
    shifts = [2 * draws.within(section.shift) for _ in range(images.dim() - 2)]
    mirrored = (draws.uniform() < 0.5) & section.left_right
    mirror = 1 - 2 * mirrored.float()
    cosine, sine, nothing = scale * turn.cos(), scale * turn.sin(), torch.zeros(len(images))
    rows = [[mirror * cosine, -mirror * sine, shifts[0]], [sine, cosine, shifts[1]]]
    if images.dim() == 5:  # across, down, and from plane to plane
        for row in rows:
            row.insert(2, nothing)
        rows.append([nothing, nothing, scale, shifts[2]])
    affine = torch.stack([torch.stack(row, -1) for row in rows], 1).to(images.device)
    grid = affine_grid(affine, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _aggregates(values: Tensor, section: EhrSection, draws: Draws) -> Tensor:
    """Take codes as never recorded, and move the newest time of each code.

    Args:
        values: (patients, places x aggregates).
        section: of the study.
        draws: of these patients.
    """
    augment, names = section.augment, section.aggregates
    places = values.view(len(values), -1, len(names)).clone()
    count = places.shape[1]
    if augment.jitter_hours and "since" in names:
        since = places[..., names.index("since")]
        hours = draws.within(augment.jitter_hours, count).to(values.device)
        moved = (since * torch.exp(hours / -24)).clamp(max=1)
        places[..., names.index("since")] = torch.where(since > SMALLEST_SINCE, moved, since)
    if augment.dropout:
        kept = draws.uniform(count) >= augment.dropout
        places *= kept.unsqueeze(-1).to(values.device)
    return places.view(values.shape)


def _events(values: Tensor, section: EhrSection, draws: Draws) -> Tensor:
    """Take events as never recorded, and move the times of the others.

    Args:
        values: (patients, events, columns), as `federation.models.triplets` says.
        section: of the study.
        draws: of these patients.
    """
    augment, seen, count = section.augment, values.clone(), values.shape[1]
    if augment.jitter_hours:
        hours = draws.within(augment.jitter_hours, count).to(values.device)
        seen[..., 0] = (values[..., 0] + hours * values[..., 1]).clamp(min=0)
    if augment.dropout:
        kept = draws.uniform(count) >= augment.dropout
        seen *= kept.unsqueeze(-1).to(values.device)
        # Encoders cut off what is padding for all patients, so padding stays at the end.
        gone = (seen[..., FACTS:] == 0).all(-1)
        order = gone.byte().argsort(dim=1, stable=True)
        seen = seen.gather(1, order.unsqueeze(-1).expand_as(seen))
    return seen
