"""Shifts of labels that are classes, findings or times: by the definition of each, or refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lifelines import CoxPHFitter
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from clients.cohort import read_patients
from clients.label_values import labels_with_values, value_columns
from clients.site import load_site
from clients.sources.subjects import SubjectIds
from federation.errors import UserError
from federation.study import SplitSection
from federation.tasks import MulticlassTask, MultilabelTask, SurvivalTask
from simulations.consortium import synthesize
from simulations.outcomes import task_of
from simulations.shifts import concept, label_dirichlet, label_noise, prevalence
from simulations.shifts.concept import Concept, _features
from simulations.shifts.label_columns import with_labels
from simulations.shifts.label_dirichlet import LabelDirichlet
from simulations.shifts.label_noise import LabelNoise
from simulations.shifts.measure import distances
from simulations.shifts.pools import pool
from simulations.shifts.prevalence import Prevalence
from simulations.shifts.registry import KINDS
from simulations.shifts.reshape import reshape
from simulations.shifts.summary import summarise
from simulations.shifts.synthetic import synthesize_shifted

GRADES = MulticlassTask(label="x", classes=("low", "middle", "high", "highest"))
FINDINGS = MultilabelTask(label="x", labels=("sepsis", "oedema"), blank="missing")
TIMES = SurvivalTask(label="x", intervals=(30.0, 90.0))
PATIENTS = 3000


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def make(many_tables, rng):
    """Return a builder of tables with labels of a task, which follow from nothing."""

    def build(task):
        rows = len(many_tables.labels)
        if task is GRADES:
            values = [rng.choice(3, rows, p=[0.5, 0.3, 0.2]).astype(float)]  # nobody is "highest"
        elif task is FINDINGS:
            values = [(rng.random(rows) < share) * 1.0 for share in (0.4, 0.2)]
            values[1][rng.random(rows) < 0.25] = np.nan
        else:
            values = [rng.exponential(60, rows), (rng.random(rows) < 0.6) * 1.0]
        columns = dict(zip(value_columns(task), values, strict=True))
        labels = many_tables.labels.drop(columns="label").assign(**columns)
        return replace(many_tables, task=task, labels=labels)

    return build


def counts_of(tables):
    return np.bincount(tables.patients["label"], minlength=4)


def test_log_odds_between_classes_move_by_what_was_drawn(make, scope):
    tables = make(GRADES)
    effect = prevalence.apply(Prevalence(kind="prevalence"), tables, scope(1.0, 4))
    before, after = counts_of(tables)[:3], counts_of(effect.tables)[:3]
    drawn = np.array(list(effect.drawn["logit"].values()))[:3]
    moved = np.log(after / before)
    error = 3 * np.sqrt((1 / after + 1 / before).max())
    assert moved - moved[0] == pytest.approx(drawn - drawn[0], abs=error)
    assert len(effect.tables.patients) == PATIENTS - effect.touched["patients taken away"]


@pytest.mark.parametrize("task", [FINDINGS, TIMES], ids=["findings", "times"])
def test_logits_of_findings_and_of_seen_outcomes_move_by_what_was_drawn(make, scope, task):
    tables = make(task)
    effect = prevalence.apply(Prevalence(kind="prevalence"), tables, scope(0.8, 1))
    drawn = effect.drawn["logit"]
    drawn = drawn if isinstance(drawn, dict) else {"event": drawn}
    columns = value_columns(task)[-len(drawn) :]
    for column, shift in zip(columns, drawn.values(), strict=True):
        shares = [one.patients[column].mean() for one in (tables, effect.tables)]
        moved = logit(shares[1]) - logit(shares[0])
        assert moved == pytest.approx(shift, abs=0.25)
        assert abs(shift) > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_classes_get_the_shares_drawn_and_an_absent_one_stays_absent(make, scope, seed):
    tables = make(GRADES)
    shift = LabelDirichlet(kind="label_dirichlet", alpha=5.0)
    effect = label_dirichlet.apply(shift, tables, scope(1.0, seed))
    before, after = counts_of(tables), counts_of(effect.tables)
    assert (before[:3] == after[:3]).sum() == 1
    drawn = list(effect.drawn["shares"].values())
    assert after / after.sum() == pytest.approx(drawn, abs=0.002)
    assert drawn[3] == after[3] == 0


def test_wrong_class_is_any_other(make, scope):
    tables = make(GRADES)
    effect = label_noise.apply(LabelNoise(kind="label_noise", rate=0.5), tables, scope(1.0, 3))
    before, after = tables.patients["label"], effect.tables.patients["label"]
    wrong = before != after
    rate = effect.drawn["rate"]
    assert rate > 0.3
    assert wrong.mean() == pytest.approx(rate, abs=3 * np.sqrt(rate / PATIENTS))
    steps = np.bincount((after - before)[wrong] % 4, minlength=4)
    assert steps[0] == 0
    assert steps[1:] / steps.sum() == pytest.approx([1 / 3] * 3, abs=0.05)


def test_noise_leaves_unknown_findings_and_times_alone(make, scope):
    for task, errors, wrong_was in ((FINDINGS, "both", {0, 1}), (TIMES, "missed", {1})):
        tables = make(task)
        shift = LabelNoise(kind="label_noise", errors=errors)
        effect = label_noise.apply(shift, tables, scope(1.0, 3))
        columns = list(value_columns(task))
        before, after = tables.patients[columns], effect.tables.patients[columns]
        assert before.isna().equals(after.isna())
        changed = (before != after) & before.notna()
        assert changed.to_numpy().sum() == effect.touched["labels changed"] > 100
        assert set(before.to_numpy()[changed.to_numpy()]) == wrong_was
        if task is TIMES:
            assert before["days"].equals(after["days"])


@pytest.mark.parametrize("task", [GRADES, FINDINGS], ids=["classes", "findings"])
def test_regression_finds_the_rule_of_each_class_or_finding(make, scope, task):
    tables = make(task)
    shift = Concept(kind="concept", share=1.0, features=3, slope=1.5)
    effect = concept.apply(shift, tables, scope(1.0, 2))
    features = _features(tables)
    rules = effect.drawn["rule"]
    truth = {}
    for name, rule in rules.items():
        weights = pd.Series(rule).reindex(features.columns).fillna(0.0).to_numpy()
        truth[name] = weights * 1.5 / (features.to_numpy() @ weights).std()
    if task is GRADES:
        label = effect.tables.patients["label"]
        assert counts_of(effect.tables) == pytest.approx(counts_of(tables), abs=100)
        assert (label != 3).all()
        fitted = LogisticRegression(C=100).fit(features, label).coef_
        expected = np.stack(list(truth.values()))[:3]
        assert fitted - fitted[0] == pytest.approx(expected - expected[0], abs=0.35)
        return
    for name, column in zip(task.labels, value_columns(task), strict=True):
        known = effect.tables.patients[column].notna().to_numpy()
        label = effect.tables.patients[column][known]
        fitted = LogisticRegression(C=100).fit(features[known], label).coef_[0]
        assert fitted == pytest.approx(truth[name], abs=0.35)


def test_times_are_dealt_out_with_hazards_in_proportion_to_the_rule(make, scope):
    tables = make(TIMES)
    shift = Concept(kind="concept", share=1.0, features=2, slope=1.0)
    effect = concept.apply(shift, tables, scope(1.0, 2))
    before, after = (one.patients[["days", "event"]] for one in (tables, effect.tables))
    order = ["days", "event"]
    assert np.array_equal(before.sort_values(order), after.sort_values(order))  # another patient's
    features = _features(tables)
    rule = effect.drawn["rule"]
    score = features[list(rule)].to_numpy() @ np.array(list(rule.values()))
    table = after.reset_index(drop=True).assign(score=(score - score.mean()) / score.std())
    fitted = CoxPHFitter().fit(table, "days", "event").params_["score"]
    assert fitted == pytest.approx(1.0, abs=0.1)


def test_shift_without_a_meaning_for_the_labels_is_refused_with_the_reason(make_plan):
    dirichlet = make_plan({"kind": "coding"}, {"kind": "label_dirichlet"})
    for task in (FINDINGS, TIMES):
        with pytest.raises(UserError, match=r"shift.2: .*no single class"):
            dirichlet.check_task(task)
    dirichlet.check_task(GRADES)
    with pytest.raises(UserError, match='none is "missed"'):
        make_plan({"kind": "label_noise", "errors": "missed"}).check_task(GRADES)


def test_prevalence_is_measured_of_each_outcome_among_those_of_whom_it_is_known(make):
    one, other = make(FINDINGS), make(FINDINGS)
    told = distances(summarise(one, None), pool([summarise(other, None)]))
    for name, column in zip(FINDINGS.labels, value_columns(FINDINGS), strict=True):
        label, theirs = one.patients[column], other.patients[column]
        found = told["outcomes"][name]
        assert (found["known"], found["positives"]) == (label.count(), label.sum())
        assert found["prevalence"]["value"] == pytest.approx(label.mean(), abs=1e-5)
        assert found["gap"] == pytest.approx(abs(label.mean() - theirs.mean()), abs=1e-5)
    gaps = [found["gap"] for found in told["outcomes"].values()]
    assert told["prevalence_gap"] == pytest.approx(np.mean(gaps), abs=1e-5)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "survival"])
def test_sites_with_other_labels_are_shifted_and_can_be_read(make_plan, tmp_path, kind):
    task = task_of(kind)
    fits = [
        {"kind": name, "strength": 0.2}
        for name in KINDS
        if name not in ("temporal", *(() if kind == "multiclass" else ("label_dirichlet",)))
    ]
    plan = make_plan(*fits, {"kind": "temporal", "of": {"kind": "prevalence", "strength": 0.2}})
    size = {"sites": 2, "patients": 40, "seed": 3, "image_size": 16, "task": kind}
    synthesize(tmp_path / "plain", **size)
    reshape(tmp_path / "plain", plan, tmp_path / "reshaped", task=task)
    synthesize_shifted(tmp_path / "drawn", plan, **size)
    for out in ("reshaped", "drawn"):
        record = json.loads((tmp_path / out / "shifts.json").read_text())
        for name, told in record["sites"].items():
            patients = read_patients(load_site(tmp_path / out / name), task, SplitSection())
            assert len(patients) == told["after"]["patients"]
            by_model = {one["kind"] for one in told["shifts"] if one["on"] == "model"}
            if out == "drawn":
                follows = {"prevalence", "concept"} if kind != "multilabel" else set()
                assert by_model == {"quantity", "case_mix"} | follows
            positives = sum(one["positives"] for one in told["after"]["outcomes"].values())
            labels = patients.labels
            expected = {
                "multiclass": len(patients),
                "multilabel": np.nansum(labels) if kind == "multilabel" else 0,
                "survival": labels[:, -1].sum() if kind == "survival" else 0,
            }
            assert positives == expected[kind]
    noise = next(i for i, one in enumerate(fits) if one["kind"] == "label_noise")
    assert record["sites"]["bayview"]["shifts"][noise]["touched"]["labels changed"] > 0


def test_labels_are_written_in_the_type_of_their_column(tmp_path):
    times = pa.array([0, 0, 0], pa.timestamp("us"))
    keys = {"subject_id": pa.array([1, 2, 3]), "prediction_time": times}
    changed, values = np.array([True, False, True]), np.array([2.0, 1.0, 0.0])
    for column in (
        pa.array(["low", "middle", "low"]).dictionary_encode(),
        pa.array([0, 1, 0], pa.int8()),
        pa.array(["0", "1", "0"]),
    ):
        name = "integer_value" if column.type != pa.dictionary(pa.int32(), pa.string()) else ""
        table = pa.table({**keys, name or "categorical_value": column})
        written = with_labels(table, GRADES, "label", values, changed)
        assert written.schema == table.schema
        pq.write_table(written, tmp_path / "labels.parquet")
        read = labels_with_values(tmp_path / "labels.parquet", SubjectIds(b"k" * 32), GRADES)
        assert read["label"].tolist() == [2.0, 1.0, 0.0]
    table = pa.table(
        {**keys, "sepsis": pa.array([True, None, None]), "oedema": pa.array([1, 1, 1])}
    )
    written = with_labels(table, FINDINGS, "label:sepsis", values % 2, changed)
    assert written["sepsis"].to_pylist() == [False, None, False]
