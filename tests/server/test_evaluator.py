"""The central evaluator: order-free, strict about withheld cells, plain about what is undefined."""

import json
import random
import time
from functools import partial

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from federation.metrics.intervals import delong
from federation.metrics.summary import ScoreSummary, merge
from federation.metrics.threshold import Threshold
from federation.study import ThresholdSection
from server.cells import cell
from server.evaluator import (
    _worst,
    evaluate_local_models,
    evaluate_model,
    headline,
    metrics_document,
)
from server.operating import Operating, common_threshold, thresholds_of
from server.site_evaluation import SiteEvaluation

AT_HALF = Operating(Threshold(0.5))
SITES = ("basel", "cleveland", "hungarian", "st-elsewhere")


def scores_of(rng, patients, separation=1.2):
    labels = (rng.random(patients) < 0.4).astype(int)
    return 1 / (1 + np.exp(-(rng.normal(size=patients) + separation * labels - 0.7))), labels


def evaluation(site, scores, labels, withheld=None, **subgroups):
    cells = {"": ScoreSummary.from_scores(scores, labels)}
    for name, chosen in subgroups.items():
        cells[f"sex={name}"] = ScoreSummary.from_scores(scores[chosen], labels[chosen])
    return SiteEvaluation(site, cells, withheld or {})


@pytest.fixture
def evaluations():
    rng = np.random.default_rng(0)
    found = []
    for site in SITES:
        scores, labels = scores_of(rng, 80)
        female = rng.random(80) < 0.5
        found.append(evaluation(site, scores, labels, female=female, male=~female))
    return found


def test_result_does_not_depend_on_the_order_of_arrival(evaluations):
    expected = json.dumps(evaluate_model(evaluations, AT_HALF))
    for seed in range(5):
        shuffled = random.Random(seed).sample(evaluations, len(evaluations))
        assert json.dumps(evaluate_model(shuffled, AT_HALF)) == expected


def test_overall_is_that_of_the_pooled_scores():
    rng = np.random.default_rng(1)
    sites = {site: scores_of(rng, 150) for site in SITES}
    found = evaluate_model([evaluation(site, *drawn) for site, drawn in sites.items()], AT_HALF)
    scores, labels = (np.concatenate(part) for part in zip(*sites.values(), strict=True))
    assert found["overall"]["n"] == 600
    assert found["overall"]["positives"] == labels.sum()
    assert found["overall"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(labels, scores), abs=0.002
    )
    assert found["overall"]["brier"]["value"] == pytest.approx(
        np.mean((scores - labels) ** 2), abs=1e-6
    )
    assert found["overall"]["excludes"] == []


def test_cell_has_every_metric_with_interval(evaluations):
    found = evaluate_model(evaluations, AT_HALF)["site_subgroups"]["basel"]["sex=female"]
    assert set(found) == {
        "n",
        "positives",
        "auroc",
        "auprc",
        "sensitivity_at_90_specificity",
        "specificity_at_90_sensitivity",
        "brier",
        "brier_calibration",
        "brier_refinement",
        "ece",
        "calibration_slope",
        "calibration_intercept",
        "net_benefit",
        "at_threshold",
    }
    bare = {"ece", "brier_calibration", "brier_refinement"}
    for name in set(found) - bare - {"n", "positives", "net_benefit", "at_threshold"}:
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert all(set(found[name]) == {"value"} for name in bare)
    assert found["at_threshold"]["threshold"] == 0.5
    for name in set(found["at_threshold"]) - {"threshold"}:
        one = found["at_threshold"][name]
        assert one["low"] <= one["value"] <= one["high"]
    assert {"threshold", "value", "low", "high", "treat_all"} == set(found["net_benefit"][0])


def test_withheld_site_is_left_out_of_overall_and_named(evaluations):
    whole = SiteEvaluation("zurich", {}, {"": "fewer than 10 patients"})
    found = evaluate_model([*evaluations, whole], AT_HALF)
    assert found["sites"]["zurich"] == {"suppressed": "fewer than 10 patients"}
    assert found["overall"] == {
        **evaluate_model(evaluations, AT_HALF)["overall"],
        "excludes": ["zurich"],
    }
    # a site withheld as a whole has no subgroups to show either
    assert found["site_subgroups"]["zurich"] == {}


def test_withheld_subgroup_is_left_out_and_its_site_named(evaluations):
    first, *others = evaluations
    cells = {name: one for name, one in first.cells.items() if name != "sex=female"}
    hidden = SiteEvaluation(first.site, cells, {"sex=female": "too few"})
    found = evaluate_model([hidden, *others], AT_HALF)
    assert found["site_subgroups"]["basel"]["sex=female"] == {"suppressed": "too few"}
    assert found["subgroups"]["sex=female"]["excludes"] == ["basel"]
    assert found["subgroups"]["sex=female"]["n"] == sum(one.cells["sex=female"].n for one in others)


def test_level_absent_at_a_site_is_not_called_withheld(evaluations):
    extra = evaluation("zurich", *scores_of(np.random.default_rng(2), 40))
    assert (
        evaluate_model([*evaluations, extra], AT_HALF)["subgroups"]["sex=female"]["excludes"] == []
    )


