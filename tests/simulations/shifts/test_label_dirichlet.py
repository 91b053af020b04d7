"""Class shares from a Dirichlet distribution: its mean, its variance, and who goes."""

import numpy as np
import pytest

from simulations.shifts import label_dirichlet
from simulations.shifts.label_dirichlet import LabelDirichlet


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_shares_have_the_mean_and_variance_of_the_beta_distribution(make_tables, scope, strength):
    tables = make_tables(400)
    shift = LabelDirichlet(kind="label_dirichlet", alpha=3.0)
    drawn = [
        label_dirichlet.apply(shift, tables, scope(strength, seed)).drawn["shares"]["with"]
        for seed in range(400)
    ]
    p, total = 0.5, 2 * 3.0 / strength
    assert np.mean(drawn) == pytest.approx(p, abs=0.04)
    assert np.var(drawn) == pytest.approx(p * (1 - p) / (total + 1), rel=0.25)


@pytest.mark.parametrize("seed", range(6))
def test_patients_of_one_class_leave_until_the_shares_are_those_drawn(make_tables, scope, seed):
    tables = make_tables(1000)
    effect = label_dirichlet.apply(LabelDirichlet(kind="label_dirichlet"), tables, scope(1.0, seed))
    before = np.bincount(tables.patients["label"])
    after = np.bincount(effect.tables.patients["label"], minlength=2)
    assert (before == after).sum() == 1
    assert after[1] / after.sum() == pytest.approx(effect.drawn["shares"]["with"], abs=0.002)


def test_site_of_one_class_is_left_and_reported(make_tables, scope):
    tables = make_tables(50)
    healthy = tables.relabel({"label": np.zeros(50)})
    effect = label_dirichlet.apply(LabelDirichlet(kind="label_dirichlet"), healthy, scope())
    assert effect.tables is healthy
    assert effect.note
