"""Shifted synthetic hospitals: the truth says what they are, and strength 0 is no shift."""

import json
from itertools import pairwise

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from federation.errors import UserError
from simulations.hospitals import EFFECTS
from simulations.shifts.record import copy_record
from simulations.shifts.synthetic import synthesize_shifted

SIZE = {"sites": 3, "patients": 60, "seed": 3, "image_size": 32}


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "shifts.json"
    }


def test_strength_zero_writes_what_no_shifts_would(consortium, make_plan, tmp_path):
    kinds = ("prevalence", "case_mix", "quantity", "concept", "scanner", "coding")
    plan = make_plan(*({"kind": kind, "strength": 0.0} for kind in kinds))
    synthesize_shifted(tmp_path / "out", plan, **SIZE)
    assert files(tmp_path / "out") == files(consortium)


def test_truth_describes_the_shifted_hospitals(consortium, make_plan, tmp_path):
    plan = make_plan(
        {"kind": "concept", "strength": 0.7},
        {"kind": "quantity", "strength": 0.4},
        {"kind": "prevalence", "strength": 0.3, "sites": ["bayview"]},
        {"kind": "label_noise"},
    )
    synthesize_shifted(tmp_path / "out", plan, **SIZE)
    truth = json.loads((tmp_path / "out/truth.json").read_text())
    plain = json.loads((consortium / "truth.json").read_text())
    record = json.loads((tmp_path / "out/shifts.json").read_text())
    for name, told in record["sites"].items():
        profile = truth["sites"][name]["profile"]
        done = {one["kind"]: one for one in told["shifts"]}
        assert [d["on"] for d in told["shifts"]].count("records") == 1
        assert ("prevalence" in done) == (name == "bayview")
        assert profile["effects"] == done["concept"]["drawn"]
        assert profile["size"] == told["after"]["patients"] == done["quantity"]["drawn"]["patients"]
        assert told["before"]["patients"] == plain["sites"][name]["realised"]["patients"]
        before = told["before"]["outcomes"]["outcome"]
        assert before["positives"] == plain["sites"][name]["realised"]["positives"]
    effects = [one["profile"]["effects"] for one in truth["sites"].values()]
    assert all(one != other for one, other in pairwise([*effects, vars(EFFECTS)]))
    assert truth["best_auroc"] != plain["best_auroc"]


def test_true_logits_rank_the_labels_of_shifted_hospitals_as_promised(make_plan, tmp_path):
    plan = make_plan({"kind": "concept"}, {"kind": "prevalence"})
    synthesize_shifted(tmp_path / "out", plan, sites=2, patients=400, seed=5, image_size=16)
    truth = json.loads((tmp_path / "out/truth.json").read_text())
    latents = pd.read_parquet(tmp_path / "out/truth.parquet").set_index("subject_id")
    for name, site in truth["sites"].items():
        labels = pd.read_parquet(tmp_path / "out" / name / "data/labels.parquet")
        auroc = roc_auc_score(labels.boolean_value, latents.logit[labels.subject_id])
        assert auroc == pytest.approx(site["best_auroc"]["generated"], abs=1e-4)
        assert auroc == pytest.approx(site["best_auroc"]["expected"], abs=0.06)


def test_hospital_left_with_one_class_is_refused_and_nothing_appears(make_plan, tmp_path):
    plan = make_plan({"kind": "quantity", "exponent": 5.0})
    with pytest.raises(UserError, match=r"shifts.toml: .* would be left with"):
        synthesize_shifted(tmp_path / "out", plan, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["shifts.toml"]


def test_unknown_hospital_is_refused(make_plan, tmp_path):
    plan = make_plan({"kind": "scanner", "sites": ["bayvew"]})
    with pytest.raises(UserError, match=r'"bayvew" is no site(.|\n)*"bayview"'):
        synthesize_shifted(tmp_path / "out", plan, **SIZE)


def test_record_is_copied_into_a_run_folder_where_there_is_one(consortium, make_plan, tmp_path):
    (tmp_path / "run").mkdir()
    copy_record(consortium, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    plan = make_plan({"kind": "coding"})
    synthesize_shifted(tmp_path / "out", plan, **SIZE)
    copy_record(tmp_path / "out", tmp_path / "run")
    assert (tmp_path / "run/shifts.json").read_bytes() == (
        tmp_path / "out/shifts.json"
    ).read_bytes()
