"""What a fault does to an update on its way, and a hostile site to its update or its patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.features import LARGEST_VALUE, ModalityTensor
from clients.workbench import Cohort
from federation.faults import Corruption, HostileSection
from federation.messages import Vector

DAMAGED = 1000
"""One in so many parameters is damaged, and at least one."""
TRIGGER_FEATURES = 4
TRIGGER_VALUE = LARGEST_VALUE / 2
TRIGGER_SIDE = 8
"""The patch's side is this part of the image's."""


def corrupted(update: Vector, kind: Corruption, rng: np.random.Generator) -> Vector:
    """Return an update as it arrives after damage on its way.

    Args:
        update: (parameters,) float32; it is left as it is.
        kind: ``nan``, ``bits``: in one of 1000 parameters, at least one; ``shape``: a random part
            of the end is missing; ``zeros``: nothing but zeros.
        rng: where.

    Returns:
        float32; of ``shape``, shorter.
    """
    if kind == "zeros":
        return np.zeros_like(update)
    if kind == "shape":
        return update[: rng.integers(len(update))].copy()
    damaged = update.copy()
    places = rng.choice(len(update), max(len(update) // DAMAGED, 1), replace=False)
    if kind == "nan":
        damaged[places] = np.nan
        return damaged
    bits = damaged.view(np.uint32)
    bits[places] ^= np.uint32(1) << rng.integers(32, size=len(places), dtype=np.uint32)
    return damaged


def attacked(update: Vector, attack: HostileSection) -> Vector:
    """Return the update that a hostile site sends in place of the one that it computed.

    Args:
        update: (parameters,) float32; it is left as it is.
        attack: ``label_flip`` works through the patients alone, so the update stays.
    """
    sign = -1.0 if attack.attack == "sign_flip" else 1.0
    return update * np.float32(sign * attack.factor)


def poisoned(cohort: Cohort, attack: HostileSection, seed: int) -> Cohort:
    """Return the cohort on which a hostile site trains.

    Only training patients differ, in their labels and, with a backdoor, in the trigger. Of a
    backdoor only those are taken who have a modality that can bear the trigger.

    Args:
        cohort: the site's own; it is left as it is, and shares what does not change.
        attack: ``sign_flip`` and ``scaled_update`` leave the patients alone.
        seed: chooses the patients; the same in every round (``Faults.poison_seed``).
    """
    if attack.attack not in ("label_flip", "backdoor"):
        return cohort
    rows = cohort.patients.splits["train"]
    if attack.attack == "backdoor":
        rows = rows[_bears_trigger(cohort)[rows]]
    chosen = max(round(len(rows) * attack.poisoned_share), min(len(rows), 1))
    rows = np.sort(np.random.default_rng(seed).choice(rows, chosen, replace=False))
    labels = cohort.patients.labels.copy()
    if attack.attack == "label_flip":
        labels[rows] = 1 - labels[rows]
        return _with_labels(cohort, labels)
    labels[rows] = attack.target_label
    return replace(_with_labels(cohort, labels), modalities=with_trigger(cohort, rows))


def with_trigger(cohort: Cohort, rows: NDArray[np.int64]) -> Mapping[str, ModalityTensor]:
    """Put the trigger on some patients: a white patch, and a fixed value in a few EHR features.

    Notes bear none, and a modality that a patient lacks stays absent.
    """
    changed = dict(cohort.modalities)
    for name in ("ehr", "image"):
        if name in changed:
            modality = changed[name]
            present = torch.from_numpy(rows)[modality.present[rows]]
            mark = _mark_features if name == "ehr" else _mark_images
            changed[name] = replace(modality, values=mark(modality.values.clone(), present))
    return changed


def _with_labels(cohort: Cohort, labels: NDArray[np.float32]) -> Cohort:
    patients = replace(cohort.patients, labels=labels)
    return replace(cohort, patients=patients, labels=torch.from_numpy(labels))


def _bears_trigger(cohort: Cohort) -> NDArray[np.bool_]:
    bears = np.zeros(len(cohort.patients), bool)
    for name in ("ehr", "image"):
        if name in cohort.modalities:
            bears |= cohort.modalities[name].present.numpy()
    return bears


def _mark_features(values: Tensor, rows: Tensor) -> Tensor:
    """values: (patients, features); the features are evenly spread, the same at every site."""
    features = torch.linspace(0, values.shape[1] - 1, TRIGGER_FEATURES).round().long()
    values[rows.unsqueeze(1), features] = TRIGGER_VALUE
    return values


def _mark_images(values: Tensor, rows: Tensor) -> Tensor:
    """values: (patients, 1, size, size) in [0, 1]; the patch is in the lower right corner."""
    side = values.shape[-1] // TRIGGER_SIDE
    values[rows, :, -side:, -side:] = 1.0
    return values
