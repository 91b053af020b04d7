"""Files are worked on in other processes: one that crashes is told, and nothing else is lost."""

import os
import resource
import signal
import time

import numpy as np
import pytest

from clients.images import pool
from clients.images.pool import spread


def squared(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number**2


def hungry(number):
    return len(np.ones(10**9)) if number else 0


def slow(seconds):
    time.sleep(seconds)
    return seconds


def faults(number):
    """Pages that the system hands out for work on arrays of two megabytes, after the first time."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            np.ones(2**18).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def failing(number):
    raise ValueError(number)


@pytest.mark.parametrize("workers", [1, 2])
def test_item_that_crashes_its_process_is_told_and_all_others_are_done(workers):
    found = dict(spread(squared, list(range(20)), workers))
    assert found == {i: None if i == 7 else i**2 for i in range(20)}


def test_several_that_crash_are_each_told():
    assert dict(spread(squared, [7, 1, 7, 2], 2)) == {0: None, 1: 1, 2: None, 3: 4}


def test_without_workers_all_is_done_here():
    assert list(spread(lambda x: x + os.getpid(), [0, 1], 0)) == [
        (0, os.getpid()),
        (1, os.getpid() + 1),
    ]


def test_item_that_asks_for_too_much_memory_fails_alone():
    with pytest.raises(MemoryError):
        list(spread(hungry, [0, 1, 0], 1))


def test_memory_of_one_item_is_kept_for_the_next():
    (_, count), *_ = spread(faults, [0], 1)
    assert count < 512  # of 10,240, were each array given back and taken anew


def test_item_that_takes_too_long_is_ended(monkeypatch):
    timed = dict(spread(limited, [0.0, 30.0, 0.1], 2))
    assert timed == {0: 0.0, 1: None, 2: 0.1}


def limited(seconds):
    signal.alarm(1)
    return slow(seconds)


def test_what_the_work_raises_is_raised_here():
    with pytest.raises(ValueError, match="3"):
        list(spread(failing, [3], 1))


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setattr(pool, "_until_crash", None)
    assert list(spread(squared, [], 2)) == []
