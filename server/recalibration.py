"""Making a finished model's risks right: the line that its tuning splits tell, and what it changes.

The coordinator moves what the bins of the sites' counts stand for; the sites are not asked again.
Two looks at the same patients through differently joined bins would tell smaller groups than either
may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from federation.metrics.calibration import (
    brier,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
)
from federation.metrics.grid import LARGEST_LOGIT, UNCHANGED, Line
from federation.metrics.recalibration import Fit, fitted
from federation.metrics.summary import ScoreSummary, merge
from federation.study import RecalibrationSection, Study
from server.operating import UNTOLD
from server.site_evaluation import SiteEvaluation, present

SCHEMA = "wardround.recalibration/1"
FORMULA = (
    "risk = 1 / (1 + exp(-(slope * logit + intercept))), "
    "a logit beyond largest_logit either way being taken as that"
)


@dataclass(frozen=True)
class Recalibration:
    """What the tuning splits say of one model.

    Attributes:
        line: through its logits; None where the scores stay as they are.
        told: what metrics.json says of it.
    """

    line: Line | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    def of(self, evaluations: Iterable[SiteEvaluation]) -> list[SiteEvaluation]:
        """Evaluations of this model, recalibrated."""
        if self.line is None:
            return list(evaluations)
        line = self.line
        return [
            replace(one, cells={name: cell.recalibrated(line) for name, cell in one.cells.items()})
            for one in evaluations
        ]


def recalibration(
    tuning: Iterable[SiteEvaluation], section: RecalibrationSection | None
) -> Recalibration:
    """Fit one model's line to the tuning splits of all sites together.

    Args:
        tuning: what each site sent of the model on its tuning split.
        section: the study's; None for no recalibration.
    """
    if section is None:
        return Recalibration()
    sent = sorted(tuning, key=lambda one: one.site)
    seen, excluded = present(sent, "")
    together = merge(seen.values())
    found = fitted(together, section.method) if together.n else Fit(None, UNTOLD)
    told: dict[str, Any] = {
        "method": section.method,
        "split": "tuning",
        "n": together.n,
        "positives": together.positives,
        "excludes": excluded,
        **_as_json(found),
    }
    return Recalibration(found.line, told)


def before(evaluations: Iterable[SiteEvaluation]) -> dict[str, Any]:
    """What held-out patients say of the scores as the model gives them."""
    seen, _ = present(list(evaluations), "")
    together: ScoreSummary = merge(seen.values())
    points = {
        "brier": brier(together),
        "ece": expected_calibration_error(together),
        "calibration_slope": calibration_slope(together),
        "calibration_intercept": calibration_intercept(together),
    }
    return {name: point.to_json() for name, point in points.items()}


def line_of(model: Mapping[str, Any]) -> Line | None:
    """Return the line of a model of metrics.json; None where its scores are as they were."""
    told = model.get("recalibration")
    if not told or told["slope"] is None:
        return None
    return Line(told["slope"], told["intercept"])


def lines_document(study: Study, model: Mapping[str, Any]) -> dict[str, Any]:
    """recalibration.json: how a user of the weights gets from logits to risks.

    Args:
        study: with ``evaluation.recalibration``.
        model: the federated model's entry of metrics.json.
    """
    by_outcome = model.get("by_label") or {study.task.label: model}
    return {
        "schema": SCHEMA,
        "fingerprint": study.fingerprint,
        "formula": FORMULA,
        "largest_logit": LARGEST_LOGIT,
        "lines": {name: (line_of(one) or UNCHANGED)._asdict() for name, one in by_outcome.items()},
    }


def unrecalibrated(model: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know: which risks are as the model gives them, and why."""
    by_outcome = model.get("by_label") or {"": model}
    return [
        f"The risks{f' of {name}' if name else ''} were not recalibrated: "
        f"{one['recalibration']['reason']}."
        for name, one in by_outcome.items()
        if "reason" in one.get("recalibration", {})
    ]


def _as_json(found: Fit) -> dict[str, Any]:
    if found.line is None:
        return {"slope": None, "intercept": None, "reason": found.reason}
    return found.line._asdict()
