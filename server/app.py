"""The Flower ServerApp of the coordinator. Thin: it reads the study and delegates."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation.errors import UserError, WardroundError
from federation.flower import bound_messages
from federation.study import Study, load_study
from server.coordinator import Progress, require_study, run_study
from server.exchange import Exchange
from server.finished_run import read_predecessor
from server.report.page import write_report
from server.run_folder import RunFolder
from server.submitted import note_end
from server.witness import WITNESS, Witness

logger = logging.getLogger("wardround.server")

WEIGHTS = "weights"
"""Folder beside that of the runs, with the files of weights that studies name."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that ``run-config`` names into the folder that it names.

    How it ended stands in ``ended.json`` then, for whoever submitted it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each of Flower's requests
    bound_messages()
    out = Path(str(context.run_config["out"]))
    try:
        _run(grid, context, out)
    except WardroundError as error:
        note_end(out, error.exit_code, str(error))
        raise
    except Exception:
        note_end(out, 1, "the coordinator failed; `wardround logs` has the reason")
        raise
    note_end(out, 0, "")


def _run(grid: Grid, context: Context, out: Path) -> None:
    file = require_study(str(context.run_config["study"]))
    study = load_study(file)
    check_simulation(study, file)
    folder = RunFolder(out, study, bool(context.run_config["resume"]))
    progress = Progress(
        tell=logger.info,
        round_done=lambda record, rounds: logger.info(
            "round %s of %s: loss %s, %s of %s sites",
            record["round"],
            rounds,
            record["loss"],
            len(record["answered"]),
            len(record["asked"]),
        ),
    )
    weights = out.parent.parent / WEIGHTS
    run_study(
        Exchange(grid),
        folder,
        {"grid": "superlink"},
        progress,
        witness=Witness(out.parent / WITNESS),  # beside the runs: it outlives each of them
        predecessor=read_predecessor(study, weights),
        weights=weights,
    )
    write_report(out)


def check_simulation(study: Study, file: Path) -> None:
    """Refuse a study that declares what only a simulation plays.

    Raises:
        UserError: naming the file.
    """
    if study.simulation is not None and study.simulation.declared:
        raise UserError(
            file,
            "it is played in a simulation only, and this is a deployed coordinator",
            field=study.simulation.declared[0],
            remedy="Take the table away, or run the study with `wardround simulate`.",
        )
