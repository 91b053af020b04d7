"""A model's entry of metrics.json after recalibration: what moves, what stays, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from federation.errors import UserError
from federation.metrics.grid import Line
from federation.metrics.outcomes import OutcomesSummary
from federation.metrics.recalibration import fitted
from federation.metrics.summary import ScoreSummary, merge
from federation.study import Study
from server.finished_run import RECALIBRATION, read_lines
from server.judges import judge_of
from server.recalibration import (
    Recalibration,
    line_of,
    lines_document,
    recalibration,
    unrecalibrated,
)
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation

SITES = ("basel", "bern", "chur")
WITHHELD = "fewer than 10 patients"
FINDINGS = ("effusion", "oedema")


def study(make_study, method="platt", **evaluation):
    return make_study("ehr", evaluation={"recalibration": {"method": method}, **evaluation})


def drawn(seed, n=400, scale=3.0, shift=0.8):
    """Scores of an overconfident model, and labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    z = scale * (rng.normal(size=n) + 1.2 * labels - 1) + shift
    return 1 / (1 + np.exp(-z)), labels


def halves():
    return np.arange(400) % 2 == 0, np.arange(400) % 2 == 1


def evaluations(seed, sites=SITES):
    found = []
    for k, site in enumerate(sites):
        scores, labels = drawn(seed + k)
        cells = {"": ScoreSummary.from_scores(scores, labels)}
        for level, inside in zip(("female", "male"), halves(), strict=True):
            cells[f"sex={level}"] = ScoreSummary.from_scores(scores[inside], labels[inside])
        found.append(SiteEvaluation(site, cells, {}))
    return found


def scored(**changes):
    return replace(Scored(evaluations(1), evaluations(11), {}), **changes)


def values(cell, *names):
    return [cell[name]["value"] for name in names]


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_model_is_measured_with_the_line_of_its_tuning_splits(make_study, method):
    tested = scored()
    plain = judge_of(make_study("ehr")).model(tested)
    found = judge_of(study(make_study, method)).model(tested)
    told = found["recalibration"]
    pooled = merge(one.cells[""] for one in tested.tuning)
    assert line_of(found) == fitted(pooled, method).line
    assert (told["n"], told["positives"], told["excludes"]) == (1200, pooled.positives, [])
    figures = ("brier", "ece", "calibration_slope", "calibration_intercept")
    assert values(told["before"], *figures) == values(plain["overall"], *figures)
    for cell, other in (
        (found["overall"], plain["overall"]),
        (found["sites"]["bern"], plain["sites"]["bern"]),
        (found["subgroups"]["sex=female"], plain["subgroups"]["sex=female"]),
    ):
        assert cell["auroc"] == other["auroc"]
        assert cell["auprc"] == other["auprc"]
        assert cell["brier"]["value"] < other["brier"]["value"]
    assert found["worst"] == plain["worst"]
    gaps, before = (one["fairness"]["sex"] for one in (found, plain))
    assert gaps["auroc"] == before["auroc"]
    assert gaps["sensitivity"] == before["sensitivity"]
    assert gaps["calibration"] != before["calibration"]
    assert found["between_sites"] == plain["between_sites"]
    decided = [model["overall"]["at_threshold"] for model in (found, plain)]
    assert values(decided[0], "sensitivity", "ppv") == values(decided[1], "sensitivity", "ppv")
    assert found["threshold"]["value"] != plain["threshold"]["value"]
    slopes = [plain["overall"]["calibration_slope"], found["overall"]["calibration_slope"]]
    assert slopes[0]["high"] < 0.6
    assert slopes[1]["low"] < 1 < slopes[1]["high"]
    json.dumps(found, allow_nan=False)


def test_order_of_arrival_changes_nothing(make_study):
    judge = judge_of(study(make_study))
    turned = scored(held_out=evaluations(1)[::-1], tuning=evaluations(11)[::-1])
    assert json.dumps(judge.model(turned)) == json.dumps(judge.model(scored()))


def test_site_whose_tuning_split_is_withheld_takes_no_part_and_is_named(make_study):
    judge = judge_of(study(make_study))
    hidden = SiteEvaluation("bern", {}, {"": WITHHELD})
    tuning = [hidden if one.site == "bern" else one for one in evaluations(11)]
    found = judge.model(scored(tuning=tuning))
    others = judge.model(scored(tuning=[one for one in tuning if one.site != "bern"]))
    assert found["recalibration"]["excludes"] == ["bern"]
    assert line_of(found) == line_of(others)
    assert found["sites"]["bern"]["n"] == 400


def test_what_cannot_be_fitted_leaves_the_risks_and_says_why(make_study):
    asked = study(make_study)
    plain = judge_of(make_study("ehr"))
    turned = [
        replace(one, cells={"": ScoreSummary.from_scores(1 - drawn(k)[0], drawn(k)[1])})
        for k, one in enumerate(evaluations(11))
    ]
    for tuning, reason in (([], "no site sent its tuning split"), (turned, "no slope above 0")):
        tested = scored(tuning=tuning)
        found = judge_of(asked).model(tested)
        assert found["recalibration"]["slope"] is None
        assert reason in found["recalibration"]["reason"]
        told = {key: part for key, part in found.items() if key != "recalibration"}
        assert told == plain.model(tested)
        [warning] = unrecalibrated(found)
        assert reason in warning
        assert lines_document(asked, found)["lines"] == {"sick": {"slope": 1.0, "intercept": 0.0}}


