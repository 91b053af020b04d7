"""The command line as a user meets it, in processes of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEART = ROOT.parent / "shared" / "data" / "uci_heart_disease"


def wardround(*arguments, cwd=None):
    command = [str(Path(sys.executable).parent / "wardround"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=cwd)


def test_help_loads_no_heavy_library():
    heavy = {"torch", "flwr", "ray", "pandas", "pyarrow", "pydantic"}
    code = f"import sys, wardround.__main__; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_strategies_are_listed_for_programs():
    listed = json.loads(wardround("strategies", "--json").stdout)
    assert {"name": "fedavg", "needs": "sum"}.items() <= listed[0].items()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(not HEART.is_dir(), reason=f"the UCI heart data is not at {HEART}")
def test_heart_study_trains_across_four_real_hospitals(tmp_path):
    converted = wardround("dataset", "uci-heart", "--source", HEART, "--out", tmp_path / "sites")
    assert converted.returncode == 0, converted.stderr
    study = ROOT / "examples/studies/heart-disease.toml"
    runs = {}
    for workers in (0, 2):
        out = tmp_path / f"run-{workers}"
        arguments = ["--sites", tmp_path / "sites", "--out", out, "--workers", workers]
        result = wardround("simulate", study, *arguments)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == str(out)
        runs[workers] = (out / "metrics.json").read_bytes()
    assert runs[0] == runs[2], "Ray changes nothing"
    document = json.loads(runs[0])
    federated = document["models"]["federated"]
    assert set(federated["sites"]) == {"cleveland", "hungarian", "switzerland", "va"}
    assert federated["overall"]["auroc"]["low"] > 0.8
    assert document["cross_site"]["cleveland"]["hungarian"]["n"] > 0
    assert (out / "report.html").stat().st_size < 6_000_000
    told = wardround("report", out, "--predecessor", tmp_path / "run-0")
    assert told.stdout.split() == [str(out / "report.html"), str(out / "model_card.md")]
    change = json.loads((out / "model_card.json").read_text())["change_control"]
    assert change["settings"] == []  # the same study; only Ray differs
    assert {one["difference"]["value"] for one in change["differences"]} == {0.0}


@pytest.mark.slow
def test_killed_run_is_resumed_to_the_same_end(tmp_path):
    """Kill -9 between rounds, then --resume: the metrics equal an unbroken run's."""
    sites, study = tmp_path / "sites", ROOT / "examples/studies/synthetic.toml"
    assert wardround("synthesize", sites, "--sites", 4, "--patients", 60).returncode == 0
    changes = ["training.rounds=6", "evaluation.baselines=[]"]
    options = [study, "--sites", sites, "--workers", 0]
    for change in changes:
        options += ["--set", change]
    whole = wardround("simulate", *options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    command = [str(Path(sys.executable).parent / "wardround"), "simulate", *map(str, options)]
    broken = tmp_path / "broken"
    with subprocess.Popen(
        [*command, "--out", str(broken)], stderr=subprocess.PIPE, text=True
    ) as run:
        for line in run.stderr:
            if "round 3/6" in line:
                run.kill()
    assert not (broken / "metrics.json").exists()
    resumed = wardround("simulate", *options, "--resume", broken)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.json", "model.safetensors"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
