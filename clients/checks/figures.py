"""The figures of a check's page, each with its numbers in a table."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clients.checks.coverage import Coverage
from clients.checks.values import QUANTILES, Ranged
from clients.cohort import SPLITS, Patients
from clients.features import LARGEST_VALUE
from federation.pages.elements import COLOURS, INK, MUTED, Figure, Table, Td, axes
from federation.vocabulary import AGE, Scale

MOST_BARS = 40


def months_figure(months: Mapping[int, int]) -> Figure | None:
    """Events by month, or by year where there are many; None if all are of one month."""
    if len(months) < 2:
        return None
    by_year = len(months) > 120
    counted: dict[str, int] = {}
    for month, count in months.items():
        text = str(np.datetime64(month, "M"))
        key = text[:4] if by_year else text
        counted[key] = counted.get(key, 0) + count
    what = "year" if by_year else "month"
    layout = axes("", "Events", height=300)
    layout["xaxis"] |= {"type": "category" if by_year else "date"}
    return Figure(
        "months",
        f"Events by {what}",
        f"Events by {what}, from {min(counted)} to {max(counted)}.",
        {"data": [_bars(list(counted), list(counted.values()))], "layout": layout},
        Table(
            f"Events by {what}",
            [what.capitalize(), "Events"],
            [[Td(key), Td(f"{count:,}")] for key, count in counted.items()],
        ),
    )


def prevalence_figure(patients: Patients) -> Figure:
    """Patients with and without the outcome, by split."""
    sick = [int(patients.labels[patients.splits[name]].sum()) for name in SPLITS]
    sizes = [len(patients.splits[name]) for name in SPLITS]
    well = [size - n for size, n in zip(sizes, sick, strict=True)]
    layout = axes("", "Patients", height=300)
    layout |= {"barmode": "stack"}
    names = [name.replace("_", "-") for name in SPLITS]
    return Figure(
        "prevalence",
        "Labels by split",
        "Patients with and without the outcome in each split.",
        {
            "data": [
                {**_bars(names, sick, COLOURS[1]), "name": "with the outcome"},
                {**_bars(names, well, COLOURS[0]), "name": "without"},
            ],
            "layout": layout,
        },
        Table(
            "Labels by split",
            ["Split", "With the outcome", "Without"],
            [
                [Td(n), Td(f"{a:,}"), Td(f"{b:,}")]
                for n, a, b in zip(names, sick, well, strict=True)
            ],
        ),
    )


def age_figure(patients: Patients) -> Figure | None:
    """Patients by age at the prediction time, in steps of five years; None if no age is known."""
    events = patients.events
    ages = events.loc[events["code"] == AGE, "numeric_value"].to_numpy(np.float64)
    if not len(ages):
        return None
    bounds = np.arange(0, 125, 5)
    counts = np.histogram(ages, bounds)[0]
    names = [f"{low}–{low + 4}" for low in bounds[:-1]]
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else len(counts)
    return Figure(
        "ages",
        "Ages at the prediction time",
        f"Patients by age: half of them are over {np.median(ages):.0f} years old.",
        {
            "data": [_bars(names[:last], counts[:last].tolist())],
            "layout": axes("Years", "Patients", height=300),
        },
        Table(
            "Ages",
            ["Years", "Patients"],
            [[Td(n), Td(f"{c:,}")] for n, c in zip(names[:last], counts[:last], strict=True)],
        ),
    )


def presence_figure(present: Mapping[str, int], patients: int) -> Figure:
    """Share of patients with each modality."""
    shares = [count / max(patients, 1) for count in present.values()]
    layout = axes("Share of patients", "", height=110 + 36 * len(present))
    layout["xaxis"] |= {"range": [0, 1.1], "tickvals": [0, 0.25, 0.5, 0.75, 1], "tickformat": ".0%"}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "automargin": True}
    return Figure(
        "present",
        "Patients with each modality",
        "Share of the patients who have each modality.",
        {"data": [_sideways(list(present), shares)], "layout": layout},
        Table(
            "Patients with each modality",
            ["Modality", "Patients"],
            [[Td(name), Td(f"{count:,}")] for name, count in present.items()],
        ),
    )


def coverage_figure(coverage: Coverage, patients: int) -> Figure | None:
    """Share of patients with each code that the study names; None if it names none."""
    ordered = sorted(coverage.wanted.items(), key=lambda one: one[1])
    if not ordered:
        return None
    shown = dict(ordered[:MOST_BARS])
    layout = axes("Share of patients", "", height=120 + 22 * len(shown))
    layout["xaxis"] |= {"range": [0, 1.1], "tickvals": [0, 0.25, 0.5, 0.75, 1], "tickformat": ".0%"}
    layout["yaxis"] |= {"showgrid": False, "automargin": True, "autorange": "reversed"}
    rest = f", the {len(shown)} rarest" if len(shown) < len(ordered) else ""
    rows = [
        [
            Td(code, f"here perhaps {coverage.alike[code]}" if code in coverage.alike else ""),
            Td(f"{n:,}"),
        ]
        for code, n in ordered
    ]
    return Figure(
        "coverage",
        f"Patients with the study's codes{rest}",
        "Share of the patients who have each code that the study names.",
        {
            "data": [_sideways(list(shown), [n / max(patients, 1) for n in shown.values()])],
            "layout": layout,
        },
        Table("Patients with the study's codes", ["Code", "Patients"], rows),
    )


def values_figure(found: Sequence[Ranged]) -> Figure | None:
    """Values in half-widths of the study's reference ranges; None if there are none."""
    if not found:
        return None
    shown = found[:MOST_BARS]
    names = [_escaped(one.code) for one in shown]
    scaled = [
        [(q - (s := Scale.of_range(one.low, one.high)).center) / s.width for q in one.quantiles]
        for one in shown
    ]
    boxes = {
        "type": "box",
        "orientation": "h",
        "y": names,
        "lowerfence": [_clipped(q[0]) for q in scaled],
        "q1": [_clipped(q[1]) for q in scaled],
        "median": [_clipped(q[2]) for q in scaled],
        "q3": [_clipped(q[3]) for q in scaled],
        "upperfence": [_clipped(q[4]) for q in scaled],
        "line": {"color": INK, "width": 1.4},
        "fillcolor": "#c6dce8",
        "hoverinfo": "y",
        "showlegend": False,
    }
    layout = axes("Half-widths from the middle of the range", "", height=130 + 30 * len(shown))
    reach = max(2.0, *(max(abs(_clipped(q[0])), abs(_clipped(q[4]))) for q in scaled)) + 0.5
    layout["xaxis"] |= {"range": [-reach, reach]}
    layout["yaxis"] |= {"showgrid": False, "automargin": True, "autorange": "reversed"}
    layout["shapes"] = [
        {"type": "rect", "layer": "below", "x0": -1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper",
         "fillcolor": "#e6f0e8", "line": {"width": 0}}
    ]  # fmt: skip
    rows = [
        [
            Td(one.code, f"range {one.low:g} to {one.high:g}"),
            Td(f"{one.values:,}"),
            *(Td(f"{q:.4g}") for q in one.quantiles),
            Td(f"{one.outside:.1%}"),
            Td(f"{one.clipped:.1%}"),
        ]
        for one in found
    ]
    percents = [f"{q:.0%}" for q in QUANTILES]
    return Figure(
        "values",
        "Values beside the study's reference ranges",
        "Median, quartiles, 1st and 99th percentile of each code's values; the band is the "
        "reference range. Training clips values at 10 half-widths, as this figure does.",
        {"data": [boxes], "layout": layout},
        Table(
            "Values beside the study's reference ranges",
            ["Code", "Values", *percents, "Outside", "Clipped"],
            rows,
        ),
    )


def _bars(x: Sequence[Any], y: Sequence[Any], colour: str = INK) -> dict[str, Any]:
    return {"type": "bar", "x": list(x), "y": list(y), "marker": {"color": colour}}


def _sideways(names: Sequence[str], shares: Sequence[float]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "y": [_escaped(name) for name in names],
        "x": [round(share, 4) for share in shares],
        "marker": {"color": [INK if share else MUTED for share in shares]},
        "text": [f"{share:.0%}" for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "y+text",
    }


def _clipped(value: float) -> float:
    return round(min(max(value, -LARGEST_VALUE), LARGEST_VALUE), 4)


def _escaped(name: str) -> str:
    return html.escape(name)
