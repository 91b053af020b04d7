"""Quantity: sizes follow the power law, in records and in profiles."""

import numpy as np
import pytest

from simulations.hospitals import draw_hospitals
from simulations.shifts import quantity
from simulations.shifts.kind import Place
from simulations.shifts.quantity import Quantity

NAMES = tuple("abcdefgh")
SHIFT = Quantity(kind="quantity", exponent=1.5)


def test_sizes_of_equal_sites_lie_on_a_power_law(make_tables, scope):
    tables = make_tables(2000)
    effects = [quantity.apply(SHIFT, tables, scope(0.8, 4, site, NAMES)) for site in NAMES]
    ranks = np.array([one.drawn["rank"] for one in effects])
    sizes = np.array([len(one.tables.patients) for one in effects])
    assert sorted(ranks) == list(range(1, 9))
    slope, height = np.polyfit(np.log(ranks), np.log(sizes), 1)
    assert slope == pytest.approx(-0.8 * 1.5, abs=0.01)
    assert np.exp(height) == pytest.approx(2000, rel=0.01)


def test_weaker_shift_keeps_whom_a_stronger_one_keeps(make_tables, scope):
    tables = make_tables(300)
    kept = [
        set(quantity.apply(SHIFT, tables, scope(s, 4, "b", NAMES)).tables.patients["subject_id"])
        for s in (0.2, 0.6, 1.0)
    ]
    assert kept[0] > kept[1] > kept[2]


def test_profile_gets_the_size_that_records_would(make_tables, scope):
    hospital = draw_hospitals(1, 300, 7)[0]
    changed, drawn = quantity.in_profile(SHIFT, hospital, scope(1.0, 4, "b", NAMES), Place(0, 7))
    effect = quantity.apply(SHIFT, make_tables(hospital.size), scope(1.0, 4, "b", NAMES))
    assert changed.size == len(effect.tables.patients) == drawn["patients"]