def test_fixed_threshold_is_one_of_the_recalibrated_risk(make_study):
    tested = scored()
    found = judge_of(study(make_study, threshold={"rule": "fixed", "value": 0.2})).model(tested)
    line = line_of(found)
    scores, labels = (np.concatenate(part) for part in zip(*map(drawn, (1, 2, 3)), strict=True))
    moved = 1 / (1 + np.exp(-(line.slope * np.log(scores / (1 - scores)) + line.intercept)))
    exact = (moved[labels == 1] >= 0.2).mean()
    assert found["overall"]["at_threshold"]["threshold"] == 0.2
    sensitivity = found["overall"]["at_threshold"]["sensitivity"]["value"]
    assert sensitivity == pytest.approx(exact, abs=0.02)


def test_score_that_hospitals_hold_already_stays_as_it_is(make_study):
    tested = scored(ours=False)
    found = judge_of(study(make_study)).model(tested)
    assert found == judge_of(make_study("ehr")).model(tested)


def test_each_site_s_own_model_has_its_own_line(make_study):
    asked, plain = judge_of(study(make_study)), judge_of(make_study("ehr"))
    tested = {"basel": evaluations(1), "bern": evaluations(21)}
    tuning = {"basel": evaluations(11)[:1], "bern": evaluations(31)[1:2]}
    models, crossed = asked.local_models(tested, tuning)
    before, crossed_before = plain.local_models(tested, tuning)
    told = models["recalibration"]["sites"]
    assert told["basel"]["slope"] != told["bern"]["slope"]
    assert told["basel"]["n"] == 400
    expected = recalibration(tuning["basel"], study(make_study).evaluation.recalibration).line
    assert (told["basel"]["slope"], told["basel"]["intercept"]) == expected
    assert crossed["basel"]["bern"]["auroc"] == crossed_before["basel"]["bern"]["auroc"]
    assert values(crossed["basel"]["bern"], "ece") < values(crossed_before["basel"]["bern"], "ece")
    assert models["overall"]["brier"]["value"] < before["overall"]["brier"]["value"]
    assert models["fairness"]["sex"]["calibration"] != before["fairness"]["sex"]["calibration"]
    left_out = [tested["basel"][1], tested["bern"][0]]
    elsewhere = {"bern": tuning["basel"], "basel": tuning["bern"]}
    found = asked.own_models(left_out, elsewhere)
    assert set(found["recalibration"]["sites"]) == {"basel", "bern"}
    assert found["overall"]["auroc"] == plain.own_models(left_out, elsewhere)["overall"]["auroc"]


def test_each_finding_has_its_own_line(make_study):
    task = {"kind": "multilabel", "label": "film", "labels": list(FINDINGS)}
    asked = make_study("ehr", task=task, evaluation={"recalibration": {"method": "platt"}})

    def of_findings(seed):
        pairs = zip(evaluations(seed), evaluations(seed + 50), strict=True)
        return [
            replace(
                one,
                cells={"": OutcomesSummary({"effusion": one.cells[""], "oedema": other.cells[""]})},
            )
            for one, other in pairs
        ]

    found = judge_of(asked).model(Scored(of_findings(1), of_findings(11), {}))
    lines = {name: line_of(found["by_label"][name]) for name in FINDINGS}
    assert lines["effusion"] == line_of(judge_of(study(make_study)).model(scored()))
    assert lines["oedema"] not in (None, lines["effusion"])
    document = lines_document(asked, found)["lines"]
    assert {name: Line(**one) for name, one in document.items()} == lines
    assert unrecalibrated(found) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"task": {"kind": "multiclass", "classes": ["a", "b", "c"]}}, "logits of all classes"),
        (
            {"task": {"kind": "survival", "intervals": [10, 30]}},
            "risk for each horizon",
        ),
        ({"personalisation": {"calibration": "platt"}}, "model of its own"),
        ({"strategy": {"name": "ditto"}}, "model of its own"),
        (
            {
                "privacy": {"mechanism": "dp_sgd", "epsilon": 1.0},
                "evaluation": {
                    "recalibration": {"method": "platt"},
                    "noise": {"epsilon": 1.0},
                },
            },
            "biases a slope",
        ),
        ({"evaluation": {"recalibration": {"method": "isotonic"}}}, "method"),
        ({"evaluation": {"recalibration": {}}}, "method"),
    ],
)
def test_study_that_cannot_be_recalibrated_is_refused_with_the_reason(study_document, changes, why):
    known = {"evaluation": {"recalibration": {"method": "platt"}}}
    with pytest.raises(ValueError, match=why):
        Study.model_validate(study_document("ehr", **{**known, **changes}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"lines": {}}',
        '{"lines": {"sick": {"slope": -1, "intercept": 0}}}',
        '{"lines": {"sick": {"slope": NaN, "intercept": 0}}}',
        '{"lines": {"other": {"slope": 1, "intercept": 0}}}',
    ],
)
def test_lines_of_a_damaged_run_are_refused(make_study, tmp_path, text):
    assert read_lines(tmp_path, make_study("ehr")) == {}
    with pytest.raises(UserError, match="missing or damaged"):
        read_lines(tmp_path, study(make_study))
    (tmp_path / RECALIBRATION).write_text(text)
    with pytest.raises(UserError, match="missing or damaged"):
        read_lines(tmp_path, study(make_study))
    document = lines_document(study(make_study), judge_of(study(make_study)).model(scored()))
    (tmp_path / RECALIBRATION).write_text(json.dumps(document))
    assert read_lines(tmp_path, study(make_study))["sick"].slope < 0.7


def test_no_recalibration_leaves_evaluations_as_they_are():
    sent = evaluations(1)
    assert Recalibration().of(sent) == sent
