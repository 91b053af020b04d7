"""Reads a run folder into typed records, or says which file is missing or broken."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from federation.errors import UserError
from federation.metrics.several import SeveralSummary
from federation.metrics.summaries import read_summary
from federation.metrics.summary import ScoreSummary
from server.report.documents import Metrics, ModelMetrics, Privacy, Round, Shifts, SiteData

T = TypeVar("T")
REMEDY = "Give a run folder as `wardround simulate` leaves it, or run the study again."


@dataclass(frozen=True)
class RunFolder:
    """All that the report is made from.

    Args:
        summaries: score summaries of the held-out split by task, model and site, whole sites
            only, and of one yes-or-no outcome alone; of scores as the model gives them. A study of
            one task has it under "".
        document: metrics.json as it is, for tasks that have more than one outcome.
        shifts: of simulated sites that were shifted.
    """

    path: Path
    study: dict[str, Any]
    environment: dict[str, Any]
    metrics: Metrics
    document: dict[str, Any]
    rounds: list[Round]
    summaries: dict[str, dict[str, dict[str, ScoreSummary]]]
    privacy: Privacy
    sites: dict[str, SiteData]
    warnings: list[str]
    shifts: Shifts | None

    @property
    def task(self) -> str:
        """The kind of what the model predicts."""
        return str(self.study.get("task", {}).get("kind", "binary"))

    @property
    def main(self) -> str:
        """The name of the model that the report is about: the federated, or the only one."""
        models = self.metrics.models
        return "federated" if "federated" in models else min(models)

    @property
    def model(self) -> ModelMetrics:
        """The metrics of that model."""
        return self.metrics.models[self.main]

    @property
    def scores(self) -> dict[str, dict[str, ScoreSummary]]:
        """The summaries of the one task, by model and site."""
        return self.summaries.get("", {})

    @property
    def noised(self) -> bool:
        """Whether what the sites counted for the evaluation has noise."""
        return "noise" in self.study.get("evaluation", {})


def read_run_folder(run: Path) -> RunFolder:
    """Read and check every file that the report needs.

    Raises:
        UserError: naming the folder or the file, and the field where one is wrong.
    """
    if not run.is_dir():
        raise UserError(run, "there is no such run folder", remedy=REMEDY)
    warnings, shifts = run / "warnings.json", run / "shifts.json"
    document = _read(run / "metrics.json", _json, dict[str, Any])
    return RunFolder(
        path=run,
        study=_read(run / "study.toml", tomllib.loads, dict[str, Any]),
        environment=_read(run / "environment.json", _json, dict[str, Any]),
        metrics=_checked(run / "metrics.json", document, Metrics),
        document=document,
        rounds=_read(run / "rounds.jsonl", _lines, list[Round]),
        summaries=_summaries(run / "summaries.json"),
        privacy=_read(run / "privacy.json", _json, Privacy),
        sites=_read(run / "sites.json", _json, dict[str, SiteData]),
        warnings=_read(warnings, _json, list[str]) if warnings.exists() else [],
        shifts=_read(shifts, _json, Shifts) if shifts.exists() else None,
    )


def read_document(path: Path, kind: type[T]) -> T:
    """Read one JSON document of a run folder and check it against a type.

    Raises:
        UserError: if it is missing or broken, naming the file and the field.
    """
    return _read(path, _json, kind)


def _read(path: Path, parse: Callable[[str], Any], kind: type[T]) -> T:
    """Parse a file and check it against a type."""
    try:
        return _checked(path, parse(_text(path)), kind)
    except ValueError as error:  # JSONDecodeError, TOMLDecodeError: both say where
        raise UserError(path, f"cannot be read: {error}", remedy=REMEDY) from None


def _checked(path: Path, document: Any, kind: type[T]) -> T:
    """Check what a file holds against a type."""
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(path, first["msg"], field=field, remedy=REMEDY) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(path, "the file is missing", remedy=REMEDY) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read: {error}", remedy=REMEDY) from None


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _lines(text: str) -> list[Any]:
    documents = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                documents.append(_json(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return documents


class _SiteSummaries(BaseModel):
    cells: dict[str, dict[str, Any]] = {}


class _ModelSummaries(BaseModel):
    sites: dict[str, _SiteSummaries] = {}


class _Summaries(BaseModel):
    models: dict[str, _ModelSummaries]


def _summaries(path: Path) -> dict[str, dict[str, dict[str, ScoreSummary]]]:
    found: dict[str, dict[str, dict[str, ScoreSummary]]] = {}
    for model, entry in _read(path, _json, _Summaries).models.items():
        for site, sent in sorted(entry.sites.items()):
            if "" not in sent.cells:
                continue  # withheld whole
            try:
                summary = read_summary(sent.cells[""])
            except ValueError as error:
                field = f"models.{model}.sites.{site}.cells"
                raise UserError(path, str(error), field=field, remedy=REMEDY) from None
            each = summary.tasks if isinstance(summary, SeveralSummary) else {"": summary}
            for task, one in each.items():
                if isinstance(one, ScoreSummary):
                    found.setdefault(task, {}).setdefault(model, {})[site] = one
    return found
