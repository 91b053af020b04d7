"""Kill -9 at every step boundary of a private round: its spend is never lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = 4
HERE = Path(__file__).parent
BOUNDARIES = ("before the first step", *(f"after step {i}" for i in range(1, STEPS + 1)), "in keep")


def die_in(folder, boundary, study):
    """Train a round as a deployed site does, and kill this process at a boundary."""
    from test_private_app import Asked, instruction_for

    from clients import training
    from clients.replies import StoredReplies
    from federation.messages import TRAIN

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    steps = 0
    step = training.private_mean

    def counted(*arguments):
        nonlocal steps
        if boundary == BOUNDARIES[0]:
            die()
        step(*arguments)
        steps += 1
        if boundary == f"after step {steps}":
            die()

    training.private_mean = counted
    if boundary == "in keep":
        StoredReplies.keep = die
    Asked(folder).ask(TRAIN, instruction_for(study))


def main(folder, document):
    """Die once at each boundary, and tell what the ledger holds after each."""
    from test_private_app import entries

    from federation.study import Study

    study = Study.model_validate_json(document)
    told = []
    for boundary in BOUNDARIES:
        child = os.fork()
        if not child:
            die_in(folder, boundary, study)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        lines = [entry.line for entry in entries(folder)]
        told.append([os.WIFSIGNALED(status), len(lines), lines[-1].steps if lines else 0])
    print(json.dumps(told))


@pytest.mark.slow
def test_a_kill_at_any_step_boundary_leaves_the_round_in_the_ledger(
    tmp_path, write_site, make_study
):
    study = make_study(
        privacy={"mechanism": "dp_sgd", "epsilon": 3.0},
        training={"rounds": 20, "local_epochs": None, "local_steps": STEPS},
    )
    folder = write_site(tmp_path / "bern", 100)
    code = "import sys; from test_private_kill import main; main(*sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder), study.canonical],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    expected = [[True, i, STEPS] for i in range(1, len(BOUNDARIES) + 1)]
    assert json.loads(ended.stdout.splitlines()[-1]) == expected
