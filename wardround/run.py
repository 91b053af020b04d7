"""Commands that run studies and show what came of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

MOST_WARNINGS = 20
"""That are printed; all are in the run folder."""


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(simulate)
    cli.command()(report)
    cli.command()(track)


def simulate(
    study: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    sites: Annotated[Path, typer.Option(help="A folder with one folder per site.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Replace the study's seed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; by default under runs/.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers; 0 runs in this process without Ray.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    site_ledgers: Annotated[
        bool, typer.Option(help="Spend from the sites' own privacy ledgers, beyond this run.")
    ] = False,
    serial: Annotated[
        bool,
        typer.Option("--serial", help="Train sites one after another, small ones too."),
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="A folder with the files of weights that the study names.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A run folder, to continue after its last checkpoint.")
    ] = None,
    compare_with: Annotated[
        Path | None,
        typer.Option(help="An earlier run, whose model the sites score on the same patients."),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(metavar="mlflow[:URI]", help="Log the run to MLflow when it has ended."),
    ] = None,
) -> None:
    """Train a study across simulated sites; prints the run folder last."""
    from rich.console import Console

    from federation.errors import UserError
    from federation.study import load_study
    from server.tracking import check_target
    from server.tracking import track as log
    from simulations.runner import simulate as run
    from wardround.progress import shown

    if resume is not None and out not in (None, resume):
        raise UserError("--out", "a resumed run stays in its own folder; leave --out away")
    if track is not None:
        check_target(track)
    resolved = load_study(study, set_ or (), seed)
    name = f"{resolved.study.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = resume or out or Path("runs") / name
    with shown(Console(stderr=True, highlight=False, soft_wrap=True), resolved) as progress:
        outcome = run(
            resolved,
            sites,
            folder,
            workers=workers,
            ray_address=ray_address,
            resume=resume is not None,
            site_ledgers=site_ledgers,
            together=not serial,
            progress=progress,
            compare_with=compare_with,
            weights=weights,
        )
    for warning in outcome.warnings[:MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if (more := len(outcome.warnings) - MOST_WARNINGS) > 0:
        print(f"warning: and {more:,} more in {folder / 'warnings.json'}", file=sys.stderr)
    print(_headline(outcome.folder))
    print(f"report: {outcome.folder / 'report.html'}")
    if track is not None:
        print(f"mlflow: {log(outcome.folder, track)}")
    print(outcome.folder)


def track(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    to: Annotated[
        str, typer.Option(metavar="mlflow[:URI]", help="By default files beside the run folder.")
    ] = "mlflow",
) -> None:
    """Log a finished run to MLflow: parameters, metrics by round and site, and its files."""
    from server.tracking import track as log

    print(f"mlflow: {log(run, to)}")


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    predecessor: Annotated[
        Path | None, typer.Option(help="An earlier run, with which the model card compares.")
    ] = None,
) -> None:
    """Write report.html and the model card of a run again."""
    from server.report.page import write_report

    print(write_report(run, predecessor))
    print(run / "model_card.md")


def _headline(folder: Path) -> str:
    models = json.loads((folder / "metrics.json").read_text())["models"]
    lines = []
    for name, model in models.items():
        overall = model["overall"]
        of_each = [f"{task}: {_told(cell)}" for task, cell in overall.get("tasks", {}).items()]
        lines.append(f"{name}: held-out {'; '.join(of_each) or _told(overall)}")
    return "\n".join(lines)


def _told(cell: Mapping[str, Any]) -> str:
    """The first figure of a cell, with its interval and the patients behind it."""
    if "suppressed" in cell:
        return f"no figure ({cell['suppressed']})"
    what, found = _first_figure(cell)
    if found.get("value") is None:
        return f"no {what} ({found.get('reason', 'not computed')})"
    interval = ""
    if found.get("low") is not None:
        interval = f" (95% interval {found['low']:.3f} to {found['high']:.3f})"
    return f"{what} {found['value']:.3f}{interval}, {cell['n']} patients"


def _first_figure(cell: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Of one outcome, of several, or of times to one."""
    if "macro" in cell:
        return "mean AUROC of the outcomes", cell["macro"]["auroc"]
    if "c_index" in cell:
        return "c-index", cell["c_index"]
    return "AUROC", cell["auroc"]
