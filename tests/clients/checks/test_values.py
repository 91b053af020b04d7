"""Units that were mixed up are told, with how many values; long tails and odd codes are not."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.checks.histogram import BINS, bin_of, value_of
from clients.checks.units import MISTAKES
from clients.checks.values import ranged_values, two_clusters, value_findings

RANGES = {
    "LAB//GLUCOSE": (70.0, 140.0),
    "LAB//CREATININE": (0.5, 1.3),
    "LAB//BILIRUBIN": (0.1, 1.2),
    "VITAL//TEMPERATURE": (36.0, 38.0),
    "LAB//2160-0": (0.5, 1.3),
}
WRONG = {
    "LAB//GLUCOSE": lambda v: v / 18.02,
    "LAB//CREATININE": lambda v: v * 88.4,
    "LAB//BILIRUBIN": lambda v: v * 17.1,
    "VITAL//TEMPERATURE": lambda v: v * 1.8 + 32,
    "LAB//2160-0": lambda v: v * 88.4,
}


def usual(code, size, seed=0):
    low, high = RANGES[code]
    spread = 0.01 if code == "VITAL//TEMPERATURE" else 0.15
    return np.random.default_rng(seed).lognormal(np.log((low * high) ** 0.5), spread, size)


def events(code, values):
    return pd.DataFrame({"code": pd.Categorical([code] * len(values)), "numeric_value": values})


@pytest.mark.parametrize("code", RANGES)
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_values_in_another_unit_are_found_with_their_number(code, share):
    values = usual(code, 1000)
    wrong = int(share * 1000)
    values[:wrong] = WRONG[code](values[:wrong])
    (found,) = ranged_values(events(code, values), RANGES)
    assert found.mistake is not None
    assert found.strays == pytest.approx(wrong, rel=0.05)
    right = found.mistake.undo(values[:wrong])
    np.testing.assert_allclose(np.median(right), np.median(usual(code, 1000)), rtol=0.1)
    (told,) = value_findings([found])
    assert told.severity == ("blocker" if share == 1 else "warning")
    assert told.where == code


@pytest.mark.parametrize("code", RANGES)
def test_values_in_the_study_s_unit_are_not_suspected(code):
    (found,) = ranged_values(events(code, usual(code, 1000)), RANGES)
    assert found.mistake is None
    assert list(value_findings([found])) == []


@pytest.mark.parametrize("marker", [-1.0, 9999.0, 0.0])
def test_a_number_that_stands_for_a_missing_value_is_no_other_unit(marker):
    values = usual("LAB//CREATININE", 1000)
    values[:300] = marker
    (found,) = ranged_values(events("LAB//CREATININE", values), RANGES)
    assert (found.mistake, found.placeholder) == (None, 300)
    (told,) = value_findings([found])
    assert (told.severity, told.where) == ("warning", "LAB//CREATININE")
    assert "30% of the values" in told.what


@given(st.integers(0, 50), st.floats(0.8, 1.6))
def test_a_long_tail_is_no_other_unit(seed, spread):
    values = np.random.default_rng(seed).lognormal(2.5, spread, 2000)
    (found,) = ranged_values(events("LAB//CRP", values), {"LAB//CRP": (0.0, 50.0)})
    assert found.mistake is None


def histogram(values):
    return np.bincount(bin_of(values), minlength=BINS)


@pytest.mark.parametrize(("code", "factor"), [("LAB//Glucose", 18.02), ("LAB//CREA", 88.4)])
def test_two_groups_a_factor_apart_are_found_without_a_range(code, factor):
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.lognormal(1.7, 0.15, 300), factor * rng.lognormal(1.7, 0.15, 700)])
    mistake, minor = two_clusters(code, histogram(values))
    assert minor == 300
    assert mistake.factor == factor
    assert two_clusters("LAB//UNHEARD_OF", histogram(values)) is None


def test_two_groups_at_another_distance_or_one_group_are_not_units():
    rng = np.random.default_rng(2)
    one, far = rng.lognormal(1.7, 0.2, 500), 400 * rng.lognormal(1.7, 0.2, 500)
    assert two_clusters("LAB//Glucose", histogram(one)) is None
    assert two_clusters("LAB//Glucose", histogram(np.concatenate([one, far]))) is None


def test_undoing_a_change_of_unit_and_its_reverse_gives_the_value_back():
    values = np.array([0.5, 4.0, 37.0, 250.0])
    for there, back in zip(MISTAKES[::2], MISTAKES[1::2], strict=True):
        np.testing.assert_allclose(back.undo(there.undo(values)), values)


@given(st.lists(st.floats(-1e7, 1e7).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=1))
def test_bins_keep_values_to_two_per_cent_and_their_order(values):
    array = np.array(sorted(values))
    bins = bin_of(array)
    assert (np.diff(bins) >= 0).all()
    np.testing.assert_allclose(value_of(bins), array, rtol=0.012)
