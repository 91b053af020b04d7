"""The command that runs experiments."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from simulations.sweeps.results import Results


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(sweep)


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="The sweep file.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The sweep's folder; the same command continues it.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds: quick_seeds.")] = False,
    sites: Annotated[
        Path | None, typer.Option(help="A folder with one folder per site, instead of the file's.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Trials at a time; 0 runs in this process without Ray."),
    ] = None,
) -> None:
    """Run a study over a grid of its keys and over seeds, on Ray Tune; prints the folder last.

    With --sites each trial keeps a privacy ledger of its own, as every simulation does: on real
    patients the trials together spend more than any one of them reports.
    """
    from simulations.sweeps.runner import run_sweep

    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr, flush=True)

    try:
        results = run_sweep(file, out, quick=quick, sites=sites, workers=workers, tell=tell)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None
    print(_table(results))
    print(f"report: {out / 'report.html'}")
    print(out)


def _table(results: Results) -> str:
    from simulations.sweeps.tables import terminal_rows

    rows = list(terminal_rows(results))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        head, *cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join([head, *cells]).rstrip())
    return "\n".join(lines)
