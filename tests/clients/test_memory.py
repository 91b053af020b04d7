"""What a site keeps for itself: across restarts and repeats, and what happens to damaged files."""

import logging
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.memory import Memory
from federation.errors import UserError


def arrays(value, size=4):
    return {"own": np.full(size, value, np.float32)}


def kept(found):
    return {name: array.tolist() for name, array in found.items()}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True).map(sorted))
def test_a_round_and_its_repeat_begin_with_what_the_round_before_left(tmp_path_factory, rounds):
    folder = tmp_path_factory.mktemp("memory") / "federated"
    memory, before = Memory(folder), {}
    for round_ in rounds:
        for _ in range(2):  # the message comes twice
            assert kept(memory.before(round_)) == before
            memory.keep(round_, arrays(round_))
            assert kept(Memory(folder).before(round_)) == before, "after a restart"
        before = kept(arrays(round_))
        assert kept(memory.last()) == before
    assert len(list(folder.iterdir())) <= 2


def test_nothing_is_there_before_anything_was_kept(tmp_path):
    memory = Memory(tmp_path / "none")
    assert (memory.before(1), memory.before(99), memory.last()) == ({}, {}, {})
    assert not (tmp_path / "none").exists()


def test_only_the_sites_user_can_read_it(tmp_path):
    memory = Memory(tmp_path / "state" / "personal" / "run" / "federated")
    memory.keep(1, arrays(1))
    (file,) = memory.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"\x08", b"not safetensors" * 9])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, damage):
    memory = Memory(tmp_path)
    memory.keep(3, arrays(1))
    (tmp_path / "000003.safetensors").write_bytes(damage)
    for read in (lambda: memory.before(4), memory.last):
        with pytest.raises(UserError, match="damaged") as told:
            read()
        assert "000003.safetensors" in str(told.value)
        assert "Remove its folder" in str(told.value)


def test_a_round_whose_memory_is_pruned_is_not_repeated_from_nothing(tmp_path):
    memory = Memory(tmp_path)
    for round_ in (1, 2, 3, 4):
        memory.keep(round_, arrays(round_))
    assert kept(memory.before(4)) == kept(arrays(3))
    with pytest.raises(UserError, match="what was kept before it is gone"):
        memory.before(3)
    assert memory.before(1) == {}, "the first round began with nothing"


def test_rounds_that_a_resumed_run_takes_back_are_forgotten(tmp_path):
    """The resumed run may ask other sites: what round 7 left must not follow its round 6."""
    memory = Memory(tmp_path)
    for round_ in (5, 7):
        memory.keep(round_, arrays(round_))
    memory.keep(6, arrays(6.5))
    assert kept(memory.last()) == kept(arrays(6.5))
    assert kept(memory.before(8)) == kept(arrays(6.5))
    assert kept(memory.before(6)) == kept(arrays(5))


def test_what_the_last_round_that_counted_left_is_there_as_long_as_none_counts(tmp_path):
    memory = Memory(tmp_path)
    memory.keep(1, arrays(1), after=0)
    for round_ in (2, 3, 4):
        memory.keep(round_, arrays(round_), after=1)
        assert kept(memory.before(1 + 1)) == kept(arrays(1))
        assert len(list(tmp_path.iterdir())) == 2
    memory.keep(5, arrays(5), after=4)
    assert kept(memory.before(4 + 1)) == kept(arrays(4))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_diverged_is_not_kept_and_the_log_says_so(tmp_path, wrong, caplog):
    """One bad round would make all that follow from it bad."""
    memory = Memory(tmp_path)
    memory.keep(1, arrays(1))
    with caplog.at_level(logging.WARNING, "wardround.site"):
        memory.keep(2, arrays(wrong))
    assert "training diverged in round 2" in caplog.text
    assert kept(memory.before(3)) == kept(arrays(1))
