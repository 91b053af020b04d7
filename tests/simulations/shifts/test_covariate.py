"""Covariate shift: an affine map of each code's values, the site's own."""

import numpy as np
import pytest

from simulations.shifts import covariate
from simulations.shifts.covariate import Covariate


def values(tables, code):
    return tables.events.loc[tables.events["code"] == code, "numeric_value"].to_numpy(float)


def test_values_move_by_the_drawn_offset_and_stretch(make_tables, scope):
    tables = make_tables(100)
    effect = covariate.apply(Covariate(kind="covariate"), tables, scope(0.5))
    assert set(effect.drawn) == {"LAB//A", "LAB//B", "LAB//CRP", "VITAL//C"}
    for code, drawn in effect.drawn.items():
        before, after = values(tables, code), values(effect.tables, code)
        free = after > 0
        slope, _ = np.polyfit(before[free], after[free], 1)
        assert slope == pytest.approx(drawn["stretch"], rel=1e-4)
        centre = after - (before - before.mean()) * drawn["stretch"] - before.mean()
        assert centre[free] / before.std() == pytest.approx(drawn["offset"], abs=1e-4)
    assert effect.touched == {"values changed": 100 * 15}


def test_sites_drift_in_directions_of_their_own(make_tables, scope):
    tables = make_tables(60)
    shift = Covariate(kind="covariate")
    offsets = [
        [d["offset"] for d in covariate.apply(shift, tables, scope(1, 0, s)).drawn.values()]
        for s in "ab"
    ]
    assert not np.allclose(*offsets, atol=0.05)


def test_only_chosen_codes_drift_and_positive_ones_stay_so(make_tables, scope):
    tables = make_tables(60)
    shift = Covariate(kind="covariate", codes=("LAB//A",), offset=10.0)
    for seed in range(3):
        effect = covariate.apply(shift, tables, scope(1.0, seed))
        assert set(effect.drawn) == {"LAB//A"}
        assert (values(effect.tables, "VITAL//C") == values(tables, "VITAL//C")).all()
        assert values(effect.tables, "LAB//A").min() >= min(0, values(tables, "LAB//A").min())


def test_site_without_numbers_is_reported(make_tables, scope):
    tables = make_tables(20)
    effect = covariate.apply(Covariate(kind="covariate", codes=("X//",)), tables, scope())
    assert effect.tables is tables
    assert effect.note
