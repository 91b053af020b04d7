"""The realised shift agrees with direct computation from the records."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, wasserstein_distance

from clients.images.read import read_image
from clients.site import load_site
from federation.metrics.intervals import wilson_interval
from simulations.shifts.measure import distances, total_variation
from simulations.shifts.outcomes import YES_OR_NO
from simulations.shifts.pools import pool, pools_of_others
from simulations.shifts.summary import summarise
from simulations.shifts.tables import read_tables

COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 50), min_size=1)


@given(COUNTS, COUNTS)
def test_total_variation_is_the_largest_difference_of_any_event(one, other):
    distance = total_variation(Counter(one), Counter(other))
    sizes = sum(one.values()), sum(other.values())
    gains = (one.get(k, 0) / sizes[0] - other.get(k, 0) / sizes[1] for k in "abcde")
    assert distance == pytest.approx(sum(gain for gain in gains if gain > 0), abs=1e-5)


@pytest.fixture(scope="module")
def tables(consortium):
    sites = [load_site(path.parent) for path in sorted(consortium.glob("*/site.toml"))]
    return [read_tables(site, YES_OR_NO) for site in sites]


@pytest.fixture(scope="module")
def measured(tables):
    summaries = [summarise(one, one.site.images) for one in tables]
    return distances(summaries[0], pool(summaries[1:]))


def numbers(tables, code):
    past = tables.past
    return past[past["code"] == code]


def test_values_are_as_far_apart_as_scipy_says_of_all_of_them(tables, measured):
    for code in ("VITAL//HEART_RATE", "LAB//CRP"):
        here = numbers(tables[0], code)["numeric_value"].to_numpy(float)
        rest = np.concatenate(
            [numbers(t, code)["numeric_value"].to_numpy(float) for t in tables[1:]]
        )
        exact = wasserstein_distance(here, rest) / rest.std()
        assert measured["values_by_code"][code] == pytest.approx(exact, abs=0.02)
    assert measured["values"] == pytest.approx(
        np.mean(list(measured["values_by_code"].values())), abs=1e-4
    )


def test_dependence_is_the_mean_difference_of_correlations(tables, measured):
    gaps = []
    for code in measured["values_by_code"]:
        pairs = []
        for group in (tables[:1], tables[1:]):
            x, y = [], []
            for one in group:
                last = numbers(one, code).drop_duplicates("patient", keep="last")
                x += last["numeric_value"].tolist()
                y += one.patients["label"].to_numpy()[last["patient"]].tolist()
            pairs.append(pearsonr(x, y).statistic)
        gaps.append(abs(pairs[0] - pairs[1]))
    assert measured["dependence"] == pytest.approx(np.mean(gaps), abs=1e-4)


def test_prevalence_has_its_wilson_interval_and_gap(tables, measured):
    labels = [one.patients["label"].to_numpy() for one in tables]
    low, high = wilson_interval(labels[0].mean(), len(labels[0]))
    (outcome,) = measured["outcomes"].values()
    assert (outcome["known"], outcome["positives"]) == (len(labels[0]), labels[0].sum())
    told = outcome["prevalence"]
    assert (told["low"], told["high"]) == pytest.approx((low, high), abs=1e-5)
    gap = abs(labels[0].mean() - np.concatenate(labels[1:]).mean())
    assert measured["prevalence_gap"] == pytest.approx(gap, abs=1e-5)


def test_image_grey_is_as_far_apart_as_scipy_says_of_all_pixels(tables, measured):
    pixels = [
        np.concatenate(
            [read_image(p, (1, 64, 64))[0].ravel() for p in sorted(t.site.images.iterdir())]
        )
        for t in tables
    ]
    exact = wasserstein_distance(pixels[0], np.concatenate(pixels[1:]))
    assert measured["image_intensity"] == pytest.approx(exact, abs=0.005)


def test_site_is_at_no_distance_from_itself(tables):
    summary = summarise(tables[0], tables[0].site.images)
    same = distances(summary, pool([summary]))
    assert same["prevalence_gap"] == same["values"] == same["dependence"] == 0
    assert same["image_intensity"] == same["image_texture"] == 0
    assert set(same["total_variation"].values()) == {0}


def test_what_one_side_lacks_is_null(tables, tmp_path, write_site):
    other = read_tables(load_site(write_site(tmp_path / "other", 30)), YES_OR_NO)
    measured = distances(summarise(tables[0], None), pool([summarise(other, None)]))
    assert measured["image_intensity"] is None
    assert set(measured["values_by_code"]) == {"LAB//CRP"}


def test_pool_of_the_others_is_that_of_each_site_left_out(tables, tmp_path, write_site):
    summaries = [summarise(one, one.site.images) for one in tables]
    lone = read_tables(load_site(write_site(tmp_path / "lone", 30)), YES_OR_NO)
    summaries.append(summarise(lone, None))  # without images, and with few codes
    for place, others in enumerate(pools_of_others(summaries)):
        left = [one for other, one in enumerate(summaries) if other != place]
        site = summaries[place]
        assert distances(site, others) == distances(site, pool(left))
        assert others.outcomes == pool(left).outcomes
