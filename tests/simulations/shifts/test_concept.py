"""Concept shift: labels follow the site's rule, at the old prevalence."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simulations.hospitals import draw_hospitals, expected_prevalence
from simulations.shifts import concept
from simulations.shifts.concept import Concept, _features
from simulations.shifts.kind import Place


@pytest.mark.parametrize("seed", [0, 1])
def test_regression_on_labels_drawn_anew_finds_the_rule(many_tables, scope, seed):
    shift = Concept(kind="concept", share=1.0, features=3, slope=2.0)
    effect = concept.apply(shift, many_tables, scope(1.0, seed))
    rule = effect.drawn["rule"]
    x = _features(many_tables)[list(rule)].to_numpy()
    fitted = LogisticRegression(C=100).fit(x, effect.tables.patients["label"]).coef_[0]
    truth = np.array(list(rule.values()))
    truth *= 2.0 / (x @ truth).std()
    assert fitted == pytest.approx(truth, abs=0.3)


def test_share_of_labels_is_drawn_anew_and_the_prevalence_stays(many_tables, scope):
    effect = concept.apply(Concept(kind="concept", share=0.6), many_tables, scope(0.5))
    assert effect.touched["labels drawn anew"] == pytest.approx(900, abs=4 * np.sqrt(630))
    changed = (effect.tables.patients["label"] != many_tables.patients["label"]).sum()
    assert effect.touched["labels changed"] == changed
    assert 0 < changed < effect.touched["labels drawn anew"]
    assert effect.tables.patients["label"].mean() == pytest.approx(0.5, abs=0.03)


def test_rule_looks_at_nothing_after_the_prediction_time(make_tables, scope):
    tables = make_tables(200)
    late = tables.events.index.difference(tables.past.index)
    assert len(late) == 600
    events = tables.events.copy()
    events.loc[late, "numeric_value"] = 1e6
    planted = replace(tables, events=events)
    shift = Concept(kind="concept")
    labels = [
        concept.apply(shift, one, scope()).tables.patients["label"].tolist()
        for one in (tables, planted)
    ]
    assert labels[0] == labels[1]


def test_synthetic_hospital_gets_coefficients_of_its_own_at_its_old_prevalence(scope):
    hospital = draw_hospitals(1, 50, 7)[0]
    changed, drawn = concept.in_profile(
        Concept(kind="concept", sd=0.5), hospital, scope(1.0, 2), Place(0, 7)
    )
    assert changed.effects.image == drawn["image"] != hospital.effects.image
    assert changed.offset != hospital.offset
    assert expected_prevalence(changed, 0, 7) == pytest.approx(hospital.prevalence, abs=1e-4)
