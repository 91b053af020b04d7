"""Case mix: as many leave as said, and those who stay are of the preferred kind."""

import numpy as np
import pytest

from simulations.hospitals import draw_hospitals, expected_prevalence
from simulations.shifts import case_mix
from simulations.shifts.attributes import attributes
from simulations.shifts.case_mix import CaseMix
from simulations.shifts.kind import Place


@pytest.mark.parametrize("seed", range(4))
def test_mean_age_moves_towards_the_preference(make_tables, scope, seed):
    tables = make_tables(600)
    shift = CaseMix(kind="case_mix", attributes=("age",))
    effect = case_mix.apply(shift, tables, scope(1.0, seed))
    ages = [attributes(one)["age"].mean() for one in (tables, effect.tables)]
    assert len(effect.tables.patients) == 300
    assert set(effect.drawn) == {"age"}
    assert np.sign(ages[1] - ages[0]) == np.sign(effect.drawn["age"])


def test_without_a_preference_all_patients_are_as_likely_to_leave(make_tables, scope):
    tables = make_tables(600)
    shift = CaseMix(kind="case_mix", attributes=("age",), sd=1e-9, loses=0.3)
    kept = case_mix.apply(shift, tables, scope(0.5)).tables
    assert len(kept.patients) == round(600 * 0.85)
    assert attributes(kept)["age"].mean() == pytest.approx(attributes(tables)["age"].mean(), abs=1)


def test_site_whose_patients_do_not_differ_is_reported(make_tables, scope):
    tables = make_tables(50)
    effect = case_mix.apply(CaseMix(kind="case_mix", attributes=("comorbidity",)), tables, scope())
    assert effect.tables is tables
    assert "differs" in effect.note


def test_comorbidity_counts_different_diagnoses_before_the_prediction(consortium):
    from clients.site import load_site
    from simulations.shifts.outcomes import YES_OR_NO
    from simulations.shifts.tables import read_tables

    tables = read_tables(load_site(consortium / "bayview"), YES_OR_NO)
    counts = attributes(tables)["comorbidity"]
    events = tables.events[tables.events["code"].astype(str).str.startswith("ICD")]
    times = tables.patients.set_index("subject_id")["prediction_time"]
    for subject, count in zip(tables.patients["subject_id"], counts, strict=True):
        own = events[(events["subject_id"] == subject) & (events["time"] <= times[subject])]
        assert own["code"].nunique() == count


def test_risk_of_a_patient_stays_while_the_hospital_s_prevalence_follows_its_patients(scope):
    hospital = draw_hospitals(1, 50, 7)[0]
    shift = CaseMix(kind="case_mix", attributes=("age",), sd=2.0)
    changed, drawn = case_mix.in_profile(shift, hospital, scope(1.0, 1), Place(0, 7))
    assert changed.offset == hospital.offset
    assert (changed.female, changed.ethnicity) == (hospital.female, hospital.ethnicity)
    assert changed.age == pytest.approx(hospital.age + 8 * drawn["age"], abs=1e-4)
    assert changed.prevalence == pytest.approx(expected_prevalence(changed, 0, 7), abs=1e-5)
    older = changed.age - hospital.age
    assert np.sign(changed.prevalence - hospital.prevalence) == np.sign(older)
