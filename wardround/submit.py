"""The coordinator's commands: submit a study to the running server, watch it, stop it, fetch it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

SERVER = Annotated[
    Path, typer.Option("--server", help="The server's start kit.", show_default=False)
]
RUN = Annotated[str | None, typer.Argument(help="A run's id; by default the last one.")]


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (submit, status, logs, stop, download):
        cli.command()(command)


def submit(
    study: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    server: SERVER,
    resume: Annotated[
        str | None, typer.Option(help="Continue this run after its last checkpoint.")
    ] = None,
    compare_with: Annotated[
        Path | None,
        typer.Option(help="An earlier run, whose model evaluation.predecessor names."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it has ended.")] = False,
    track: Annotated[
        str | None,
        typer.Option(metavar="mlflow[:URI]", help="With --wait: log the run to MLflow at its end."),
    ] = None,
) -> None:
    """Submit a study to the sites; prints the run's id and its folder."""
    from federation.errors import UserError
    from server.control import load_kit
    from server.following import follow
    from server.submissions import submit as send
    from server.tracking import check_target
    from server.tracking import track as log

    if track is not None and not wait:
        raise UserError("--track", "a run is logged when it has ended: give --wait too")
    if track is not None:
        check_target(track)
    kit = load_kit(server)
    submission = send(kit, study, resume, compare_with)
    print(f"run {submission.run}", flush=True)
    if wait:
        follow(kit, submission, lambda text: print(text, flush=True))
    if track is not None:
        print(f"mlflow: {log(Path(submission.folder), track)}")
    print(submission.folder)


def status(
    server: SERVER,
    run: RUN = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which sites are connected, and how far a run is."""
    from server.control import load_kit
    from server.following import end_of, told_round
    from server.submissions import site_states
    from server.submitted import find, rounds_of, submissions

    kit = load_kit(server)
    submission = find(kit, run) if run or submissions(kit) else None
    sites = list(site_states(kit, submission))
    rounds = rounds_of(submission) if submission else []
    end = end_of(kit, submission) if submission else None
    if as_json:
        told = {
            "sites": [asdict(site) for site in sites],
            "run": submission and asdict(submission),
            "rounds": rounds,
            "ended": end,
        }
        print(json.dumps(told, indent=1))
        return
    width = max([len(site.site) for site in sites], default=0)
    for site in sites:
        print(f"{site.site:<{width}}  {site.connection:<10}  {site.last}".rstrip())
    if submission is None:
        print("no study was submitted yet")
        return
    print(f"run {submission.run}: {submission.study}, submitted {submission.submitted}")
    for record in rounds:
        print(told_round(record))
    print(_end(end))
    print(submission.folder)


def logs(server: SERVER, run: RUN = None) -> None:
    """Show what a run's coordinator has logged."""
    from server.control import Control, load_kit
    from server.submitted import find

    kit = load_kit(server)
    print(Control(kit).log(find(kit, run).run), end="")


def stop(server: SERVER, run: RUN = None) -> None:
    """Stop a run; its last checkpoint stays, and `submit --resume` continues from it."""
    from server.control import Control, load_kit
    from server.submitted import ended, find, note_end

    kit = load_kit(server)
    submission = find(kit, run)
    Control(kit).stop(submission.run)
    if ended(submission) is None:
        note_end(Path(submission.folder), 1, "it was stopped")
    print(f"stopped: run {submission.run}, {submission.study}")


def download(
    server: SERVER,
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    run: RUN = None,
) -> None:
    """Copy a run's folder: report, metrics, privacy and model."""
    from server.control import load_kit
    from server.submissions import copy_run
    from server.submitted import find

    print(copy_run(find(load_kit(server), run), out))


def _end(end: dict[str, Any] | None) -> str:
    if end is None:
        return "it goes on"
    return "it has ended" if not end["exit_code"] else f"it has ended: {end['message']}"
