"""The command that plays a whole consortium on this machine, before a hospital is called."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(rehearse)


def rehearse(
    consortium: Annotated[Path, typer.Argument(help="A consortium file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Training rounds.")] = 3,
) -> None:
    """Run server and sites as processes over TLS with synthetic patients; prints the run folder."""
    from federation.errors import WardroundError
    from simulations.rehearsal import BACKSTAGE
    from simulations.rehearsal import rehearse as run

    began = time.monotonic()
    # Ended like this too, it ends the services that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    rehearsal = run(consortium, out, rounds, tell)
    if rehearsal.differences is None:
        print("metrics are not compared with the simulation's: each run draws its own noise")
    elif rehearsal.differences:
        first = ", ".join(rehearsal.differences[:5])
        raise WardroundError(
            f"{len(rehearsal.differences)} metrics differ from the simulation's: {first}.\n"
            f"  Compare {out} with {out / BACKSTAGE / 'simulation'}."
        )
    else:
        print("metrics: equal to the simulation's")
    print(f"report: {out / 'report.html'}")
    print(out)
