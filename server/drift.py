"""``drift`` of metrics.json: how the patients and the model's figures changed over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federation.bodies import Inputs
from federation.metrics.calibration import calibration_intercept, calibration_slope
from federation.metrics.drift import RULE, Change, changes, holm, input_change
from federation.metrics.estimate import Estimate
from federation.metrics.intervals import delong, wilson_interval
from federation.metrics.summary import ScoreSummary, merge
from federation.windows import WindowsSection
from server.site_evaluation import SiteEvaluation, ordered, present, window_number, windows

ONE_WINDOW = "fewer than two windows can be compared"


def drift(
    evaluations: Sequence[SiteEvaluation], section: WindowsSection, pooled: bool
) -> dict[str, Any]:
    """Each window against the oldest one, of all sites together and of each site.

    Args:
        evaluations: of the federated model, on the held-out split.
        section: the study's windows.
        pooled: whether the sites' scores share a scale; else nothing is said of all together.
    """
    sent = ordered(evaluations)
    document: dict[str, Any] = {"rule": RULE, "windows": section.model_dump(mode="json")}
    if pooled:
        joint: dict[str, list[ScoreSummary] | str] = {}
        for name in windows(sent):
            seen, _ = present(sent, name)
            joint[name] = list(seen.values()) or "every site withheld it"
        document["overall"] = compared(joint, {})
    document["sites"] = {
        one.site: compared(
            {name: one.reason(name) or [one.cells[name]] for name in windows([one])}, one.inputs
        )
        for one in sent
        if not one.reason("")
    }
    return document


def compared(found: Mapping[str, Sequence[ScoreSummary] | str], inputs: Inputs) -> dict[str, Any]:
    """Windows of some patients against the oldest that is told.

    Args:
        found: summaries by window, one a site, or the reason why it is withheld.
        inputs: patients by window, input and level.
    """
    told = {name: one for name, one in found.items() if not isinstance(one, str)}
    document: dict[str, Any] = {
        "windows": {
            str(window_number(name)): {"suppressed": one}
            if isinstance(one, str)
            else figures(merge(one))
            for name, one in found.items()
        }
    }
    if len(told) < 2:
        return {**document, "reason": ONE_WINDOW, "alarms": []}
    first, *later = told
    looked = {
        (name, measure): change
        for name in later
        for measure, change in {
            **changes(told[first], told[name]),
            **input_changes(inputs.get(first, {}), inputs.get(name, {})),
        }.items()
    }
    adjusted = holm({f"{name} {measure}": one.p for (name, measure), one in looked.items()})
    alarms = []
    for (name, measure), change in looked.items():
        number, p = str(window_number(name)), adjusted[f"{name} {measure}"]
        window = document["windows"][number]
        window.setdefault("changes", {})[measure] = change.to_json(p)
        if change.alarms(p):
            alarms.append({"window": int(number), "measure": measure})
    return {**document, "reference": window_number(first), "alarms": alarms}


def input_changes(
    reference: Mapping[str, Mapping[Any, int]], later: Mapping[str, Mapping[Any, int]]
) -> dict[str, Change]:
    """Population stability of each input that both tell, as ``input:CODE``."""
    return {
        f"input:{name}": input_change(levels, later[name])
        for name, levels in reference.items()
        if name in later
    }


def figures(summary: ScoreSummary) -> dict[str, Any]:
    """What is told of one window by itself."""
    share = summary.positives / summary.n
    return {
        "n": summary.n,
        "positives": summary.positives,
        "prevalence": Estimate(share).between(*wilson_interval(share, summary.n)).to_json(),
        "auroc": delong(summary).to_json(),
        "calibration_slope": calibration_slope(summary).to_json(),
        "calibration_intercept": calibration_intercept(summary).to_json(),
    }


def drift_warnings(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know: each alarm, by whose patients."""
    scopes = {"all hospitals": document.get("overall", {}), **document["sites"]}
    found = []
    for scope, one in scopes.items():
        by_window: dict[int, list[str]] = {}
        for alarm in one.get("alarms", ()):
            by_window.setdefault(alarm["window"], []).append(alarm["measure"])
        for window, measures in by_window.items():
            found.append(f"Drift at {scope}, window {window}: {', '.join(measures)} changed.")
    return found
