"""Sums of updates: exact whatever the order, weighed by part, and proof against bad updates."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.messages import Reply
from federation.reduce import (
    BLOCK,
    LARGEST_CHANGE,
    LARGEST_TOTAL_WEIGHT,
    SCALE_BITS,
    Part,
    UpdateRejected,
    WeightedSum,
    clipped,
    screen,
)
from federation.strategies.averaging import FedAvg

SIZE = 6
PARTS = (Part("ehr", 0, 2), Part("image", 2, 4), Part("ehr", 4, 5), Part("fusion", 5, 6))
INDEX = {"ehr": [0, 1, 4], "image": [2, 3], "fusion": [5]}

changes = st.one_of(
    st.floats(-LARGEST_CHANGE, LARGEST_CHANGE, width=32),
    # halves of the fixed point's step, which are rounded to even
    st.integers(-(2**23), 2**23).map(lambda halves: halves * 2.0 ** -(SCALE_BITS + 1)),
)
weights = st.fixed_dictionaries({name: st.integers(0, 10_000) for name in INDEX})
sites = st.lists(
    st.tuples(arrays(np.float32, SIZE, elements=changes), weights), min_size=1, max_size=8
)


def total_of(members):
    total = WeightedSum.zeros(PARTS)
    for update, weight in members:
        total.add(update, weight)
    return total


@given(sites, st.randoms(use_true_random=False), st.integers(1, 4))
def test_sum_depends_on_neither_order_nor_grouping(members, random, groups):
    expected = total_of(members)
    shuffled = list(members)
    random.shuffle(shuffled)
    merged = WeightedSum.zeros(PARTS)
    for group in range(groups):
        merged.merge(total_of(shuffled[group::groups]))
    assert merged.values.tobytes() == expected.values.tobytes()
    assert merged.mean().tobytes() == expected.mean().tobytes()
    assert (merged.weights, merged.members) == (expected.weights, expected.members)


def plain_sum(parts, members):
    """The formula, spelled out: round(change x 2^32) x weight, summed."""
    values = np.zeros(parts[-1].stop, np.int64)
    for update, weight in members:
        fixed = np.rint(np.ldexp(update.astype(np.float64), SCALE_BITS)).astype(np.int64)
        for part in parts:
            values[part.start : part.stop] += fixed[part.start : part.stop] * weight[part.name]
    return values


@given(sites)
def test_sum_and_mean_are_the_plain_formula_to_the_last_bit(members):
    total, values = total_of(members), plain_sum(PARTS, members)
    assert total.values.tobytes() == values.tobytes()
    assert total.total().tobytes() == np.ldexp(values.astype(np.float64), -SCALE_BITS).tobytes()
    mean = np.zeros(SIZE)
    for name, places in INDEX.items():
        if weight := sum(w[name] for _, w in members):
            mean[places] = np.ldexp(values[places].astype(np.float64), -SCALE_BITS) / weight
    assert total.mean().tobytes() == mean.tobytes()


@given(sites, st.integers(0, 8))
def test_several_at_once_are_the_same_as_one_after_another(members, first):
    expected, total = total_of(members), WeightedSum.zeros(PARTS)
    for group in (members[:first], members[first:]):
        total.add_all([update for update, _ in group], [weight for _, weight in group])
    assert total.values.tobytes() == expected.values.tobytes()
    assert (total.weights, total.members) == (expected.weights, expected.members)


def large_round(sites):
    """Updates of a model that is longer than two blocks, in three parts."""
    size = 2 * BLOCK + 12_345
    parts = (Part("ehr", 0, 1000), Part("image", 1000, size - 7), Part("fusion", size - 7, size))
    draws = np.random.default_rng(0)
    updates = draws.uniform(-LARGEST_CHANGE, LARGEST_CHANGE, (sites, size)).astype(np.float32)
    weights = [{name: int(draws.integers(0, 9_000)) for name in INDEX} for _ in range(sites)]
    return parts, updates, weights


def test_model_of_several_blocks_is_summed_as_the_plain_formula():
    parts, updates, weights = large_round(3)
    total = WeightedSum.zeros(parts)
    total.add_all(updates, weights)
    values = plain_sum(parts, list(zip(updates, weights, strict=True)))
    assert np.array_equal(total.values, values)
    for part in parts:
        weight = sum(one[part.name] for one in weights)
        expected = np.ldexp(values.astype(np.float64), -SCALE_BITS) / weight
        stretch = slice(part.start, part.stop)
        assert np.array_equal(total.mean()[stretch], expected[stretch])


@pytest.mark.parametrize("sites", [1, 12])
def test_memory_does_not_grow_with_the_number_of_sites(sites):
    parts, updates, weights = large_round(sites)
    total = WeightedSum.zeros(parts)
    tracemalloc.start()
    try:
        total.add_all(updates, weights)
        for update, weight in zip(updates, weights, strict=True):
            total.add(update, weight)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * BLOCK + 50_000


@given(sites)
def test_mean_equals_the_float64_weighted_mean_of_each_part(members):
    found = total_of(members).mean()
    for name, places in INDEX.items():
        weight = np.array([w[name] for _, w in members], np.float64)
        values = np.array([u[places] for u, _ in members], np.float64)
        expected = weight @ values / weight.sum() if weight.sum() else np.zeros(len(places))
        # half a step of the fixed point, and the rounding of the result to float32
        bound = 2.0**-33 + np.abs(expected) * 2.0**-24 + 1e-13
        assert (np.abs(found[places] - expected) <= bound).all()


def test_a_site_without_images_does_not_move_the_image_part():
    with_images = np.full(SIZE, 1.0, np.float32)
    without = np.full(SIZE, -3.0, np.float32)
    total = total_of(
        [
            (with_images, {"ehr": 10, "image": 10, "fusion": 10}),
            (without, {"ehr": 30, "image": 0, "fusion": 30}),
        ]
    )
    mean = total.mean()
    assert mean[INDEX["image"]].tolist() == [1.0, 1.0]
    assert mean[INDEX["ehr"]].tolist() == [-2.0, -2.0, -2.0]


def test_a_part_that_nobody_has_stays_where_it_is():
    total = total_of([(np.ones(SIZE, np.float32), {"ehr": 1, "image": 0, "fusion": 1})])
    assert total.mean().tolist() == [1, 1, 0, 0, 1, 1]


def test_the_extreme_corner_does_not_overflow():
    update = np.full(SIZE, LARGEST_CHANGE, np.float32)
    screen(update, SIZE, None)
    total = WeightedSum.zeros(PARTS)
    half = LARGEST_TOTAL_WEIGHT // 2
    for _ in range(2):
        total.add(update, dict.fromkeys(INDEX, half))
    assert total.values.tolist() == [2**62] * SIZE
    assert total.mean().tolist() == [LARGEST_CHANGE] * SIZE
    with pytest.raises(UpdateRejected, match="weight out of range"):
        total.add(update, dict.fromkeys(INDEX, 1))
    assert total.values.tolist() == [2**62] * SIZE


@pytest.mark.parametrize("weight", [-1, LARGEST_TOTAL_WEIGHT + 1, 2**70])
def test_weight_out_of_range_leaves_the_total_untouched(weight):
    total = total_of([(np.ones(SIZE, np.float32), dict.fromkeys(INDEX, 2))])
    before = (total.values.tobytes(), dict(total.weights), total.members)
    with pytest.raises(UpdateRejected, match="weight out of range"):
        # the last part's weight is the wrong one: the first parts must not have been added
        total.add(np.ones(SIZE, np.float32), {"ehr": 1, "image": 1, "fusion": weight})
    assert (total.values.tobytes(), total.weights, total.members) == before


def test_weights_that_are_too_large_together_add_none_of_the_group():
    total = total_of([(np.ones(SIZE, np.float32), dict.fromkeys(INDEX, 2))])
    before = (total.values.tobytes(), dict(total.weights), total.members)
    half = dict.fromkeys(INDEX, LARGEST_TOTAL_WEIGHT // 2)
    with pytest.raises(UpdateRejected, match="weight out of range"):
        total.add_all([np.ones(SIZE, np.float32)] * 2, [half, half])
    assert (total.values.tobytes(), total.weights, total.members) == before


def test_missing_weight_is_refused():
    total = WeightedSum.zeros(PARTS)
    with pytest.raises(UpdateRejected, match="a weight is missing"):
        total.add(np.ones(SIZE, np.float32), {"ehr": 1})
    assert not total.values.any()


def test_partial_sum_of_another_model_is_refused():
    total = WeightedSum.zeros(PARTS)
    with pytest.raises(UpdateRejected, match="another model"):
        total.merge(WeightedSum.zeros((Part("ehr", 0, SIZE),)))


def spoiled(value):
    update = np.zeros(SIZE, np.float32)
    update[3] = value
    return update


BAD = {
    "nan": (spoiled(np.nan), "not finite"),
    "inf": (spoiled(-np.inf), "not finite"),
    "too large": (spoiled(np.nextafter(np.float32(LARGEST_CHANGE), np.float32(1e9))), "range"),
    "short": (np.zeros(SIZE - 1, np.float32), "wrong shape"),
    "empty": (np.zeros(0, np.float32), "wrong shape"),
    "two dimensions": (np.zeros((1, SIZE), np.float32), "wrong shape"),
    "double": (np.zeros(SIZE), "not float32"),
    "integers": (np.zeros(SIZE, np.int32), "not float32"),
    "objects": (np.array([None] * SIZE), "not float32"),
    "long": (np.full(SIZE, 2.0, np.float32), "norm above the study's limit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_update_is_refused_with_a_reason_and_adds_nothing(kind):
    update, reason = BAD[kind]
    updates = UpdateSum(PARTS, FedAvg(maximum_update_norm=4.0))
    good = TrainBody(loss=0.5, steps=1, patients=dict.fromkeys(INDEX, 20))
    assert updates.take(Reply("ok", good, update=np.ones(SIZE, np.float32)), "ash") == ""
    before = updates.total.values.tobytes()
    assert reason in updates.take(Reply("ok", good, update=update), "ash")
    assert updates.total.values.tobytes() == before
    assert updates.total.members == 1


def test_norm_limit_is_the_euclidean_one():
    update = np.full(SIZE, 2.0, np.float32)
    screen(update, SIZE, np.sqrt(24.0))
    with pytest.raises(UpdateRejected):
        screen(update, SIZE, np.sqrt(24.0) * 0.999999)


@pytest.mark.parametrize("spoil", [np.nan, np.inf, -2 * LARGEST_CHANGE])
def test_a_bad_value_is_found_wherever_it_stands(spoil):
    update = np.zeros(2 * BLOCK + 3, np.float32)
    for place in (0, BLOCK - 1, BLOCK, len(update) - 1):
        update[place] = spoil
        with pytest.raises(UpdateRejected):
            screen(update, len(update), None)
        update[place] = 0.0
    screen(update, len(update), None)


def test_norm_of_a_model_of_several_blocks_is_numpys():
    update = np.random.default_rng(0).standard_normal(2 * BLOCK + 3).astype(np.float32)
    norm = np.linalg.norm(update.astype(np.float64))
    screen(update, len(update), norm * (1 + 1e-12))
    with pytest.raises(UpdateRejected, match="norm above"):
        screen(update, len(update), norm * (1 - 1e-12))
    short, within = clipped(update, norm / 2)
    assert not within
    assert np.allclose(short, update / 2, rtol=1e-5)
    assert np.linalg.norm(short.astype(np.float64)) <= norm / 2


def test_uniform_weighting_counts_sites_not_patients():
    updates = UpdateSum(PARTS, FedAvg(weighting="uniform"))
    for value, patients in ((1.0, 1000), (3.0, 10)):
        body = TrainBody(loss=0, steps=1, patients={"ehr": patients, "image": 0, "fusion": 1})
        updates.take(Reply("ok", body, update=np.full(SIZE, value, np.float32)), "ash")
    assert updates.total.mean().tolist() == [2, 2, 0, 0, 2, 2]


def test_an_update_that_its_host_refused_is_not_taken():
    updates = UpdateSum(PARTS, FedAvg())
    body = TrainBody(loss=0, steps=1, patients=dict.fromkeys(INDEX, 20))
    assert updates.take(Reply("ok", body, rejected="not finite"), "ash") == "not finite"
    assert updates.total.members == 0
