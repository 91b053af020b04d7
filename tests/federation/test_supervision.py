"""Programs are kept running, and nothing of them is left when they are ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from federation import supervision
from federation.errors import UserError
from federation.supervision import Program, only_one, supervise


def program(folder: Path, code: str) -> Program:
    command = [sys.executable, "-S", "-c", code]
    return Program("it", command, dict(os.environ), folder, folder / "it.log")


def run_for(programs, seconds: float, **more) -> list[str]:
    told: list[str] = []
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    supervise(programs, stop, told.append, **more)
    return told


def test_a_program_that_ends_is_started_again_with_growing_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "SHORTEST_PAUSE", 0.1)
    monkeypatch.setattr(supervision, "LONGEST_PAUSE", 0.3)
    told = run_for([program(tmp_path, "raise SystemExit(3)")], 4.0)
    pauses = [line.split("again in ")[1] for line in told if "ended with 3" in line]
    assert pauses[:4] == ["0.1 s", "0.2 s", "0.3 s", "0.3 s"]


def test_what_a_program_started_ends_with_it(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    run_for([program(tmp_path, code)], 3.0)
    assert time.monotonic() - began < 15
    child = int((tmp_path / "it.log").read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_program_that_does_not_listen_is_killed_when_the_grace_is_over(tmp_path):
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    run_for([program(tmp_path, code)], 3.0, grace=0.5)
    assert (tmp_path / "it.log").read_text() == "deaf\n"
    assert time.monotonic() - began < 15


def test_a_folder_is_held_as_long_as_a_program_of_a_killed_run_lives(tmp_path):
    with only_one(tmp_path, "the site") as held:
        left = subprocess.Popen(["sleep", "60"], pass_fds=(held,))
        with pytest.raises(UserError, match="runs already"), only_one(tmp_path, "the site"):
            pass
    with pytest.raises(UserError, match="has not ended"), only_one(tmp_path, "the site"):
        pass
    left.send_signal(signal.SIGKILL)
    left.wait()
    with only_one(tmp_path, "the site"):
        pass
