"""The distribution shifts of a simulation: what was asked, what was done, how far it moved sites.

These numbers are exact and not suppressed: shifts.json exists only where hospitals are simulated.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from federation.pages.elements import (
    GRID,
    INK,
    MUTED,
    Figure,
    Folded,
    Part,
    Section,
    Table,
    Td,
    axes,
)
from server.report.documents import ShiftDistances, ShiftDone, ShiftedSite, Shifts
from server.report.run_folder import RunFolder
from server.report.text import metric_text

MEASURES = {
    "prevalence": "Prevalence, difference",
    "age": "Age, total variation",
    "sex": "Sex, total variation",
    "ethnicity": "Ethnicity, total variation",
    "codes": "Codes, total variation",
    "values": "Values, Wasserstein in SD",
    "dependence": "Value–label correlation, difference",
    "intensity": "Image grey, Wasserstein",
    "texture": "Image texture, Wasserstein",
}

MOST = 20
"""Codes listed of one shift at one hospital."""


def shifts(run: RunFolder) -> Section | None:
    """What was asked, every hospital's distances, and what each shift did there."""
    if run.shifts is None:
        return None
    done = Folded("What was done at each hospital", [_done(run.shifts)])
    parts: list[Part] = [
        _asked(run.shifts),
        shift_figure(run.shifts),
        _sites(run.shifts),
        _prevalences(run.shifts),
        done,
    ]
    return Section("distribution-shifts", "Distribution shifts", parts)


def shift_figure(found: Shifts) -> Figure:
    """How far each hospital is from the others, before and after, by measure."""
    traces = []
    for moment, name, colour, symbol in (
        ("before", "Before", MUTED, "circle-open"),
        ("after", "After", INK, "circle"),
    ):
        points = [
            (value, MEASURES[key], site)
            for site, one in sorted(found.sites.items())
            for key, value in _measures(getattr(one, moment)).items()
            if value is not None
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [value for value, _, _ in points],
                "y": [measure for _, measure, _ in points],
                "text": [html.escape(site) for _, _, site in points],
                "marker": {"size": 9, "color": colour, "symbol": symbol, "opacity": 0.8},
                "hovertemplate": "%{text}: %{x:.3f}<extra></extra>",
            }
        )
    layout = axes("Distance from the other hospitals", "", height=420)
    layout["yaxis"] |= {
        "automargin": True,
        "gridcolor": GRID,
        "categoryorder": "array",
        "categoryarray": list(reversed(MEASURES.values())),
    }
    layout["xaxis"] |= {"rangemode": "tozero"}
    means = {m: _means(found, m) for m in ("before", "after")}
    rows = [
        [Td(title), *(_number(means[moment].get(key)) for moment in means)]
        for key, title in MEASURES.items()
    ]
    return Figure(
        "shifts",
        "Distance of each hospital from the others",
        f"How far each of {len(found.sites)} hospitals is from the others, pooled, before and "
        "after the shifts, by measure; one dot a hospital.",
        {"data": traces, "layout": layout},
        Table("Mean over hospitals", ["Measure", "Before", "After"], rows),
    )


def _asked(found: Shifts) -> Table:
    rows = []
    for one in found.shifts:
        known = {"number", "kind", "strength", "sites", "effective"}
        settings = {key: value for key, value in one.items() if key not in known}
        names = one.get("sites")
        rows.append(
            [
                Td(f"{one.get('number')}. {_words(one.get('kind'))}"),
                Td(f"{one.get('effective', 0):g}"),
                Td(", ".join(names) if names else "all", look="text"),
                Td(_listed(settings), look="text"),
            ]
        )
    return Table(
        f"Shifts, in their order (seed {found.seed})",
        ["Shift", "Strength", "Hospitals", "Settings"],
        rows,
    )


