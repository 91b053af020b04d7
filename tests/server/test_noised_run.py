"""A whole run whose evaluation has noise: planned, paid, recomputable, and shown in the report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

from clients.ledger import Ledger, segments_of
from federation.privacy.accounting import epsilon
from federation.study import Study
from simulations.runner import simulate

PAGE = Path(__file__).parents[2] / "docs/privacy.md"
EPSILON = 4.0
STUDY = {
    "study": {"name": "noised"},
    "task": {"label": "sick"},
    "modalities": {"ehr": {"width": 8, "buckets": 8, "reference_ranges": {"LAB//CRP": [0, 10]}}},
    "training": {"rounds": 2, "batch_size": 32, "local_steps": 2},
    "privacy": {"mechanism": "dp_sgd", "epsilon": 2.0},
    "evaluation": {"every": 1, "noise": {"epsilon": EPSILON}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("noised")
    for seed, name in enumerate(("north", "south")):
        write_site(folder / "sites" / name, 900, seed=seed)
    for name in ("first", "again"):
        simulate(Study.model_validate(STUDY), folder / "sites", folder / name, workers=0)
    return folder


def read(runs, name, run="first"):
    return json.loads((runs / run / name).read_text())


def test_each_split_costs_what_dp_accounting_says_and_no_more_than_the_study_allows(runs):
    told = read(runs, "privacy.json")["evaluation"]
    assert set(told["sites"]) == {"north", "south"}
    for splits in told["sites"].values():
        planned = {split: one["evaluations"] * one["counts"] for split, one in splits.items()}
        assert planned == {"tuning": 3, "held_out": 3}
        for one in splits.values():
            losses = pld.from_discrete_gaussian_mechanism(one["scale"], sensitivity=1)
            spent = losses.self_compose(one["evaluations"] * one["counts"])
            expected = spent.get_epsilon_for_delta(told["delta"])
            assert one["epsilon"]["pld"] == pytest.approx(expected, rel=0.01)
            assert one["epsilon"]["pld"] <= EPSILON
            assert one["scale"] == one["wanted_scale"]


def test_page_s_lines_recompute_the_run(runs, tmp_path):
    code = next(
        c
        for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if '"evaluation"' in c
    )
    (tmp_path / "recompute.py").write_text(code)
    command = [sys.executable, tmp_path / "recompute.py", runs / "first/privacy.json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        site, split, value, _ = line.split(" ", 3)
        one = read(runs, "privacy.json")["evaluation"]["sites"][site][split]
        assert float(value) == pytest.approx(one["epsilon"]["pld"], rel=0.01)
    assert len(told.splitlines()) == 4


def test_ledger_composes_training_and_evaluation(runs):
    ledger = Ledger(runs / "first/ledgers/north.sqlite", None, None, writable=False)
    lines = ledger.lines()
    ledger.close()
    kinds = [(line.kind, line.model) for line in lines]
    assert kinds.count(("segment", "federated")) == 2
    assert kinds.count(("evaluation", "federated:tuning")) == 3
    assert kinds.count(("evaluation", "federated:held_out")) == 1
    together = epsilon(segments_of(lines), 1e-5)
    apart = [
        epsilon(segments_of([one for one in lines if one.kind == kind]), 1e-5)
        for kind in ("segment", "evaluation")
    ]
    assert max(apart) < together < sum(apart)


def test_metrics_say_that_they_have_noise_and_are_the_same_again(runs):
    first, again = (read(runs, "metrics.json", run) for run in ("first", "again"))
    assert first["models"] == again["models"]
    model = first["models"]["federated"]
    assert model["noised"] is True
    assert model["overall"]["auprc"]["reason"] == "not told with noise"
    assert model["overall"]["brier"]["low"] < model["overall"]["brier"]["high"]
    assert {"sex=other", "age_band=unknown"} <= set(model["subgroups"])
    rounds = [json.loads(one) for one in (runs / "first/rounds.jsonl").read_text().splitlines()]
    assert all(set(one["noise"]) == {"north", "south"} for one in rounds)


def test_report_says_what_it_cost_those_who_were_measured(runs):
    page = (runs / "first/report.html").read_text()
    assert "Privacy of the patients on whom the model was measured" in page
    assert "It covers training patients only" not in page
    uses = {one["use"]: one["status"] for one in read(runs, "privacy.json")["other_uses"]}
    assert uses["evaluation on tuning and held-out patients"] == "noised and charged"
