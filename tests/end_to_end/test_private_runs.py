"""Differential privacy through the command line: reproducible, resumable, and bounded by a cap."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from federation.errors import Refused
from federation.study import load_study
from simulations.runner import simulate

NAMES = ("basel", "bern", "chur")
QUICK = ("--set", "training.rounds=4")


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("private") / "sites"
    for i, name in enumerate(NAMES):
        write_site(folder / name, 80 + 30 * i, first_id=1 + 1000 * i, seed=i)
    return folder


@pytest.fixture
def study(write_study):
    return write_study(
        privacy={"mechanism": "dp_sgd", "epsilon": 2.0}, evaluation={"baselines": ["local"]}
    )


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "wardround", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wardround(*arguments, code=0):
    process = start(*arguments)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == code, out + errors
    assert "Traceback" not in errors
    return out + errors


def read(file):
    return json.loads(Path(file).read_text())


def weights(run):
    return {k: v.tobytes() for k, v in load_file(run / "model.safetensors").items()}


def test_a_private_run_reports_what_a_reviewer_can_recompute(sites, study, tmp_path):
    told = wardround("simulate", study, "--sites", sites, "--out", tmp_path / "run", *QUICK)
    assert "protects nobody" in told
    document = read(tmp_path / "run/privacy.json")
    assert document["sites"].keys() == set(NAMES)
    assert document["comparators"]["local"].keys() == set(NAMES)
    for name, row in document["sites"].items():
        assert (row["rounds"], row["unit"], row["seeded"]) == (4, "patient", True)
        assert row["epsilon"][row["reported"]] <= 2.0
        ledger = json.loads(wardround("ledger", tmp_path / f"run/ledgers/{name}.sqlite", "--json"))
        assert (ledger["verified"], ledger["lines"]) == (True, 8), "four federated, four alone"
        assert ledger["epsilon"]["pld"] > row["epsilon"]["pld"]
    page = (tmp_path / "run/report.html").read_text()
    assert "What else uses patients" in page
    assert "protects no one" in page
    for record in (tmp_path / "run/rounds.jsonl").read_text().splitlines():
        assert json.loads(record)["loss"] is None


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_two_ray_workers_give_the_bits_of_one_process(sites, study, tmp_path):
    for workers in (0, 2):
        out = ("--out", tmp_path / str(workers), "--workers", workers)
        wardround("simulate", study, "--sites", sites, *out, *QUICK)
    assert weights(tmp_path / "0") == weights(tmp_path / "2")
    first, second = (read(tmp_path / w / "privacy.json") for w in ("0", "2"))
    assert first == second | {"sites": first["sites"], "comparators": first["comparators"]}
    for name in NAMES:
        assert first["sites"][name] == second["sites"][name]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_model_and_pays_no_round_twice(sites, study, tmp_path):
    many = ("--set", "training.rounds=12", "--set", "evaluation.baselines=[]")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wardround("simulate", study, "--sites", sites, "--out", whole, *many)
    process = start("simulate", study, "--sites", sites, "--out", killed, *many)
    while not (killed / "checkpoints/round-0003").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wardround("simulate", study, "--sites", sites, "--resume", killed, *many)
    assert weights(whole) == weights(killed)
    assert read(whole / "privacy.json") == read(killed / "privacy.json")


@pytest.mark.slow
def test_lasting_ledgers_end_a_series_of_runs_at_the_cap(sites, study, tmp_path):
    """More noise as the budgets end, then exit code 4; the cap holds for all of it."""
    changes = ["training.rounds=4", "evaluation.baselines=[]", "privacy.epsilon=4.0"]
    for run in range(20):
        seeded = load_study(study, changes, seed=run)
        try:
            simulate(seeded, sites, tmp_path / str(run), workers=0, site_ledgers=True)
        except Refused:
            break
    assert run >= 2
    settings = [part for change in changes for part in ("--set", change)]
    last = ("simulate", study, "--sites", sites, "--site-ledgers", "--out", tmp_path / "last")
    assert "budget" in wardround(*last, *settings, code=4)
    for name in NAMES:
        told = json.loads(wardround("ledger", sites / name, "--json"))
        assert told["cap"]["epsilon"] == 8.0
        assert 7 < told["cap"]["spent"] <= 8.0
        assert told["epsilon"]["rdp"] <= 8.0
        assert told["lines"] == 4 * run
    warned = [w for r in range(run) for w in read(tmp_path / str(r) / "warnings.json")]
    assert any("had less of its patients' budget left" in w for w in warned)


def test_central_noise_protects_hospitals_and_says_so(sites, study, tmp_path):
    wardround(
        "simulate", study, "--sites", sites, "--out", tmp_path / "run", *QUICK,
        "--set", "privacy={mechanism='central', epsilon=8.0, adaptive_clipping=true}",
        "--set", "strategy.weighting=uniform", "--set", "evaluation.baselines=[]",
    )  # fmt: skip
    document = read(tmp_path / "run/privacy.json")
    assert document["unit"] == "hospital"
    for row in document["sites"].values():
        assert row["epsilon"]["pld"] <= 8.0
        assert (row["rounds"], row["mechanism"]) == (4, "central")
    assert not (tmp_path / "run/ledgers").exists()
    assert "not from the coordinator" in (tmp_path / "run/report.html").read_text()


MISTAKES = {
    "no epsilon": (["privacy={mechanism='dp_sgd'}"], "needs an epsilon"),
    "negative epsilon": (["privacy.epsilon=-1"], "privacy.epsilon"),
    "epsilon of nothing": (["privacy={epsilon=1.0}"], 'mechanism "none" protects nobody'),
    "delta of one": (["privacy.delta=1.0"], "privacy.delta"),
    "large delta": (["privacy.delta=0.01"], "0.1 / patients"),
    "batch over the site": (["training.batch_size=60"], "draws batches of 60"),
    "epsilon of next to nothing": (["privacy.epsilon=1e-9"], "privacy.epsilon (study)"),
    "epsilon in words": (["privacy.epsilon='8'"], "privacy.epsilon"),
    "epsilon true": (["privacy.epsilon=true"], "privacy.epsilon"),
    "tiny clipping norm": (["privacy.max_grad_norm=1e-6"], "privacy.max_grad_norm"),
    "mode that cannot": (
        ["privacy.clipped_sum=ew", "fusion.kind=early"],
        'privacy.clipped_sum: "ew" cannot take this model',
    ),
    "class weights": (["training.loss.class_weight=balanced"], "class_weight"),
    "counted vocabulary": (["modalities.ehr.vocabulary=prepared"], "without noise"),
    "split by time": (["split.by=time"], 'split.by = "time"'),
    "central by patients": (
        ["privacy.mechanism=central", "evaluation.baselines=[]"],
        'strategy.weighting = "uniform"',
    ),
    "adaptive at the site": (["privacy.adaptive_clipping=true"], "adaptive_clipping"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_told_before_anything_is_spent(sites, study, tmp_path, kind):
    changes, words = MISTAKES[kind]
    settings = [part for change in changes for part in ("--set", change)]
    out = ("--out", tmp_path / "run", "--workers", 0)
    told = wardround("simulate", study, "--sites", sites, *out, *settings, code=2)
    assert words in told
    for ledger in (tmp_path / "run").glob("ledgers/*"):
        assert json.loads(wardround("ledger", ledger, "--json"))["lines"] == 0


def test_the_pooled_comparator_is_not_run_beside_lasting_ledgers(sites, study, tmp_path):
    told = wardround(
        "simulate", study, "--sites", sites, "--site-ledgers", "--out", tmp_path / "run",
        "--set", "evaluation.baselines=['pooled']", code=2,
    )  # fmt: skip
    assert "pooled" in told and not (tmp_path / "run").exists()
