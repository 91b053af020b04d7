"""What is rounded travels exactly, never grows coarser than promised, and cannot be crafted."""

import math

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import compression
from federation.bodies import TrainBody
from federation.compression import CompressionSection, bytes_of, packed, rounded, unpacked
from federation.messages import TRAIN, Reply
from server.exchange import size

KINDS = [
    CompressionSection(kind="fp16"),
    CompressionSection(kind="bf16"),
    CompressionSection(kind="int8"),
    CompressionSection(kind="top_k", fraction=0.1),
]
numbers = st.lists(
    st.floats(-100, 100, width=32) | st.floats(-(2.0**-100), 2.0**-100, width=32),
    min_size=1,
    max_size=80,
)
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


@by_kind
@given(numbers)
@settings(max_examples=60)
def test_what_was_rounded_once_is_not_rounded_again(kind, values):
    once = rounded(np.array(values, np.float32), kind)
    np.testing.assert_array_equal(rounded(once, kind), once)


@by_kind
def test_a_reply_carries_a_rounded_update_exactly_in_the_bytes_that_are_promised(kind):
    update = np.random.default_rng(1).normal(0, 0.01, 5000).astype(np.float32)
    sent = rounded(update, kind)
    body = TrainBody(loss=0.5, steps=3, patients={"ehr": 40, "fusion": 40})
    records = Reply("ok", body, update=sent, compression=kind).to_records()
    np.testing.assert_array_equal(Reply.from_records(records, TRAIN).update, sent)
    carried = size(RecordDict({"update": records["update"]}))
    assert carried == bytes_of(5000, kind) < 0.51 * update.nbytes


@given(numbers)
def test_sixteen_bits_round_as_torch_does(values):
    update = np.array(values, np.float32)
    for kind, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        expected = torch.from_numpy(update).to(dtype).float().numpy()
        np.testing.assert_array_equal(rounded(update, CompressionSection(kind=kind)), expected)


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 5000])
def test_int8_errs_by_half_a_step_of_its_block_at_most(length, monkeypatch):
    monkeypatch.setattr(compression, "STRETCH", 2048)
    update = np.random.default_rng(length).normal(0, 1, length).astype(np.float32)
    update[: length // 2] *= 1e-6
    found = rounded(update, CompressionSection(kind="int8"))
    for start in range(0, length, 1024):
        block = slice(start, start + 1024)
        step = 2.0 ** math.ceil(math.log2(np.abs(update[block]).max() / 127))
        assert np.abs(found[block] - update[block]).max() <= step / 2


def test_top_k_keeps_the_largest_and_of_equal_ones_the_first():
    kind = CompressionSection(kind="top_k", fraction=0.5)
    update = np.array([1, -3, 1, 0, 1, 2, 0, 0], np.float32)
    assert rounded(update, kind).tolist() == [1, -3, 1, 0, 0, 2, 0, 0]


@by_kind
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_made_finite(kind, value):
    update = np.ones(3000, np.float32)
    update[1500] = value
    assert not np.isfinite(rounded(update, kind)).all()


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"fp16": np.zeros(3, np.float32)},
        {"fp16": np.zeros((2, 2), np.float16)},
        {"bf16": np.zeros(3, np.float16)},
        {"int8": np.zeros(3, np.int8)},
        {"int8": np.zeros(1025, np.int8), "exponents": np.zeros(1, np.int8)},
        {"int8": np.zeros(3, np.int8), "exponents": np.zeros(1, np.uint16)},
        {"other": np.zeros(3, np.float32)},
    ],
    ids=str,
)
def test_other_arrays_are_refused(arrays):
    with pytest.raises(ValueError, match="not an update"):
        unpacked(arrays)


@pytest.mark.parametrize(
    ("places", "told"),
    [([0, 1], 2**40), ([0, 1], -1), ([0, 5], 5), ([1, 0], 5), ([1, 1], 5), ([1, 2, 3], 5)],
)
def test_a_crafted_top_k_is_refused_before_any_memory_is_taken(places, told):
    arrays = {
        "places": np.array(places, np.uint32),
        "values": np.ones(2, np.float32),
        "size": np.array([told], np.int64),
    }
    with pytest.raises(ValueError, match="not an update"):
        unpacked(arrays)


def test_a_fraction_belongs_to_top_k_alone():
    with pytest.raises(ValueError, match="needs a fraction"):
        CompressionSection(kind="top_k")
    with pytest.raises(ValueError, match="takes none"):
        CompressionSection(kind="int8", fraction=0.1)


def test_packing_takes_its_numbers_from_any_layout():
    update = np.arange(4096, dtype=np.float32)[::2] / 1000
    for kind in KINDS:
        assert {a.ndim for a in packed(update, kind).values()} == {1}
