"""What the report's figures are drawn with: plotly traces as plain values.

Names that sites chose are escaped, because plotly reads tags in any text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from federation.pages.elements import COLOURS, DASHES, FAINT, INK, Trace
from server.report.documents import Metric
from server.report.text import ALL

NAMED = 12
"""Hospitals up to which each has its own colour and place in the legend."""


def of_site(site: str, x: Sequence[Any], y: Sequence[Any], k: int, of: int) -> Trace:
    """The line of one hospital among ``of``: a colour and dash of its own while there are few."""
    named = of <= NAMED
    return {
        **line(site, x, y, COLOURS[k % len(COLOURS)] if named else FAINT),
        "line": {
            "color": COLOURS[k % len(COLOURS)] if named else FAINT,
            "width": 1.8 if named else 1.2,
            "dash": DASHES[(k // 2) % len(DASHES)] if named else "solid",
        },
        "showlegend": named,
        "meta": {"of": site},
        "visible": named,
    }


def of_all(x: Sequence[Any], y: Sequence[Any], mode: str = "lines", name: str = ALL) -> Trace:
    """The line of all hospitals together."""
    return {
        **line(name, x, y, INK, mode),
        "line": {"color": INK, "width": 3.2},
        "marker": {"size": 6, "color": INK},
    }


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, mode: str = "lines") -> Trace:
    """A line of its own name."""
    return {
        "type": "scatter",
        "mode": mode,
        "name": html.escape(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "width": 1.8},
        "connectgaps": True,
    }


def reference(x0: float, x1: float, y0: float, y1: float, yref: str = "y") -> dict[str, Any]:
    """A thin dashed line behind the others."""
    place = {"x0": x0, "x1": x1, "y0": y0, "y1": y1, "yref": yref}
    return {
        "type": "line",
        "layer": "below",
        "line": {"color": FAINT, "width": 1, "dash": "dash"},
        **place,
    }


def arms(metric: Metric | None) -> tuple[float, float]:
    """Distance from a value down and up to the ends of its interval."""
    if metric is None or metric.value is None or metric.low is None or metric.high is None:
        return 0.0, 0.0
    return round(metric.value - metric.low, 6), round(metric.high - metric.value, 6)


def thinned(x: Any, y: Any, most: int = 100) -> tuple[list[float], list[float]]:
    """At most so many points of a curve, its ends among them, rounded to four digits."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).round().astype(int))
    return np.round(x, 4)[chosen].tolist(), np.round(y, 4)[chosen].tolist()
