"""Which round's model is measured and kept, and when training ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.selection import Selection


def selection_of(make_study, ema=None, **section):
    strategy = {} if ema is None else {"ema": ema}
    return Selection(make_study(selection=section, strategy=strategy))


def model(round_):
    return np.full(3, round_, np.float32)


scores = st.lists(st.none() | st.sampled_from([0.5, 0.55, 0.6, 0.61, 0.7]), max_size=15)


@given(scores, st.sampled_from(["auroc", "brier"]))
def test_the_best_measured_round_is_kept_the_first_of_equals(make_study, values, metric):
    selection = selection_of(make_study, keep="best", metric=metric)
    for round_, value in enumerate(values, 1):
        metrics = None if value is None else {metric: value}
        selection.see(round_, metrics, model(round_))
    measured = [(value, -r) for r, value in enumerate(values, 1) if value is not None]
    if metric == "brier":
        measured = [(-value, r) for value, r in measured]
    best = -max(measured)[1] if measured else 0
    assert selection.best_round == best
    last = model(len(values))
    assert np.array_equal(selection.chosen(last), model(best) if measured else last)


@given(scores, st.integers(1, 4), st.sampled_from([0.0, 0.02]))
def test_training_ends_when_so_many_measurements_brought_no_more(
    make_study, values, patience, change
):
    selection = selection_of(make_study, patience=patience, minimum_change=change)
    best, since = None, 0
    for round_, value in enumerate(values, 1):
        selection.see(round_, None if value is None else {"auroc": value}, model(round_))
        if value is not None:
            if best is None or value > best + change:
                best, since = value, 0
            else:
                since += 1
        assert bool(selection.ended) == (since >= patience)
    assert np.array_equal(selection.chosen(model(9)), model(9)), 'keep = "last" keeps the last'


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=10), st.floats(0.01, 0.99))
def test_the_average_is_the_weighted_sum_of_all_rounds_models(make_study, values, ema):
    selection = selection_of(make_study, ema=ema)
    for value in values:
        shown = selection.average(np.full(2, value, np.float32))
    n = len(values)
    weights = [(1 - ema) * ema ** (n - 1 - i) for i in range(n)]
    weights[0] = ema ** (n - 1)
    assert sum(weights) == pytest.approx(1)
    assert shown == pytest.approx(np.full(2, np.dot(weights, values)), abs=1e-5)


def test_without_an_average_the_model_itself_is_measured(make_study):
    weights = model(1)
    assert selection_of(make_study).average(weights) is weights


@given(scores, scores)
def test_a_restored_selection_goes_on_alike(make_study, before, after):
    section = {"keep": "best", "patience": 2, "ema": 0.5}
    whole = selection_of(make_study, **section)
    for round_, value in enumerate(before, 1):
        whole.see(round_, {"auroc": value}, whole.average(model(round_)))
    resumed = selection_of(make_study, **section)
    resumed.restore({name: array.copy() for name, array in whole.state().items()})
    for round_, value in enumerate(after, len(before) + 1):
        for one in (whole, resumed):
            one.see(round_, {"auroc": value}, one.average(model(round_)))
    assert (whole.best_round, whole.ended) == (resumed.best_round, resumed.ended)
    assert np.array_equal(whole.chosen(model(99)), resumed.chosen(model(99)))
