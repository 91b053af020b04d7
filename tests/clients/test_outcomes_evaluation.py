"""What a site tells of several outcomes: enough patients of each, and nothing past the gate."""

import numpy as np
import pytest

from clients.evaluation import evaluate_locally
from clients.outbound import GateClosed, released
from clients.site import PolicySection
from clients.workbench import Workbench
from federation.messages import Reply
from federation.metrics.summaries import read_summary
from federation.vocabulary import agreed_vocabulary

SPLITS = {k: "held_out" if k > 20 else "train" for k in range(1, 81)}
TASKS = {
    "multiclass": {"kind": "multiclass", "classes": ["low", "middle", "high"]},
    "multilabel": {"kind": "multilabel", "labels": ["full", "some"], "blank": "missing"},
    "survival": {"kind": "survival", "intervals": [10, 20, 30, 40], "horizons": [20, 40]},
}


def columns(kind, rng):
    if kind == "multiclass":
        return {"integer_value": rng.integers(0, 3, 80)}
    if kind == "survival":
        return {"float_value": rng.uniform(0, 60, 80), "boolean_value": rng.random(80) < 0.6}
    some = rng.integers(0, 2, 80).astype(float)
    some[[25, 40, 41]] = np.nan
    return {"full": rng.integers(0, 2, 80), "some": some}


@pytest.fixture
def evaluated(tmp_path, write_site, make_study):
    """Return a function: kind, policy -> study, cohort and what leaves of the held-out split."""

    def evaluate(kind, **policy):
        import pandas as pd

        folder = write_site(tmp_path / kind, 80, splits=SPLITS)
        labels = pd.read_parquet(folder / "labels.parquet").drop(columns="boolean_value")
        labels = labels.assign(**columns(kind, np.random.default_rng(3)))
        labels.to_parquet(folder / "labels.parquet")
        study = make_study(task=TASKS[kind], split={"by": "given"})
        bench, vocabulary = Workbench(), agreed_vocabulary(study.modalities.ehr)
        cohort = bench.cohort(str(folder), study, vocabulary)
        model = bench.model(study, vocabulary)
        body = evaluate_locally(model, cohort, study, "held_out", PolicySection(**policy))
        return study, cohort, body

    return evaluate


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("bins", ["fine", "merged"])
def test_summaries_of_each_kind_pass_the_gate_and_no_others(evaluated, kind, bins):
    study, _, body = evaluated(kind, score_bins=bins)
    policy = PolicySection(score_bins=bins)
    assert released(Reply("ok", body), policy, study).body is body
    stricter = PolicySection(score_bins=bins, minimum_cell=70)
    with pytest.raises(GateClosed, match="smaller than the site's minimum"):
        released(Reply("ok", body), stricter, study)
    if bins == "fine":
        with pytest.raises(GateClosed, match="smaller than the site's minimum"):
            released(Reply("ok", body), PolicySection(score_bins="merged"), study)
    cells = {name: {**cell, "note": "seen on 3 May"} for name, cell in body.cells.items()}
    with pytest.raises((GateClosed, ValueError), match="more"):
        released(Reply("ok", body.model_copy(update={"cells": cells})), policy, study)


@pytest.mark.parametrize("kind", TASKS)
def test_summary_of_another_task_stays_at_the_site(evaluated, make_study, kind):
    _, _, body = evaluated(kind)
    other = make_study(task={"kind": "multilabel", "labels": ["full", "other"]})
    with pytest.raises(GateClosed, match="another task"):
        released(Reply("ok", body), PolicySection(), other)


def test_finding_that_few_lack_is_told_of_fewer(evaluated):
    study, cohort, body = evaluated("multilabel")
    whole = read_summary(body.cells[""])
    assert {name: one.n for name, one in whole.outcomes.items()} == {"full": 60, "some": 50}
    for name in body.cells:
        if "=" in name:
            cell = read_summary(body.cells[name])
            known = cell.outcomes["some"].n if "some" in cell.outcomes else None
            assert known is None or cell.outcomes["full"].n - known in {0, *range(10, 61)}
    again = evaluate_locally(
        Workbench().model(study, agreed_vocabulary(study.modalities.ehr)),
        cohort, study, "held_out", PolicySection(),
    )  # fmt: skip
    assert again == body
    _, _, everybody = evaluated("multilabel", minimum_cell=1, score_bins="fine")
    told = read_summary(everybody.cells[""])
    missing = int(np.isnan(cohort.patients.labels[cohort.patients.splits["held_out"], 1]).sum())
    assert told.outcomes["some"].n == 60 - missing


def test_agreement_is_told_of_the_whole_site_alone(evaluated):
    _, _, body = evaluated("multiclass", score_bins="fine")
    told = {name: "agreement" in cell for name, cell in body.cells.items()}
    assert told.pop("")
    assert told
    assert not any(told.values())
