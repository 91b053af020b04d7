"""The kinds of summaries that a site sends, by the kind of task, and how one is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from federation.metrics.several import SeveralSummary
from federation.metrics.single import SingleSummary, read_single_summary

Summary: TypeAlias = SingleSummary | SeveralSummary


def read_summary(document: Mapping[str, Any]) -> Summary:
    """Read what a summary's ``to_json`` wrote; what a site sends is checked, not trusted.

    Raises:
        ValueError: if it is of no kind, or cannot belong to any patients.
    """
    if isinstance(document, Mapping) and "tasks" in document:
        return SeveralSummary.from_json(document)
    return read_single_summary(document)
