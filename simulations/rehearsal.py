"""A whole consortium on this machine, as it will run: processes, certificates, keys, TLS.

Nothing is simulated but the patients: the coordinator and each site are started with the same
commands, from the same start kits, as at the hospitals. At the end the same study is run in
simulation on the same patients, and the two runs' metrics are compared.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clients import approvals
from clients.site import load_site
from federation.errors import UserError, WardroundError
from federation.study import Study, load_study
from federation.supervision import Program, supervise, variables
from server.consortium import SERVER, Consortium, RehearsalSection, load_consortium
from server.control import Kit, load_kit, registered
from server.following import follow
from server.provision import provision
from server.service import is_healthy
from server.submissions import copy_run, submit
from simulations.consortium import synthesize
from simulations.runner import simulate

BACKSTAGE = "rehearsal"
STARTUP_SECONDS = 180.0
GRACE_SECONDS = 45.0
"""For services that end programs of their own, which have less."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Rehearsal:
    """What came of it.

    Attributes:
        folder: the run folder, with the report.
        differences: where the metrics differ from the simulation's, as paths; None if they cannot
            be compared, since the noise of differential privacy is never the same twice.
    """

    folder: Path
    differences: tuple[str, ...] | None


def rehearse(file: Path, out: Path, rounds: int, tell: Callable[[str], None]) -> Rehearsal:
    """Run a consortium's study with synthetic patients, over TLS, on this machine.

    Args:
        file: the consortium file, with a ``[rehearsal]``.
        out: a new or empty folder: the run folder; kits, sites and logs lie in it too.
        rounds: training rounds, in place of the study's.
        tell: one line on what happens.

    Raises:
        UserError: if the file or the folder cannot be used, or a service did not start.
        WardroundError: as the run ended.
    """
    consortium = load_consortium(file)
    section = _section(consortium, file)
    study = _study(file.parent / section.study, consortium, rounds)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "is in use: expected a new or empty folder")
    backstage = out.absolute() / BACKSTAGE
    sites, kits = backstage / "sites", backstage / "kits"
    tell(f"{len(consortium.sites)} hospitals with about {section.patients} patients each")
    _write_sites(consortium, section, sites)
    provision(_here(consortium), kits)
    kit = load_kit(kits / SERVER)
    study_file = backstage / "study.toml"
    study_file.write_text(study.to_toml(), encoding="utf-8")
    for name in consortium.names:
        approvals.approve(study, load_site(sites / name))
    tell("start kits are written, the study is approved at each site; starting the services")
    with _services(consortium, kits, sites, backstage / "logs", tell):
        _wait_for_server(kit, consortium, backstage / "logs")
        submission = submit(kit, study_file)
        tell(f"run {submission.run}: submitted")
        follow(kit, submission, tell)
        copy_run(submission, out, beside=BACKSTAGE)
    if study.privacy.mechanism == "dp_sgd":
        return Rehearsal(out, None)
    tell("the same study in simulation, to compare")
    simulation = backstage / "simulation"
    shutil.rmtree(simulation, ignore_errors=True)
    simulate(study, sites, simulation, workers=0)
    return Rehearsal(out, tuple(differences(_metrics(out), _metrics(simulation))))


def differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Yield where two JSON documents differ, numbers by more than 1e-6.

    >>> list(differences({"a": [1.0, 2.0]}, {"a": [1.0, 2.1], "b": 0}))
    ['/a/1', '/b']
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            if key in found and key in expected:
                yield from differences(found[key], expected[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, f"{path}/{place}")
    elif isinstance(found, float) and isinstance(expected, float):
        if not abs(found - expected) <= TOLERANCE:
            yield path
    elif found != expected:
        yield path


def _section(consortium: Consortium, file: Path) -> RehearsalSection:
    if consortium.rehearsal is None:
        raise UserError(
            file,
            "there is no [rehearsal] in it, which names the study to play",
            remedy='Add it, with study = "STUDY.toml".',
        )
    return consortium.rehearsal


def _study(file: Path, consortium: Consortium, rounds: int) -> Study:
    """The study of so many rounds on all sites, without what only a simulation can compare."""
    changes = [
        f"training.rounds={rounds}",
        f"strategy.minimum_sites={len(consortium.sites)}",
        "evaluation.baselines=[]",
    ]
    return load_study(file, changes)


def _write_sites(consortium: Consortium, section: RehearsalSection, sites: Path) -> None:
    synthesize(
        sites,
        sites=len(consortium.sites),
        patients=section.patients,
        seed=section.seed,
        change=lambda hospitals: [
            replace(hospital, name=name)
            for hospital, name in zip(hospitals, consortium.names, strict=True)
        ],
    )


def _here(consortium: Consortium) -> Consortium:
    """The same consortium with its server on this machine, at a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    server = consortium.server.model_copy(update={"host": "127.0.0.1", "port": port})
    return consortium.model_copy(update={"server": server})


@contextmanager
def _services(
    consortium: Consortium, kits: Path, sites: Path, logs: Path, tell: Callable[[str], None]
) -> Iterator[None]:
    """Run the coordinator's service and each site's, by the commands an engineer would give."""
    logs.mkdir()
    wardround = [sys.executable, "-P", "-m", "wardround"]

    def program(name: str, *command: str) -> Program:
        own = variables(logs) | {"OMP_NUM_THREADS": "1"}  # many processes share these cores
        return Program(name, [*wardround, *command], own, logs, logs / f"{name}.log")

    programs = [program(SERVER, "server", "run", str(kits / SERVER), "--host", "127.0.0.1")]
    for name in consortium.names:
        kit = str(kits / "sites" / name)
        programs.append(program(name, "site", "run", str(sites / name), "--kit", kit))
    stop = threading.Event()
    running = threading.Thread(
        target=supervise, args=(programs, stop, tell), kwargs={"grace": GRACE_SECONDS}
    )
    running.start()
    try:
        yield
    finally:
        stop.set()  # first of all: nothing that goes wrong here may leave them running
        running.join()
        tell("the services are ended")


def _wait_for_server(kit: Kit, consortium: Consortium, logs: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not (len(registered(kit)) == len(consortium.sites) and is_healthy(kit)):
        if time.monotonic() > deadline:
            raise WardroundError(
                f"The server has not started within {STARTUP_SECONDS:g} s; see {logs}."
            )
        time.sleep(0.5)


def _metrics(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))
