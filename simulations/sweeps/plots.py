"""The figures of a sweep's report, each with its numbers in a table."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from federation.pages.elements import (
    COLOURS,
    DASHES,
    GRID,
    INK,
    MUTED,
    Figure,
    Table,
    Td,
    Trace,
)
from simulations.sweeps.results import Mean, Results
from simulations.sweeps.settings import EPSILON, NO_DP
from simulations.sweeps.tables import (
    Line,
    axis_key,
    axis_text,
    lines,
    mean_text,
    value_text,
    without_privacy,
)

LINE_GAP = 0.02
"""Distance between two lines' markers, as a share of the axis: intervals must not overlap."""
BEYOND = 0.08
"""How far an axis goes beyond the values, for their intervals."""


def auroc_figures(results: Results) -> list[Figure]:
    """AUROC of all hospitals, of the worst hospital and of the worst subgroup, on one scale."""
    names = ["auroc", "worst_site_auroc", "worst_subgroup_auroc"]
    means = [one.means[n] for one in results.summaries for n in names if n in one.means]
    return [_figure(results, name, results.title(name), _scale(means)) for name in names]


def calibration_figures(results: Results) -> list[Figure]:
    """Calibration slope and Brier score of all hospitals."""
    slope = _figure(results, "calibration_slope", "Calibration slope (1 is right)")
    return [slope, _figure(results, "brier", f"{results.title('brier')} score (lower is better)")]


def _scale(means: Sequence[Mean]) -> list[float]:
    """A range that shows all values, and of a wide interval only a part."""
    values = [mean.value for mean in means if mean.value is not None]
    if not values:
        return [0.5, 1]
    low = min([mean.low for mean in means if mean.low is not None] or values)
    high = max([mean.high for mean in means if mean.high is not None] or values)
    return [
        max(low, min(values) - BEYOND, 0) - 0.02,
        min(high, max(values) + BEYOND, 1) + 0.01,
    ]


def _figure(
    results: Results, name: str, title: str, scale: Sequence[float] | None = None
) -> Figure:
    axis = _Axis(results)
    drawn = lines(results)
    traces = [_trace(axis, line, name, k, len(drawn)) for k, line in enumerate(drawn)]
    shapes = []
    for one in without_privacy(results):
        mean = one.means.get(name, Mean())
        traces.append(_point(axis.end, mean, one.setting.label))
        if mean.value is not None:
            shapes.append(_level(mean.value))
    layout = _layout(axis, results.title(name).partition(",")[0], len(traces) > 1)
    layout["shapes"] = shapes
    if scale is not None:
        layout["yaxis"]["range"] = list(scale)
    x = axis_text(results, results.summaries[0]).rpartition(" ")[0]
    return Figure(
        name,
        title,
        f"{title} against {axis.title}, with 95% intervals over {len(results.plan.seeds)} seeds.",
        {"data": traces, "layout": layout},
        _numbers(results, name, title, x),
    )


def _numbers(results: Results, name: str, title: str, axis: str) -> Table:
    heads = [line.label or results.title(name) for line in lines(results)]
    by_text: dict[str, list[Td]] = {}
    for k, line in enumerate(lines(results)):
        for one in line.points:
            row = by_text.setdefault(axis_text(results, one), [Td("–")] * len(heads))
            row[k] = mean_text(one.means.get(name, Mean()))
    rows = [[Td(text), *cells] for text, cells in by_text.items()]
    for one in without_privacy(results):
        same = mean_text(one.means.get(name, Mean()))
        rows.append([Td(one.setting.label), *([same] * max(len(heads), 1))])
    return Table(title, [axis, *(heads or [results.title(name)])], rows)


