"""``wardround monitor``: whether a finished model still does at a site what it did in its run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import date

ALARM = 5
"""Exit code where a change raised an alarm."""
FIGURES = ("auroc", "calibration_slope", "calibration_intercept")
DAY = ["%Y-%m-%d"]


def register(cli: typer.Typer) -> None:
    """Add this command."""
    cli.command()(monitor)


def monitor(
    site: Annotated[
        Path, typer.Argument(help="A site's folder or its site.toml.", show_default=False)
    ],
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY,
            help="Patients from this date on, UTC; by default the site's held-out split.",
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=DAY, help="Patients before this date.")
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, max=12, help="Parts of these patients, in order of time.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Write a page for this site here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Score a site's new patients with a run's model, and look for drift. Nothing leaves.

    Ends with 0, or with 5 where a change raised an alarm.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    document = _monitored(site, run, _day(since), _day(until), windows)
    if out is not None:
        _write_page(document, out)
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _show(document)
        if out is not None:
            print(f"page: {out} (for this site alone)")
    if document["alarms"]:
        raise typer.Exit(ALARM)


def _monitored(
    site: Path, run: Path, since: date | None, until: date | None, windows: int
) -> dict[str, Any]:
    from clients.monitor import Period, monitored
    from federation.errors import UserError
    from federation.metrics.grid import UNCHANGED
    from server.finished_run import finished_run
    from server.monitoring import monitoring, reference_of

    if since and until and since >= until:
        raise UserError("--until", f"{until} is not after --since {since}")
    finished = finished_run(run)
    if finished.study.task.kind != "binary":
        raise UserError(
            run / "study.toml",
            f'drift is looked for in one yes-or-no outcome, not in "{finished.study.task.kind}"',
            field="task.kind",
        )
    if finished.study.personal:
        raise UserError(
            run / "study.toml",
            f'under "{finished.study.strategy.name}" each site uses a model of its own, and the '
            "run folder holds the shared one",
            field="strategy.name",
            remedy="Such a model cannot be monitored from the run folder.",
        )
    period = Period(since, until, windows)
    found = monitored(site, finished.study, finished.vocabulary, finished.weights, period)
    reference = reference_of(run, found.site)
    fingerprint = finished.study.fingerprint
    line = finished.lines.get(finished.study.task.label, UNCHANGED)
    document = monitoring(reference, found.site, fingerprint, found.summaries, found.inputs, line)
    chosen = "held-out split" if since is None else "all from --since on"
    period_told = {"since": _text(since), "until": _text(until), "patients": chosen}
    return {**document, "period": period_told, "excluded": dict(found.excluded)}


def _show(document: Mapping[str, Any]) -> None:
    from server.report.documents import DriftOf
    from server.report.sections.drift import alarms

    found = DriftOf.model_validate(document)
    print(f"{document['site']}: compared with the run's held-out patients, {_whose(document)}")
    for number, window in found.windows.items():
        share = window.prevalence.value if window.prevalence else None
        told = [f"{window.n:,} patients", f"{_number(share)} with the outcome"]
        for name in FIGURES:
            metric = getattr(window, name)
            told.append(f"{name.replace('_', ' ')} {_number(metric.value)}")
        if (scores := window.changes.get("scores")) is not None:
            told.append(f"PSI of scores {_number(scores.value)}")
        label = "in the run" if number == "0" else f"window {number}"
        print(f"{label}: {', '.join(told)}")
        if raised := alarms(window):
            print(f"  ALARM: {', '.join(raised)}")
    if excluded := document["excluded"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in excluded.items())
        print(f"left out: {reasons}")
    print(f"rule: {document['rule']}")
    print("ALARM" if document["alarms"] else "no alarm")


def _write_page(document: Mapping[str, Any], out: Path) -> None:
    from federation.errors import UserError
    from federation.pages.elements import Fact
    from federation.pages.render import render
    from server.report.documents import DriftOf
    from server.report.sections.drift import inputs_table, windows_table

    found = DriftOf.model_validate(document)
    scopes, count = {document["site"]: found}, len(document["alarms"])
    caption, rule = "The run's patients, and the new ones by window", f"Alarm: {document['rule']}."
    windows = windows_table(scopes, caption, rule, "the run")
    new = sum(window.n or 0 for name, window in found.windows.items() if name != "0")
    text = render(
        Path(__file__).parent / "monitor.html.jinja",
        title=document["site"],
        alarms=count,
        facts=[
            Fact("Alarms", f"{count}", document["rule"]),
            Fact("New patients", f"{new:,}", document["period"]["patients"]),
            Fact("Compared with", f"{found.windows['0'].n:,} patients", _whose(document)),
        ],
        tables=[windows, inputs_table(scopes)],
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        out.chmod(0o600)
    except OSError as error:
        raise UserError("--out", f"{out} cannot be written: {error.strerror}") from None


def _whose(document: Mapping[str, Any]) -> str:
    here = document["reference_of"] == document["site"]
    return "this site's own" if here else f"of {document['reference_of']}"


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _text(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