def test_all_sites_withheld_leaves_a_reason():
    found = evaluate_model([SiteEvaluation("basel", {}, {"": "fewer than 10 patients"})], AT_HALF)
    assert found["overall"] == {"suppressed": "every site withheld it", "excludes": ["basel"]}


def test_one_class_is_null_with_a_reason_and_keeps_what_is_defined():
    found = cell(ScoreSummary.from_scores([0.1, 0.2] * 10, [0] * 20))
    undefined = {"value": None, "low": None, "high": None, "reason": "only one class"}
    for name in ("auroc", "auprc", "sensitivity_at_90_specificity", "calibration_slope"):
        assert found[name] == undefined
    assert found["brier"]["value"] == pytest.approx(0.025)


def test_site_twice_or_silent_about_itself_is_refused(evaluations):
    with pytest.raises(ValueError, match="twice"):
        evaluate_model([evaluations[0], evaluations[0]], AT_HALF)
    with pytest.raises(ValueError, match="as a whole"):
        evaluate_model([SiteEvaluation("basel", {}, {})], AT_HALF)


def test_same_summaries_give_the_same_document(evaluations):
    def document():
        models = {"federated": evaluate_model(evaluations, AT_HALF)}
        return json.dumps(metrics_document("heart", "f00", 42, models, {}), allow_nan=False)

    assert document() == document()


def test_document_refuses_what_is_not_strict_json():
    with pytest.raises(ValueError, match="JSON"):
        metrics_document("heart", "f00", 42, {"federated": {"overall": float("nan")}}, {})


def local_evaluations(rng):
    data = {site: scores_of(rng, 60 + 40 * k) for k, site in enumerate(SITES)}
    # each site's model has a scale of its own: pooled on one scale they would rank badly
    return data, {
        trained: [
            evaluation(tested, scores ** (1 + k), labels)
            for tested, (scores, labels) in data.items()
        ]
        for k, trained in enumerate(SITES)
    }


def test_local_models_are_averaged_within_sites_and_never_pooled():
    data, by_site = local_evaluations(np.random.default_rng(3))
    local, cross = evaluate_local_models(by_site, AT_HALF)
    areas = [roc_auc_score(labels, scores) for scores, labels in data.values()]
    weights = [len(labels) for _, labels in data.values()]
    overall = local["overall"]
    assert overall["averaged_over_sites"] is True
    assert overall["n"] == sum(weights)
    assert overall["auroc"]["value"] == pytest.approx(np.average(areas, weights=weights), abs=0.01)
    assert overall["auroc"]["low"] < overall["auroc"]["value"] < overall["auroc"]["high"]
    # four independent sites together are known better than any of them
    width = overall["auroc"]["high"] - overall["auroc"]["low"]
    for site in SITES:
        alone = local["sites"][site]["auroc"]
        assert width < alone["high"] - alone["low"]
    assert local["sites"]["basel"] == cross["basel"]["basel"]
    assert set(cross["basel"]) == set(SITES)


def test_local_average_leaves_out_a_site_without_both_classes():
    data, by_site = local_evaluations(np.random.default_rng(4))
    scores, labels = data["basel"]
    by_site["basel"][0] = evaluation("basel", scores, np.zeros_like(labels))
    local, _ = evaluate_local_models(by_site, AT_HALF)
    assert local["overall"]["auroc"]["undefined_at"] == ["basel"]
    assert local["overall"]["auroc"]["value"] is not None
    assert "undefined_at" not in local["overall"]["brier"]


def test_local_subgroups_are_averaged_too(evaluations):
    by_site = {one.site: [one] for one in evaluations}
    local, _ = evaluate_local_models(by_site, AT_HALF)
    assert local["subgroups"]["sex=female"]["averaged_over_sites"] is True


def test_headline_is_the_point_of_the_cell(evaluations):
    summary = evaluations[0].cells[""]
    full = cell(summary)
    assert headline(summary) == {name: full[name]["value"] for name in ("auroc", "auprc", "brier")}
    assert headline(ScoreSummary.empty()) == {"auroc": None, "auprc": None, "brier": None}


@pytest.mark.slow
def test_hundred_sites_of_ten_cells_take_seconds():
    rng = np.random.default_rng(5)
    many = []
    for k in range(100):
        scores, labels = scores_of(rng, 300)
        part = rng.integers(0, 9, 300)
        groups = {f"level{level}": part == level for level in range(9)}
        many.append(evaluation(f"site-{k:03}", scores, labels, **groups))
    start = time.perf_counter()
    found = evaluate_model(many, AT_HALF)
    assert time.perf_counter() - start < 30
    assert found["overall"]["n"] == 30_000


# --- one threshold, gaps, worst groups, hospitals


def tuned(rng, sites=SITES, rule=None):
    return common_threshold(
        [evaluation(site, *scores_of(rng, 80)) for site in sites], rule or ThresholdSection()
    )


