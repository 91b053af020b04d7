"""What each encoder costs: parameters, and a private step beside a plain one.

A step is of the encoder with one logit over it, forward, backward and update; the private one has
the clipped sum of the patients' gradients, as the study's default finds it, and noise. Both take
turns on one thread; times are medians of process time, and memory is the most that a step allocates
on top of what was there before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from models_bench import places, say
from reporting import Row
from steps import Step, peak_bytes, seconds_of
from torch import Tensor
from torch.nn import functional as F

from federation.models.build import FlatModel, build_model
from federation.models.inputs import probe_inputs
from federation.privacy.clipping import clipped_sum
from federation.study import Study

CODES = {f"LAB//{number}": (0.0, 1.0) for number in range(30)}
PRETRAINED = {"name": "bert", "sha256": "0" * 64, "features": 768}
LARGE = ("resnet18", "resnet50", "densenet121", "efficientnet_b0")


@dataclass(frozen=True)
class Case:
    """One encoder at a size that is usual for it.

    Attributes:
        modality: of it.
        size: in words.
        batch: patients of a step.
        options: of the study's table.
        quick: whether the quick run has it.
    """

    modality: str
    size: str
    batch: int
    options: dict[str, Any] = field(default_factory=dict)
    quick: bool = False

    def study(self, encoder: str) -> Study:
        """Return a study of this encoder alone."""
        table = {"encoder": encoder, **self.options}
        return Study.model_validate(
            {
                "study": {"name": "cost"},
                "task": {"kind": "binary", "label": "outcome"},
                "modalities": {self.modality: table},
                "fusion": {"kind": "late"},
            }
        )


def _pictures(size: int, batch: int, quick: bool = False) -> Case:
    return Case("image", f"{size} x {size}", batch, {"size": size}, quick)


_VOLUMES = Case("image", "64 x 64 x 64", 2, {"size": 64, "planes": 64})
_EVENTS = Case("ehr", "30 codes of their own, 256 buckets", 64, {"reference_ranges": CODES}, True)
CASES: list[tuple[str, Case]] = [
    ("linear", _EVENTS),
    ("mlp", _EVENTS),
    ("transformer", Case("ehr", "256 events", 16, {"reference_ranges": CODES})),
    ("hashed", Case("text", "64 words", 64, quick=True)),
    ("huggingface", Case("text", "768 features", 64, {"pretrained": PRETRAINED}, True)),
    ("small_cnn", _pictures(64, 16, True)),
    ("small_cnn", _pictures(224, 8)),
    ("resnet10", _pictures(64, 16)),
    ("vit", _pictures(64, 16)),
    ("vit", Case("image", "224 x 224", 8, {"size": 224, "patch": 16})),
    ("resnet10", _pictures(224, 4)),
    *((name, _pictures(224, 4)) for name in LARGE),
    *((name, _VOLUMES) for name in ("small_cnn", "vit", "resnet10", "densenet121")),
]


def measure(quick: bool, folder: Path) -> list[Row]:
    """Return three rows an encoder and size: parameters, time and memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = [(name, case) for name, case in CASES if case.quick or not quick]
        return [row for name, case in chosen for row in _rows(name, case, 3 if quick else 7)]
    finally:
        torch.set_num_threads(threads)


def _rows(name: str, case: Case, repeats: int) -> list[Row]:
    study = case.study(name)
    parameters = sum(p.numel() for p in _model(study).module.encoders.parameters())
    kinds: dict[str, Callable[[Study, int], Step]] = {"plain": _plain, "private": _private}
    steps = {kind: make(study, case.batch) for kind, make in kinds.items()}
    seconds = seconds_of(steps, repeats)
    peak = {kind: peak_bytes(step) for kind, step in steps.items()}
    label = f"models/cost/{name}/{case.size.replace(' ', '_')}"
    times = ", ".join(f"{kind} {1e3 * took:.3g} ms" for kind, took in seconds.items())
    sizes = ", ".join(f"{kind} {held / 2**20:.3g} MiB" for kind, held in peak.items())
    say(f"cost: {name}, {case.size}: {parameters} parameters; {times}; {sizes}")
    of = f"a step of {case.batch}"
    return [
        Row(f"{label}/parameters", parameters, note="of the encoder"),
        Row(f"{label}/step_ratio", seconds["private"] / seconds["plain"], note=f"{of}: {times}"),
        Row(f"{label}/memory_ratio", peak["private"] / peak["plain"], note=f"{of}: {sizes}"),
    ]


def _model(study: Study) -> FlatModel:
    model = build_model(study, places(study))
    model.module.train()
    return model


def _plain(study: Study, batch: int) -> Step:
    model, labels = _model(study), _labels(batch)
    values, present = probe_inputs(study, places(study), batch)
    vector, gradient = model.vector.detach(), model.vector.grad
    assert gradient is not None

    def step() -> None:
        gradient.zero_()
        _losses(model.module(values, present), labels).mean().backward()  # type: ignore[no-untyped-call]
        vector.add_(gradient, alpha=-1e-3)

    return step


def _private(study: Study, batch: int) -> Step:
    model, labels = _model(study), _labels(batch)
    values, present = probe_inputs(study, places(study), batch)
    vector, gradient = model.vector.detach(), model.vector.grad
    assert gradient is not None
    clipped = clipped_sum(model, _losses, 1.0)
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        gradient.zero_()
        clipped.add(values, present, labels)
        gradient.add_(torch.randn(len(gradient), generator=generator))
        vector.add_(gradient, alpha=-1e-3 / batch)

    return step


def _labels(batch: int) -> Tensor:
    return (torch.arange(batch) % 2).float()


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
