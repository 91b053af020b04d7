"""``wardround compare``: runs side by side, on the terminal, for programs, or as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from federation.pages.elements import Table, Td
    from server.report.comparison import Comparison, Row

FACTS = {
    "study": "Study",
    "fingerprint": "Fingerprint",
    "seed": "Seed",
    "rounds": "Rounds",
    "sites": "Hospitals",
    "patients": "Held-out patients",
    "mechanism": "Privacy",
    "largest_epsilon": "Largest ε of a hospital",
    "warnings": "Warnings",
}


def register(cli: typer.Typer) -> None:
    """Add this command."""
    cli.command()(compare)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, the one to compare with first.")],
    out: Annotated[Path | None, typer.Option(help="Write a page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what runs measured side by side, and how they differ from the first."""
    from federation.errors import UserError
    from server.report.comparison import comparison
    from server.report.run_folder import read_run_folder

    if len(runs) < 2:
        raise UserError("RUN RUN...", "give two run folders or more")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("RUN RUN...", "a run folder was given twice")
    found = comparison({str(run): read_run_folder(run) for run in runs})
    if out is not None:
        _write_page(found, out)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
        return
    for table in _tables(found):
        print(f"\n{table.caption}")
        print("\n".join(_plain(table)))
    print(f"\n{found.note}")
    if out is not None:
        print(f"page: {out}")


def _tables(found: Comparison) -> Iterator[Table]:
    from federation.pages.elements import Table, Td
    from server.report.text import ALL, METRICS, shown

    names = _labels(found)
    yield Table(
        "Runs",
        ["", *names],
        [
            [Td(title), *(Td(_short(shown(one[key]))) for one in found.facts)]
            for key, title in FACTS.items()
        ],
    )
    if found.settings:
        settings = found.settings.items()
        rows = [[Td(key), *(Td(_short(one)) for one in values)] for key, values in settings]
        yield Table("Settings that differ", ["Setting", *names], rows)
    later = [f"{name} − {names[0]}" for name in names[1:]]
    overall = [row for row in found.rows if row.group == ALL]
    yield Table(
        "All hospitals, held-out patients",
        ["Metric", *names, *later],
        [[Td(METRICS[row.metric]), *_metrics(row)] for row in overall],
    )
    yield Table(
        "AUROC by hospital and subgroup",
        ["Patients of", *names, *later],
        [
            [Td(row.group), *_metrics(row)]
            for row in found.rows
            if row.metric == "auroc" and row.group != ALL
        ],
    )


def _metrics(row: Row) -> list[Td]:
    from server.report.text import metric_text

    differences = []
    for one, paired in zip(row.differences, row.paired, strict=True):
        shown = metric_text(one)
        note = f"{shown.note}, paired" if paired else shown.note
        differences.append(replace(shown, note=note))
    return [*map(metric_text, row.values), *differences]


def _write_page(found: Comparison, out: Path) -> None:
    from federation.errors import UserError
    from federation.pages.render import render

    text = render(
        Path(__file__).parent / "compare.html.jinja",
        title=" · ".join(_labels(found)),
        note=found.note,
        tables=list(_tables(found)),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError("--out", f"{out} cannot be written: {error.strerror}") from None


def _labels(found: Comparison) -> list[str]:
    """The folders' own names where they differ, else their paths."""
    short = [Path(name).name for name in found.names]
    return short if len(set(short)) == len(short) else list(found.names)


def _short(text: str) -> str:
    """A digest by its beginning, which tells it from others; and a dash for nothing."""
    if text == "None":
        return "–"
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _plain(table: Table) -> Iterator[str]:
    lines = [list(table.columns), *([_text(td.text, td.note) for td in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(
            text.ljust(width) for text, width in zip(line, widths, strict=True)
        ).rstrip()


def _text(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text
