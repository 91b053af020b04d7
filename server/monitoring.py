"""New patients of a site against those on whom a run was measured: the document of a monitoring."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.bodies import Inputs
from federation.errors import UserError
from federation.messages import FEDERATED
from federation.metrics.drift import RULE
from federation.metrics.grid import UNCHANGED, Line
from federation.metrics.summary import ScoreSummary
from federation.subgroups import WHOLE_SITE, WINDOW
from server.drift import compared

SCHEMA = "wardround.monitor/1"
REFERENCE = f"{WINDOW}=0"
"""The run's held-out patients, before all windows."""


@dataclass(frozen=True)
class Reference:
    """Patients on whom a run was measured.

    Attributes:
        of: whose they are: the site's name, or that they are of all hospitals.
        summaries: of their scores, one a site.
        inputs: by input and level; empty where the run was told none.
    """

    of: str
    summaries: Sequence[ScoreSummary]
    inputs: Mapping[str, Mapping[str, int]]


def reference_of(run: Path, site: str) -> Reference:
    """Read a run's held-out patients of a site; of all sites, where the site sent none.

    Raises:
        UserError: if the run folder has no summaries, or they are damaged.
    """
    file = run / "summaries.json"
    try:
        sites = json.loads(file.read_text(encoding="utf-8"))["models"][FEDERATED]["sites"]
        cells = {
            name: ScoreSummary.from_json(one["cells"][WHOLE_SITE])
            for name, one in sites.items()
            if WHOLE_SITE in one["cells"]
        }
        if site in cells:
            return Reference(site, [cells[site]], _pooled(sites[site].get("inputs", {})))
        if not cells:
            raise ValueError
        return Reference("all hospitals of the run", list(cells.values()), {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(file, "it is missing, damaged, or holds no summaries") from None


def monitoring(
    reference: Reference,
    site: str,
    fingerprint: str,
    summaries: Mapping[str, ScoreSummary],
    inputs: Inputs,
    line: Line = UNCHANGED,
) -> dict[str, Any]:
    """What changed since the run was measured, in each window of the new patients.

    Args:
        reference: on whom it was measured.
        site: whose new patients they are.
        fingerprint: of the run's study.
        summaries: of the new patients, by window.
        inputs: of the new patients, by window, input and level.
        line: through the model's logits, where the run recalibrated it: of either's scores.
    """
    levels = {name: _as_told(reference.inputs, one) for name, one in inputs.items()}
    before = {feature: dict(counts) for feature, counts in reference.inputs.items()}
    found = compared(
        {
            REFERENCE: [one.recalibrated(line) for one in reference.summaries],
            **{name: [one.recalibrated(line)] for name, one in summaries.items()},
        },
        {REFERENCE: before, **levels},  # type: ignore[dict-item]
    )
    return {
        "schema": SCHEMA,
        "site": site,
        "fingerprint": fingerprint,
        "reference_of": reference.of,
        "rule": RULE,
        **found,
    }


def _pooled(windows: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    """Inputs of all windows together; one window names the same levels as any other."""
    found: dict[str, Counter[str]] = {}
    for inputs in windows.values():
        for feature, levels in inputs.items():
            found.setdefault(feature, Counter()).update(levels)
    return found


def _as_told(
    reference: Mapping[str, Mapping[str, int]], inputs: Mapping[str, Mapping[Any, int]]
) -> dict[str, Counter[str]]:
    """Join the levels that the site joined before they left."""
    found: dict[str, Counter[str]] = {}
    for feature, levels in inputs.items():
        known = reference.get(feature, {})
        counts: Counter[str] = Counter()
        for level, count in levels.items():
            counts[level if level in known or "others" not in known else "others"] += count
        found[feature] = counts
    return found
