"""Label noise: the rate drawn, in the direction asked."""

import numpy as np
import pytest

from simulations.shifts import label_noise
from simulations.shifts.label_noise import LabelNoise


@pytest.mark.parametrize("seed", range(3))
def test_share_of_wrong_labels_is_the_rate_drawn(make_tables, scope, seed):
    tables = make_tables(2000)
    effect = label_noise.apply(LabelNoise(kind="label_noise"), tables, scope(1.0, seed))
    wrong = (tables.patients["label"] != effect.tables.patients["label"]).sum()
    rate = effect.drawn["rate"]
    assert effect.touched == {"labels changed": wrong}
    assert wrong / 2000 == pytest.approx(rate, abs=3 * np.sqrt(rate * (1 - rate) / 2000))


def test_mean_rate_over_sites_is_the_one_of_the_file(scope, make_tables):
    tables = make_tables(20)
    shift = LabelNoise(kind="label_noise", rate=0.2)
    rates = [label_noise.apply(shift, tables, scope(0.5, s)).drawn["rate"] for s in range(300)]
    assert np.mean(rates) == pytest.approx(0.1, abs=0.012)
    assert max(rates) < 0.2


@pytest.mark.parametrize(("errors", "kept"), [("missed", 0), ("false_alarms", 1)])
def test_one_sided_errors_touch_one_class(make_tables, scope, errors, kept):
    tables = make_tables(500)
    effect = label_noise.apply(LabelNoise(kind="label_noise", errors=errors), tables, scope())
    before, after = tables.patients["label"], effect.tables.patients["label"]
    assert (after[before == kept] == kept).all()
    assert (after[before != kept] == kept).any()
