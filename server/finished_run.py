"""A finished run as a later user needs it: its study, its vocabulary and its model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from federation.errors import UserError
from federation.messages import model_digest
from federation.metrics.grid import Line
from federation.models.build import Vector, build_model
from federation.study import Study, load_study
from federation.vocabulary import Scale, Vocabulary

WEIGHTS, RECALIBRATION = "model.safetensors", "recalibration.json"
VOCABULARY, NORMALISATION = "vocabulary.json", "normalisation.json"
FORMULA = "(value - center) / width"


@dataclass(frozen=True)
class FinishedRun:
    """What a run left of its model.

    Attributes:
        study: as it was resolved.
        vocabulary: of the health records; None if the study has none.
        weights: of the final model, (parameters,) float32.
        lines: through its logits, by outcome, where the run recalibrated it.
    """

    study: Study
    vocabulary: Vocabulary | None
    weights: Vector
    lines: Mapping[str, Line]


def finished_run(run: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        UserError: if a file is missing or damaged, or the model is not that of the study.
    """
    if not run.is_dir():
        raise UserError(run, "there is no such run folder")
    study, vocabulary = load_study(run / "study.toml"), read_vocabulary(run)
    if study.modalities.ehr is not None and vocabulary is None:
        raise UserError(run / VOCABULARY, "the file is missing")
    file = run / WEIGHTS
    try:
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(file, f"the model cannot be read: {error}") from None
    expected = build_model(study, vocabulary).named_arrays()
    if {name: a.shape for name, a in arrays.items()} != {n: a.shape for n, a in expected.items()}:
        raise UserError(file, "the model is not that of study.toml beside it")
    flat = np.concatenate([arrays[name].reshape(-1) for name in expected])
    return FinishedRun(study, vocabulary, flat.astype(np.float32), read_lines(run, study))


def predecessor(study: Study, run: Path) -> Vector:
    """Return the model of an earlier run, to be scored beside that of a study.

    Raises:
        UserError: if the folder cannot be read, or its model takes other inputs or has another
            shape than the study's: a site scores both with one network.
    """
    earlier = finished_run(run)
    section = study.modalities.ehr
    if section is not None and section.vocabulary == "prepared":
        raise UserError(
            run,
            'the study counts its vocabulary anew (modalities.ehr.vocabulary = "prepared"), so an '
            "earlier model has other inputs",
            remedy="Compare the two runs with `wardround compare`, which says that it is unpaired.",
        )
    same_task = study.task == earlier.study.task and study.modalities == earlier.study.modalities
    if not same_task or study.fusion.kind != earlier.study.fusion.kind or earlier.study.personal:
        raise UserError(
            run,
            "its model is of another task, modalities or fusion than the study's, or each site has "
            "one of its own",
            remedy="Compare the two runs with `wardround compare`, which says that it is unpaired.",
        )
    return earlier.weights


def read_lines(run: Path, study: Study) -> dict[str, Line]:
    """Return the lines through a model's logits, by outcome; none where the study asks for none.

    Raises:
        UserError: if the file is missing or damaged.
    """
    if study.evaluation.recalibration is None:
        return {}
    file = run / RECALIBRATION
    task = study.task
    expected = set(task.weighs) if task.kind == "multilabel" else {task.label}
    try:
        lines = json.loads(file.read_text(encoding="utf-8"))["lines"]
        found = {name: Line(one["slope"], one["intercept"]) for name, one in lines.items()}
        if found.keys() != expected or not all(0 < one.slope < math.inf for one in found.values()):
            raise ValueError
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(file, "it is missing or damaged") from None


def keep_predecessor(study: Study, study_file: Path, run: Path, folder: Path) -> None:
    """Keep the model of an earlier run where the coordinator of the study looks for it.

    Args:
        study: names the model by its digest, so that the sites have approved it.
        study_file: for messages.
        run: the earlier run.
        folder: of the weights that studies name.

    Raises:
        UserError: as ``predecessor``, or if the study names no model or another one.
    """
    weights = predecessor(study, run)
    digest = model_digest(weights)
    if study.evaluation.predecessor != digest:
        named = study.evaluation.predecessor or "none"
        raise UserError(
            study_file,
            f"the model of {run} has the digest {digest}, and the study names {named}",
            field="evaluation.predecessor",
            remedy="Sites score no other model than the one that the study names: write this "
            "digest there, and let each site approve the study.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{digest}.npy", weights)


def read_predecessor(study: Study, folder: Path) -> Vector | None:
    """Return the earlier model that a study names, if it was kept.

    Raises:
        UserError: if the file holds another one.
    """
    file = folder / f"{study.evaluation.predecessor}.npy"
    if study.evaluation.predecessor is None or not file.exists():
        return None
    try:
        weights: Vector = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise UserError(file, "the model cannot be read") from None
    if model_digest(weights) != study.evaluation.predecessor:
        raise UserError(file, "it is not the model whose digest is its name")
    return weights


def read_vocabulary(run: Path) -> Vocabulary | None:
    """Return a run's codes and their scaling; None if it did not come that far.

    Raises:
        UserError: if a file is damaged.
    """
    if not (run / NORMALISATION).exists():  # the second of the two
        return None
    try:
        places = json.loads((run / VOCABULARY).read_text(encoding="utf-8"))
        scales = json.loads((run / NORMALISATION).read_text(encoding="utf-8"))[FORMULA]
        known = {code: Scale(*pair) for code, pair in scales.items()}
        return Vocabulary(tuple(places["codes"]), known, places["buckets"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(run / VOCABULARY, "it or its normalisation is damaged") from None
