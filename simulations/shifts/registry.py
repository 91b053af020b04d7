"""The kinds of shift, by the name that a shifts file gives."""

from __future__ import annotations

from collections.abc import Mapping

from simulations.shifts import (
    case_mix,
    coding,
    concept,
    covariate,
    frequency,
    label_dirichlet,
    label_noise,
    missing,
    prevalence,
    quantity,
    scanner,
    temporal,
)
from simulations.shifts.kind import Kind

KINDS: Mapping[str, Kind] = {
    "prevalence": prevalence.KIND,
    "case_mix": case_mix.KIND,
    "quantity": quantity.KIND,
    "label_dirichlet": label_dirichlet.KIND,
    "covariate": covariate.KIND,
    "concept": concept.KIND,
    "scanner": scanner.KIND,
    "coding": coding.KIND,
    "frequency": frequency.KIND,
    "missing": missing.KIND,
    "label_noise": label_noise.KIND,
    "temporal": temporal.KIND,
}
