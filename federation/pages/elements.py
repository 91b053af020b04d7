"""The parts of a page: facts, tables, figures. Plain values, formatted before they come here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

INK = "var(--plot-ink)"
GRID = "var(--plot-grid)"
MUTED = "var(--plot-muted)"
FAINT = "var(--plot-faint)"
TEXT = "var(--plot-text)"
FILL = "var(--plot-fill)"
BAND = "var(--plot-band)"
COLOURS = tuple(f"var(--plot-{k})" for k in range(1, 9))
"""Colours of a figure: names of page.css, which has them for light, dark and paper. The page
puts the colours in where a name stands alone as a value."""

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


TOTAL = "total"
"""The look of a row's head whose row stays on top when a reader sorts the table."""


@dataclass(frozen=True)
class Table:
    """A caption, column heads, and rows that start with their own head."""

    kind: ClassVar = "table"
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
    any text, so names that a person chose must be escaped in it. A trace of one choice of a
    ``Chooser`` carries ``meta``: ``of``, the choice, unescaped, and ``alone`` if it is to be seen
    only where that is chosen.
    """

    kind: ClassVar = "figure"
    name: str
    title: str
    words: str
    spec: Mapping[str, Any]
    table: Table


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; ``note`` is one that explains what stands above it."""

    kind: ClassVar = "text"
    text: str
    note: bool = False


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    kind: ClassVar = "terms"
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Pair:
    """Figures side by side where there is room."""

    kind: ClassVar = "pair"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Folded:
    """What is shown when asked for."""

    kind: ClassVar = "folded"
    summary: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Chooser:
    """A choice of whose curves some figures show.

    Args:
        label: of the choice.
        whole: what traces without ``meta`` show, "All hospitals".
        choices: names, as in the traces' ``meta`` and the heads of the tables' rows.
        figures: names of the figures that follow.
    """

    kind: ClassVar = "chooser"
    name: str
    label: str
    whole: str
    choices: Sequence[str]
    figures: Sequence[str]


Part = Heading | Text | Terms | Table | Figure | Pair | Folded | Chooser


@dataclass(frozen=True)
class Section:
    """A part of a page: its id, its heading, and what it holds, in order."""

    name: str
    title: str
    parts: Sequence[Part]

    @property
    def figures(self) -> list[Figure]:
        """The figures of the section, wherever they stand in it."""
        return [part for part in flat(self.parts) if isinstance(part, Figure)]

    @property
    def tables(self) -> list[Table]:
        """The tables of the section and those of its figures."""
        tables = [part for part in flat(self.parts) if isinstance(part, Table)]
        return tables + [figure.table for figure in self.figures]


def flat(parts: Iterable[Part]) -> Iterator[Part]:
    """Every part, and what is inside of pairs and folds."""
    for part in parts:
        if isinstance(part, Pair):
            yield from part.figures
        elif isinstance(part, Folded):
            yield from flat(part.parts)
        else:
            yield part


def axes(x: str, y: str, height: int = 400) -> dict[str, Any]:
    """The layout of a figure with these axis titles, ``height`` pixels high."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "ticks": "outside"}
    axis |= {"tickcolor": MUTED, "fixedrange": True}
    return {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": TEXT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {**axis, "automargin": True, "title": {"text": x, "font": {"size": 13}}},
        "yaxis": {**axis, "title": {"text": y, "font": {"size": 13}}},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    }
