"""Error feedback: what a rounding leaves follows later, of this model and of nobody else's part."""

import numpy as np
import pytest

from clients.compression import as_it_travels
from clients.memory import Memory
from federation.compression import CompressionSection

TOP = CompressionSection(kind="top_k", fraction=0.1)
INT8 = CompressionSection(kind="int8")
EVERYWHERE = np.ones(50, np.bool_)


def updates(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(0, 1, 50).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("kind", [TOP, INT8], ids=["top_k", "int8"])
def test_sent_and_unsent_together_are_all_updates(kind, tmp_path):
    memory, sent = Memory(tmp_path), np.zeros(50)
    for round_, update in enumerate(updates(30), start=1):
        sent += as_it_travels(update, EVERYWHERE, kind, memory, round_)
    total = np.sum(updates(30), axis=0, dtype=np.float64)
    np.testing.assert_allclose(sent + memory.last()["unsent"], total, atol=1e-4)


def test_top_k_sends_every_number_in_the_end(tmp_path):
    memory, sent = Memory(tmp_path), np.zeros(50)
    for round_ in range(1, 41):
        sent += as_it_travels(np.full(50, 0.01, np.float32), EVERYWHERE, TOP, memory, round_)
    assert (sent > 0).all()


def test_a_round_that_is_repeated_sends_the_same(tmp_path):
    memory = Memory(tmp_path)
    first, second = updates(2)
    as_it_travels(first, EVERYWHERE, TOP, memory, 1)
    once = as_it_travels(second.copy(), EVERYWHERE, TOP, memory, 2)
    again = as_it_travels(second, EVERYWHERE, TOP, memory, 2)
    np.testing.assert_array_equal(once, again)


def test_what_is_owed_of_a_part_waits_while_too_few_patients_move_it(tmp_path):
    memory = Memory(tmp_path)
    some = np.arange(50) < 25
    first = np.ones(50, np.float32)
    as_it_travels(first, EVERYWHERE, TOP, memory, 1)
    owed = memory.last()["unsent"].copy()
    assert (owed[25:] > 0).any()
    update = np.where(some, np.float32(1), np.float32(0))
    sent = as_it_travels(update, some, TOP, memory, 2)
    assert (sent[25:] == 0).all()
    np.testing.assert_array_equal(memory.last()["unsent"][25:], owed[25:])


def test_rounding_to_sixteen_bits_keeps_nothing(tmp_path):
    memory = Memory(tmp_path / "none")
    as_it_travels(updates(1)[0], EVERYWHERE, CompressionSection(kind="bf16"), memory, 1)
    assert not memory.folder.exists()


def test_training_that_diverged_leaves_what_is_owed_alone(tmp_path):
    memory = Memory(tmp_path)
    as_it_travels(updates(1)[0], EVERYWHERE, TOP, memory, 1)
    owed = memory.last()["unsent"]
    sent = as_it_travels(np.full(50, np.nan, np.float32), EVERYWHERE, TOP, memory, 2)
    assert np.isnan(sent).any()
    np.testing.assert_array_equal(memory.last()["unsent"], owed)
