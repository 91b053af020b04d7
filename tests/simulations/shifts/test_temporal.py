"""Temporal drift: nothing for the first patient, everything for the last, in between by rank."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.shifts import covariate, temporal
from simulations.shifts.covariate import Covariate
from simulations.shifts.temporal import Temporal


def test_drift_grows_with_the_rank_of_the_prediction_time(make_tables, scope):
    tables = make_tables(80)
    of = Covariate(kind="covariate", offset=3.0, scale=0.0, codes=("LAB//A",))
    whole = covariate.apply(of, tables, scope()).tables.events["numeric_value"]
    part = temporal.apply(Temporal(kind="temporal", of=of), tables, scope()).tables
    old = tables.events["numeric_value"]
    chosen = (
        (tables.events["code"] == "LAB//A").to_numpy() & (np.abs(whole - old) > 0.05) & (whole > 0)
    )
    share = ((part.events["numeric_value"] - old) / (whole - old))[chosen].to_numpy()
    rank = tables.patients["prediction_time"].rank().to_numpy()[tables.place_of[chosen]]
    assert share == pytest.approx((rank - 1) / 79, abs=1e-3)


def test_prevalence_falls_or_rises_over_time(many_tables, scope):
    of = {"kind": "prevalence", "sd": 2.0}
    effect = temporal.apply(Temporal(kind="temporal", of=of), many_tables, scope(1.0, 5))
    patients = effect.tables.patients.sort_values("prediction_time")
    early, late = np.array_split(patients["label"].to_numpy(), 2)
    assert np.sign(late.mean() - early.mean()) == np.sign(effect.drawn["logit"])
    assert abs(late.mean() - early.mean()) > 0.1


def test_site_with_one_prediction_time_is_reported(make_tables, scope):
    tables = make_tables(20)
    at_once = replace(tables, labels=tables.labels.assign(prediction_time=np.datetime64("2026")))
    effect = temporal.apply(Temporal(kind="temporal", of={"kind": "concept"}), at_once, scope())
    assert effect.tables is at_once
    assert "same" in effect.note
