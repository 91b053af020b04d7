"""The parts of a page: facts, tables, figures. Plain values, formatted before they come here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INK = "#16324a"
GRID = "#e3e7ea"
MUTED = "#5b6770"
COLOURS = ("#0b6e99", "#b4501e", "#35743f", "#74489c", "#97344c", "#6a6400", "#46597f", "#7d4f24")
DASHES = ("solid", "dash", "dot", "dashdot")

Trace = dict[str, Any]


@dataclass(frozen=True)
class Fact:
    """One figure of the first screen."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Td:
    """One table cell: its text, a smaller note below it, and how it looks."""

    text: str
    note: str = ""
    look: str = ""
    span: int = 1


@dataclass(frozen=True)
class Table:
    """A caption, column heads, and rows that start with their own head."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Td]]
    note: str = ""

    @property
    def worded(self) -> set[int]:
        """Columns that hold words, not numbers; the first is the rows' heads."""
        return {k for row in self.rows for k, td in enumerate(row) if td.look == "text"}


@dataclass(frozen=True)
class Figure:
    """One plot: what it shows in words, for plotly, and in numbers.

    ``spec`` is a plotly specification as plain values, drawn in the browser. Plotly reads tags in
    any text, so names that a person chose must be escaped in it.
    """

    name: str
    title: str
    words: str
    spec: Mapping[str, Any]
    table: Table


def axes(x: str, y: str, height: int = 400) -> dict[str, Any]:
    """The layout of a figure with these axis titles, ``height`` pixels high."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "ticks": "outside"}
    axis |= {"tickcolor": MUTED, "fixedrange": True}
    return {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222b32"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {**axis, "automargin": True, "title": {"text": x, "font": {"size": 13}}},
        "yaxis": {**axis, "title": {"text": y, "font": {"size": 13}}},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    }
