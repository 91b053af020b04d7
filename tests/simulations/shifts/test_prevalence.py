"""Prevalence: the logit moves by what was drawn, and nothing else changes."""

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import ks_2samp

from simulations.hospitals import draw_hospitals, expected_prevalence
from simulations.shifts import prevalence
from simulations.shifts.kind import Place
from simulations.shifts.prevalence import Prevalence

SHIFT = Prevalence(kind="prevalence")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logit_of_the_prevalence_moves_by_the_drawn_amount(many_tables, scope, seed):
    effect = prevalence.apply(SHIFT, many_tables, scope(0.7, seed))
    before, after = many_tables.patients["label"], effect.tables.patients["label"]
    moved = logit(after.mean()) - logit(before.mean())
    error = np.sqrt(1 / after.sum() + 1 / (len(after) - after.sum()))
    assert abs(effect.drawn["logit"]) > 0.02
    assert moved == pytest.approx(effect.drawn["logit"], abs=3 * error)


def test_patients_within_a_class_stay_as_they_were(make_tables, scope):
    tables = make_tables(2000)
    after = prevalence.apply(SHIFT, tables, scope(1.0, 5)).tables
    for label in (0, 1):
        values = [
            one.past.loc[one.patients["label"].to_numpy()[one.past["patient"]] == label]
            for one in (tables, after)
        ]
        crp = [v.loc[v["code"] == "LAB//CRP", "numeric_value"] for v in values]
        assert ks_2samp(*crp).pvalue > 0.01


def test_stronger_shift_takes_away_whom_a_weaker_one_does(make_tables, scope):
    tables = make_tables(300)
    stay = [
        set(prevalence.apply(SHIFT, tables, scope(s, 5)).tables.patients["subject_id"])
        for s in (0.25, 0.5, 1.0)
    ]
    assert stay[0] > stay[1] > stay[2]


def test_profile_of_a_synthetic_hospital_gets_the_prevalence_drawn(scope):
    hospital = draw_hospitals(2, 50, 7)[1]
    changed, drawn = prevalence.in_profile(SHIFT, hospital, scope(0.8, 3), Place(1, 7))
    expected = 1 / (1 + np.exp(-(logit(hospital.prevalence) + drawn["logit"])))
    assert changed.prevalence == pytest.approx(expected, abs=1e-5)
    assert expected_prevalence(changed, 1, 7) == pytest.approx(expected, abs=1e-4)
    assert changed.size == hospital.size