def _sites(found: Shifts) -> Table:
    rows = []
    for site, one in sorted(found.sites.items()):
        before, after = _measures(one.before), _measures(one.after)
        rows.append(
            [
                Td(site),
                Td(f"{one.after.patients:,}", f"before {one.before.patients:,}"),
                *(Td(_plain(after[key]), f"before {_plain(before[key])}") for key in MEASURES),
            ]
        )
    return Table(
        "Realised shift: each hospital against the others, pooled",
        ["Hospital", "Patients", *MEASURES.values()],
        rows,
        "Prevalence: mean over the outcomes. Values: mean over the codes with numbers. "
        "Two samples of one population are some distance apart too: compare with the one before.",
    )


def _prevalences(found: Shifts) -> Table:
    """A row a hospital, a column an outcome: one for yes or no, several for classes or findings."""
    outcomes = list(
        dict.fromkeys(name for one in found.sites.values() for name in one.after.outcomes)
    )
    rows = [
        [Td(site), *(_prevalence(one, name) for name in outcomes)]
        for site, one in sorted(found.sites.items())
    ]
    heads = ["Prevalence"] if len(outcomes) == 1 else outcomes
    return Table(
        "Prevalence at each hospital, with its 95% interval (Wilson)", ["Hospital", *heads], rows
    )


def _prevalence(site: ShiftedSite, outcome: str) -> Td:
    after, before = site.after.outcomes.get(outcome), site.before.outcomes.get(outcome)
    if after is None or after.prevalence is None:
        return Td("–")
    interval = metric_text(after.prevalence)
    was = before.prevalence.value if before is not None and before.prevalence is not None else None
    return Td(interval.text, f"{interval.note}; before {_plain(was)}")


def _done(found: Shifts) -> Table:
    rows = []
    for site, one in sorted(found.sites.items()):
        for done in one.shifts:
            rows.append(
                [
                    Td(site),
                    Td(f"{done.number}. {_words(done.kind)}", look="text"),
                    Td(_effect(done), look="text"),
                    Td(_listed(done.drawn), look="text"),
                ]
            )
        if one.images:
            rows.append([Td(site), Td("images", look="text"), Td(_listed(one.images), look="text")])
            rows[-1].append(Td("", look="text"))
    return Table("What was done at each hospital", ["Hospital", "Shift", "Effect", "Drawn"], rows)


def _effect(done: ShiftDone) -> str:
    if done.note:
        return f"nothing: {done.note}"
    if done.on == "model":
        return "in the model of the hospital, before its patients were drawn"
    return _listed(done.touched)


def _measures(one: ShiftDistances) -> dict[str, float | None]:
    variation = one.total_variation
    return {
        "prevalence": one.prevalence_gap,
        "age": variation.get("age_band"),
        **{name: variation.get(name) for name in ("sex", "ethnicity", "codes")},
        "values": one.values,
        "dependence": one.dependence,
        "intensity": one.image_intensity,
        "texture": one.image_texture,
    }


def _means(found: Shifts, moment: str) -> dict[str, float]:
    known: dict[str, list[float]] = {key: [] for key in MEASURES}
    for site in found.sites.values():
        for key, value in _measures(getattr(site, moment)).items():
            if value is not None:
                known[key].append(value)
    return {key: sum(values) / len(values) for key, values in known.items() if values}


def _number(value: float | None) -> Td:
    return Td(_plain(value))


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _words(kind: Any) -> str:
    return str(kind).replace("_", " ")


def _listed(values: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{_words(key) if key.islower() else key}: {_shown(value)}" for key, value in values.items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        given = [f"{key} {_shown(part)}" for key, part in value.items() if part is not None]
        more = [f"and {len(given) - MOST} more in shifts.json"] if len(given) > MOST else []
        return ", ".join([*given[:MOST], *more]) or "none"
    if isinstance(value, list):
        return ", ".join(_shown(part) for part in value) or "none"
    if value == "":
        return '""'
    return f"{value:.3g}" if isinstance(value, float) else str(value)
