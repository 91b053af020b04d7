"""The kinds of summaries of a single task, and how one is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from federation.metrics.outcomes import OutcomesSummary
from federation.metrics.summary import ScoreSummary
from federation.metrics.survival import SurvivalSummary

SingleSummary: TypeAlias = ScoreSummary | OutcomesSummary | SurvivalSummary


def read_single_summary(document: Mapping[str, Any]) -> SingleSummary:
    """Read what a summary's ``to_json`` wrote; what a site sends is checked, not trusted.

    Raises:
        ValueError: if it is of no kind, or cannot belong to any patients.
    """
    if not isinstance(document, Mapping):
        raise ValueError("not a summary")
    if "outcomes" in document:
        return OutcomesSummary.from_json(document)
    if "tables" in document:
        return SurvivalSummary.from_json(document)
    return ScoreSummary.from_json(document)
