"""What the tensor of each modality looks like, by what its encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from federation.models.registry import Reads
from federation.models.triplets import FACTS, columns
from federation.models.words import PADDING, PIECES
from federation.study import Study
from federation.vocabulary import Vocabulary

Probe = Callable[[Any, int, int, torch.Generator], Tensor]


def aggregates(section: Any, places: int, patients: int, generator: torch.Generator) -> Tensor:
    """(patients, places x aggregates) float32."""
    return torch.randn((patients, places * len(section.aggregates)), generator=generator)


def events(section: Any, places: int, patients: int, generator: torch.Generator) -> Tensor:
    """(patients, max_events, 4 + pieces) float32, as `federation.models.triplets` says."""
    shape = patients, section.max_events
    x = torch.zeros(*shape, columns(section.vocabulary == "hashed"))
    timed, valued = (torch.rand(shape, generator=generator) < 0.8 for _ in range(2))
    x[..., 0] = torch.rand(shape, generator=generator) * 1000 * timed
    x[..., 1] = timed
    x[..., 2] = torch.randn(shape, generator=generator) * valued
    x[..., 3] = valued
    x[..., FACTS:] = torch.randint(1, places + 1, x[..., FACTS:].shape, generator=generator)
    for i in range(patients):  # each has fewer than the one before
        x[i, section.max_events - i % section.max_events :] = 0
    return x


def images(section: Any, places: int, patients: int, generator: torch.Generator) -> Tensor:
    """(patients, channels, [planes,] size, size) float32 in [0, 1]."""
    return torch.rand((patients, *section.shape), generator=generator)


def notes(section: Any, places: int, patients: int, generator: torch.Generator) -> Tensor:
    """(patients, max_tokens, pieces) int64, as `federation.models.words` says."""
    shape = (patients, section.max_tokens, PIECES)
    words = torch.randint(0, section.buckets + 1, shape, generator=generator)
    for i in range(patients):  # each has fewer than the one before
        words[i, section.max_tokens - i % section.max_tokens :] = PADDING
    return words


def features(section: Any, places: int, patients: int, generator: torch.Generator) -> Tensor:
    """(patients, features) float32."""
    return torch.randn((patients, section.pretrained.features), generator=generator)


PROBES: Mapping[Reads, Probe] = {
    "aggregates": aggregates,
    "events": events,
    "images": images,
    "notes": notes,
    "features": features,
}
"""Each makes up a tensor, as the patients' is described in its first line."""


def probe_inputs(
    study: Study, vocabulary: Vocabulary | None, patients: int = 3
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return made-up arguments of the study's model, to try it with before it sees a patient.

    Every patient differs from the others, and lacks another modality where there are several.
    """
    generator = torch.Generator().manual_seed(0)
    places = 0 if vocabulary is None else vocabulary.places
    values = {
        name: PROBES[section.chosen.reads](section, places, patients, generator)
        for name, section in study.modalities.used
    }
    present = {name: torch.ones(patients, dtype=torch.bool) for name in values}
    for k, name in enumerate(values if len(values) > 1 else ()):
        present[name][k % patients] = False
    return values, present
