"""The tables of a sweep's report and of the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from federation.pages.elements import Table, Td
from server.report.text import subgroup_name
from simulations.sweeps.plan import Plan
from simulations.sweeps.results import METRICS, Mean, Results, Summary
from simulations.sweeps.settings import EPSILON, NO_DP, short_names, shown_value

SHADE_STEP = 0.03
"""Loss of AUROC by which a cell gets one shade darker."""
ON_TERMINAL = ("auroc", "worst_site_auroc", "worst_subgroup_auroc", "calibration_slope", "brier")


@dataclass(frozen=True)
class Line:
    """The settings that differ in the key of the x axis alone.

    Attributes:
        label: their other values; empty if there is only one line.
        points: in the order of the axis.
    """

    label: str
    points: tuple[Summary, ...]


def axis_key(plan: Plan) -> str:
    """Return the key of the x axis: epsilon, or else the first one that all settings have."""
    if EPSILON in plan.grid:
        return EPSILON
    return next(key for key in plan.grid if all(key in one.values for one in plan.settings))


def lines(results: Results) -> list[Line]:
    """Group the settings by everything but the x axis; those without privacy are left out."""
    key, names = axis_key(results.plan), short_names(results.plan.grid)
    groups: dict[str, list[Summary]] = {}
    for one in results.summaries:
        if key == EPSILON and one.setting.no_dp:
            continue
        others = {k: v for k, v in one.setting.values.items() if k != key}
        label = ", ".join(f"{names[k]} {value_text(v)}" for k, v in others.items())
        groups.setdefault(label, []).append(one)
    return [Line(label, tuple(points)) for label, points in groups.items()]


def without_privacy(results: Results) -> list[Summary]:
    """Return the settings without differential privacy, where epsilon is swept."""
    if axis_key(results.plan) != EPSILON:
        return []
    return [one for one in results.summaries if one.setting.no_dp]


def axis_text(results: Results, one: Summary) -> str:
    """Return where a setting stands on the x axis, in words."""
    key = axis_key(results.plan)
    name = "ε" if key == EPSILON else short_names(results.plan.grid)[key]
    return f"{name} {value_text(one.setting.values.get(key))}"


def value_text(value: Any) -> str:
    """Write a grid value for a reader."""
    return NO_DP if value == math.inf else "–" if value is None else shown_value(value)


def mean_text(mean: Mean, digits: int = 3, *, sign: bool = False) -> Td:
    """Mean over interval."""
    if mean.value is None:
        return Td("–", look="undefined")
    text = _number(mean.value, digits, sign)
    if mean.low is None or mean.high is None:
        return Td(text, "one seed: no interval" if mean.seeds == 1 else "")
    return Td(text, f"{_number(mean.low, digits, sign)} to {_number(mean.high, digits, sign)}")


def settings_table(results: Results) -> Table:
    """Every setting with its means, and AUROC against its reference."""
    rows = []
    for one in results.summaries:
        failed = f", {one.failed} failed" if one.failed else ""
        difference = one.differences.get("auroc")
        compared = Td("reference") if one.reference is one.setting else Td("–")
        if difference is not None and difference.value is not None:
            compared = mean_text(difference, sign=True)
        rows.append(
            [
                Td(one.setting.label, f"{one.ok} runs{failed}"),
                compared,
                *(mean_text(one.means.get(name, Mean())) for name in METRICS),
            ]
        )
    columns = ["Setting", f"{results.rank}, difference to reference", *map(results.title, METRICS)]
    return Table("All settings: means over seeds, with 95% intervals below them", columns, rows)


def failed_table(results: Results) -> Table:
    """Every trial without a result, and why."""
    rows = [[Td(row.trial.name), Td(row.reason, look="text")] for row in results.failed]
    return Table("Failed runs", ["Run", "Reason"], rows)


def pays_tables(results: Results, kind: str, what: str) -> list[Table]:
    """AUROC of each hospital or subgroup: with the reference, and the difference elsewhere."""
    found = [name for name in results.names if name.startswith(kind)]
    return [_pays(results, line, found, kind, what) for line in lines(results)] if found else []


def terminal_rows(results: Results) -> Iterator[list[str]]:
    """Yield the table that a terminal shows, its head first."""
    yield ["setting", "runs", *map(results.title, ON_TERMINAL), "against reference"]
    for one in results.summaries:
        means = [one.means.get(name, Mean()) for name in ON_TERMINAL]
        shown = [mean_text(mean) for mean in means]
        compared = mean_text(one.differences.get("auroc", Mean()), sign=True)
        cells = [td.text for td in shown] + [_with_note(compared)]
        yield [one.setting.label, f"{one.ok}/{one.ok + one.failed}", *cells]


def _pays(results: Results, line: Line, names: Sequence[str], kind: str, what: str) -> Table:
    reference = _reference_of(results, line)
    others = [one for one in line.points if one is not reference]
    rows = []
    for name in [*names, "mean_site_auroc"] if kind == "site:" else names:
        head = "Mean over hospitals" if name not in names else subgroup_name(name[len(kind) :])
        base = mean_text(reference.means.get(name, Mean()))
        changes = [_shaded(one.differences.get(name, Mean())) for one in others]
        rows.append([Td(head), base, *changes])
    columns = [what.capitalize(), f"{results.rank}, {reference.setting.label}"]
    columns += [axis_text(results, one) for one in others]
    of = f", {line.label}" if line.label else ""
    caption = f"{results.rank} by {what}{of}: change against {reference.setting.label}"
    return Table(caption, columns, rows)


def _reference_of(results: Results, line: Line) -> Summary:
    chosen = line.points[0].reference
    return next(one for one in results.summaries if one.setting is chosen)


def _shaded(difference: Mean) -> Td:
    shown = mean_text(difference, sign=True)
    if difference.value is None or difference.value >= 0:
        return shown
    return Td(shown.text, shown.note, f"shade-{min(int(-difference.value / SHADE_STEP), 4)}")


def _with_note(td: Td) -> str:
    return f"{td.text} ({td.note})" if td.note else td.text


def _number(value: float, digits: int, sign: bool) -> str:
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
