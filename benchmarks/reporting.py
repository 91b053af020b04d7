"""What all benchmarks share: their options, their rows, and how rows are printed and written."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark.

    Attributes:
        name: ``benchmark/what/figure``.
        measured: the figure; None if it could not be measured.
        goal: what it should be; None for a figure that only informs.
        tolerance: how far from the goal it may be.
        holds: whether the goal is reached; None where there is none, or where a quick run cannot
            tell.
        note: what a reader must know to judge the figure.
    """

    name: str
    measured: float | None
    goal: float | None = None
    tolerance: float | None = None
    holds: bool | None = None
    note: str = ""

    @classmethod
    def near(cls, name: str, measured: float, goal: float, tolerance: float, note: str = "") -> Row:
        """A row that holds if the figure is within the tolerance of its goal.

        >>> Row.near("heart/accuracy", 0.70, 0.68, 0.03).holds
        True
        """
        return cls(name, measured, goal, tolerance, abs(measured - goal) <= tolerance, note)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="at most two minutes on two cores")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    return options


def publish(rows: Sequence[Row], file: Path | None) -> None:
    """Print the rows, and write them as ``{"rows": [...]}`` where a file is given."""
    print(table(rows))
    if file is not None:
        document = {"rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned plain text, one line each.

    >>> print(table([Row.near("heart/accuracy", 0.70, 0.68, 0.03, "five seeds")]))
    name            measured  goal  tolerance  holds  note
    heart/accuracy       0.7  0.68       0.03  yes    five seeds
    """
    head = ("name", "measured", "goal", "tolerance", "holds", "note")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width)
            if head[column] in ("measured", "goal", "tolerance")
            else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    holds = {None: "", True: "yes", False: "NO"}[row.holds]
    return (
        row.name,
        _number(row.measured),
        _number(row.goal),
        _number(row.tolerance),
        holds,
        row.note,
    )


def _number(value: float | None) -> str:
    """Four significant digits, without an exponent from a thousandth to a million."""
    if value is None:
        return "-"
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}"
    return f"{round(value, 3 - math.floor(math.log10(abs(value)))):.10g}"