def test_one_threshold_from_the_tuning_split_serves_every_cell(evaluations):
    operating = tuned(np.random.default_rng(6))
    found = evaluate_model(evaluations, operating)
    assert found["threshold"]["n"] == 320
    assert found["threshold"]["excludes"] == []
    cells = [found["overall"], *found["sites"].values(), *found["subgroups"].values()]
    cells += [one for by_name in found["site_subgroups"].values() for one in by_name.values()]
    assert {one["at_threshold"]["threshold"] for one in cells} == {operating.common.value}
    merged = merge(one.cells[""] for one in evaluations).confusion(operating.common.value)
    expected = round(merged.tp / (merged.tp + merged.fn), 6)
    assert found["overall"]["at_threshold"]["sensitivity"]["value"] == expected


def test_without_a_tuning_split_no_decision_is_judged_and_it_says_why(evaluations):
    found = evaluate_model(evaluations, common_threshold([], ThresholdSection()))
    assert found["threshold"]["reason"] == "no site sent its tuning split"
    expected = {"threshold": None, "reason": "no site sent its tuning split"}
    assert found["overall"]["at_threshold"] == expected
    assert set(found["fairness"]["sex"]) == {"calibration", "auroc"}


def test_withheld_tuning_split_is_left_out_of_the_threshold_and_named():
    small = SiteEvaluation("small", {}, {"": "fewer than 10 patients"})
    given = evaluation("basel", *scores_of(np.random.default_rng(7), 80))
    told = common_threshold([small, given], ThresholdSection()).told
    assert (told["n"], told["excludes"]) == (80, ["small"])


def test_own_models_decide_at_their_own_thresholds_and_are_counted_together():
    data, by_site = local_evaluations(np.random.default_rng(8))
    home = [by_site[site][k] for k, site in enumerate(SITES)]
    rule = ThresholdSection(rule="sensitivity", value=0.9)
    operating = thresholds_of({one.site: [one] for one in home}, rule)
    local, cross = evaluate_local_models(by_site, operating)
    own = {site: one["value"] for site, one in local["threshold"]["sites"].items()}
    assert len(set(own.values())) == len(SITES)
    assert cross["basel"]["cleveland"]["at_threshold"]["threshold"] == own["basel"]
    together = local["overall"]["at_threshold"]
    assert together["threshold"] is None
    assert "net_benefit" not in together
    called = {s: scores ** (1 + k) >= own[s] for k, (s, (scores, _)) in enumerate(data.items())}
    hits = sum((called[site] & (labels == 1)).sum() for site, (_, labels) in data.items())
    positives = sum(labels.sum() for _, labels in data.values())
    assert together["sensitivity"]["value"] == pytest.approx(hits / positives, abs=1e-6)
    assert together["sensitivity"]["value"] >= 0.9


def test_worst_site_and_subgroup_have_intervals_that_allow_for_the_choice(evaluations):
    found = evaluate_model(evaluations, AT_HALF)
    worst = found["worst"]["site"]
    areas = {site: one["auroc"] for site, one in found["sites"].items()}
    assert worst["name"] == min(areas, key=lambda site: areas[site]["value"])
    assert worst["of"] == 4
    alone, together = areas[worst["name"]], worst["auroc"]
    assert together["value"] == alone["value"]
    assert together["low"] < alone["low"] and alone["high"] < together["high"]
    assert found["worst"]["subgroup"]["name"] in ("sex=female", "sex=male")
    assert evaluate_model([], AT_HALF)["worst"] == {"site": None, "subgroup": None}


def test_simultaneous_interval_of_the_worst_site_covers_its_truth():
    rng, covered = np.random.default_rng(9), 0
    truth = norm.cdf(1.2 / np.sqrt(2))
    for _ in range(120):
        drawn = [evaluation(f"s{k:02}", *scores_of(rng, 90)).cells[""] for k in range(12)]
        areas = {f"s{k:02}": partial(delong, one) for k, one in enumerate(drawn)}
        worst = _worst(areas)["auroc"]
        covered += worst["low"] <= truth <= worst["high"]
    assert covered / 120 >= 0.92


def test_patients_of_unknown_level_are_no_group_of_the_gaps(evaluations):
    one = evaluations[0]
    cells = {**one.cells, "sex=unknown": one.cells["sex=male"]}
    found = evaluate_model([SiteEvaluation("basel", cells, {}), *evaluations[1:]], AT_HALF)
    assert found["fairness"] == evaluate_model(evaluations, AT_HALF)["fairness"]
    ends = found["fairness"]["sex"]["sensitivity"]
    assert {ends["lowest"], ends["highest"]} == {"sex=female", "sex=male"}


def test_hospitals_are_compared_where_there_are_five():
    rng = np.random.default_rng(10)
    five = [evaluation(f"s{k}", *scores_of(rng, 90)) for k in range(5)]
    between = evaluate_model(five, AT_HALF)["between_sites"]
    assert between["prediction"]["low"] < between["auroc"]["low"] < between["auroc"]["high"]
    few = evaluate_model(five[:4], AT_HALF)["between_sites"]
    assert few["auroc"]["reason"] == "fewer than 5 hospitals can be compared"
