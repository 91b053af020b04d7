"""Measurement frequency: fewer measurements, but of everything at least one."""

import pytest

from simulations.shifts import frequency
from simulations.shifts.frequency import Frequency


@pytest.mark.parametrize("seed", range(3))
def test_share_drawn_is_taken_away_and_the_last_before_the_prediction_stays(
    make_tables, scope, seed
):
    tables = make_tables(400)
    effect = frequency.apply(Frequency(kind="frequency"), tables, scope(1.0, seed))
    could_go = 400 * (3 * 3 + 2)  # three codes with three others, CRP with two
    gone = effect.touched["measurements taken away"]
    assert gone == len(tables.events) - len(effect.tables.events)
    assert gone / could_go == pytest.approx(effect.drawn["share"], abs=0.03)
    last = [
        one.past.assign(code=one.past["code"].astype(str)).groupby(["patient", "code"]).last()
        for one in (tables, effect.tables)
    ]
    assert last[0]["numeric_value"].equals(last[1]["numeric_value"])


def test_only_chosen_codes_are_measured_less(make_tables, scope):
    tables = make_tables(50)
    after = frequency.apply(Frequency(kind="frequency", codes=("VITAL//",)), tables, scope()).tables
    counts = [one.events["code"].astype(str).value_counts() for one in (tables, after)]
    fewer = counts[0] - counts[1]
    assert fewer["VITAL//C"] > 0
    assert fewer.drop("VITAL//C").sum() == 0