class _Axis:
    """Where settings stand on the x axis: epsilon, numbers, or names in their order."""

    def __init__(self, results: Results):
        self.key = axis_key(results.plan)
        self.told = results.title
        self.values = [v for v in results.plan.grid[self.key] if v != math.inf]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)
        self.log = numbers and min(self.values, default=0) > 0 and _spread(self.values) >= 8
        self.log = self.log or (self.key == EPSILON and numbers)
        self.numeric = numbers
        self.title = "ε" if self.key == EPSILON else self.key
        self._places = [float(self.place(value)) for value in self.values]
        low, high = min(self._places, default=0), max(self._places, default=0)
        self.width = (high - low) or 1.0
        self.end = high + max(self.width / max(len(self.values) - 1, 1), 0.2 * self.width)
        self.ends_without_privacy = bool(without_privacy(results))
        pad = 0.06 * self.width
        self.range = [low - pad, (self.end if self.ends_without_privacy else high) + pad]

    def place(self, value: Any) -> float:
        """Return the position of a value."""
        if self.log:
            return math.log10(value)
        return float(value) if self.numeric else float(self.values.index(value))

    def ticks(self) -> dict[str, Any]:
        """Return the ticks: each value, and none in between."""
        places, texts = list(self._places), [html.escape(value_text(v)) for v in self.values]
        if self.ends_without_privacy:
            places, texts = [*places, self.end], [*texts, NO_DP]
        return {"tickmode": "array", "tickvals": places, "ticktext": texts, "range": self.range}


def _trace(axis: _Axis, line: Line, name: str, k: int, of: int) -> Trace:
    colour = COLOURS[k % len(COLOURS)]
    means = [one.means.get(name, Mean()) for one in line.points]
    places = [axis.place(one.setting.values[axis.key]) for one in line.points]
    aside = (k - (of - 1) / 2) * min(LINE_GAP, 0.12 / max(of, 1)) * axis.width
    texts = [value_text(one.setting.values[axis.key]) for one in line.points]
    return {
        "type": "scatter",
        "mode": "lines+markers" if axis.numeric else "markers",
        "name": html.escape(line.label or axis.told(name)),
        "x": [place + aside for place in places],
        "y": [mean.value for mean in means],
        "text": [html.escape(text) for text in texts],
        "hovertemplate": f"{html.escape(axis.title)} %{{text}}: %{{y:.3f}}",
        "error_y": _arms(means, colour),
        "line": {"color": colour, "width": 2, "dash": DASHES[k % len(DASHES)]},
        "marker": {"size": 8, "color": colour},
        "connectgaps": True,
    }


def _point(place: float, mean: Mean, label: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": html.escape(label),
        "x": [place],
        "y": [mean.value],
        "hovertemplate": f"{html.escape(label)}: %{{y:.3f}}<extra></extra>",
        "error_y": _arms([mean], INK),
        "marker": {"size": 11, "symbol": "diamond", "color": INK},
    }


def _arms(means: Sequence[Mean], colour: str) -> dict[str, Any]:
    def arm(mean: Mean, end: float | None) -> float:
        return 0.0 if mean.value is None or end is None else abs(end - mean.value)

    return {
        "type": "data",
        "symmetric": False,
        "array": [arm(mean, mean.high) for mean in means],
        "arrayminus": [arm(mean, mean.low) for mean in means],
        "color": colour,
        "thickness": 1.4,
        "width": 4,
    }


def _layout(axis: _Axis, y: str, legend: bool) -> dict[str, Any]:
    line = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "ticks": "outside"}
    line |= {"tickcolor": MUTED, "fixedrange": True, "automargin": True}
    title = html.escape(axis.title)
    return {
        "height": 400,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222b32"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {**line, **axis.ticks(), "title": {"text": title, "font": {"size": 13}}},
        "yaxis": {**line, "title": {"text": y, "font": {"size": 13}}},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "showlegend": legend,
        "hovermode": "closest",
    }


def _level(y: float) -> dict[str, Any]:
    """A line across the plot at the level without privacy."""
    line = {"color": "#8a959c", "width": 1, "dash": "dash"}
    place = {"x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y}
    return {"type": "line", "layer": "below", "line": line, **place}


def _spread(values: Sequence[float]) -> float:
    return max(values) / min(values) if values else 1.0
