"""A whole consortium in real processes, by the commands of docs/deploy.md; `make test-faults`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from federation.study import load_study
from federation.validation import read_toml

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("superlink")]

ROOT = Path(__file__).parents[2]
SITES = ["bayview", "st-elsewhere"]


def write_consortium(folder: Path) -> Path:
    """The example with two sites, and a study of events alone."""
    document = read_toml(ROOT / "examples/consortium.toml")
    document["sites"] = [{"name": name} for name in SITES]
    changes = [
        'modalities={ehr={width=8, reference_ranges={"LAB//CRP"=[0, 50]}}}',
        "fusion={kind='late'}",
        "evaluation.every=0",
    ]
    study = load_study(ROOT / "examples/studies/synthetic.toml", changes)
    (folder / "study.toml").write_text(study.to_toml())
    document["rehearsal"] = {"study": "study.toml", "patients": 60, "seed": 3}
    file = folder / "consortium.toml"
    file.write_text(tomli_w.dumps(document))
    return file


def processes_of(text: str) -> list[int]:
    """Ids of the processes whose arguments hold a text."""
    told = subprocess.run(
        ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
    )
    found = [line.split(None, 1) for line in told.stdout.splitlines() if text in line]
    return [int(number) for number, _ in found]


def rehearse(folder: Path) -> list[str]:
    """Rehearse two rounds and return what was told."""
    out = folder / "run"
    command = [sys.executable, "-P", "-u", "-m", "wardround", "rehearse"]
    command += [str(write_consortium(folder)), "--out", str(out), "--rounds", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert processes_of(str(folder)) == [], "a process was left behind"
    return ended.stdout.splitlines()


def test_a_rehearsal_over_tls_ends_in_the_simulation_s_metrics(tmp_path: Path) -> None:
    told = rehearse(tmp_path)
    out = tmp_path / "run"
    assert told[-3:] == [
        "metrics: equal to the simulation's",
        f"report: {out / 'report.html'}",
        str(out),
    ]
    assert "<html" in (out / "report.html").read_text()[:2000]
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [record["answered"] for record in rounds] == [SITES, SITES]
    for name in SITES:
        site = out / "rehearsal/sites" / name
        log = [sys.executable, "-m", "wardround", "site", "log", str(site), "--json"]
        shown = json.loads(subprocess.run(log, capture_output=True, text=True, check=True).stdout)
        events = [entry["event"] for entry in shown["entries"]]
        assert events[:3] == ["begun", "approved", "started"]
        assert events[-1] == "stopped"
        assert events.count("received") == events.count("sent") >= 4
        assert "refused" not in events
