"""Work on files in processes of their own: on all cores, bounded in memory and time.

Image decoders are written in C and are handed whatever a hospital's archive holds. Here one that
crashes, hangs or asks for too much takes down its process, not the site, and the file that did it
is told from those that only stood beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_MEMORY = 4 * 2**30
"""Bytes that a process may take on top of what it starts with."""
MOST_SECONDS = 120
"""For one file."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_MEMORY, LARGEST_KEPT = 2**28, 2**25
"""Bytes that a process keeps for its next image, and of one piece (the most that glibc takes)."""


def all_cores() -> int:
    """Return how many processes this machine has cores for."""
    return len(os.sched_getaffinity(0))


def spread(
    work: Callable[[T], R], items: Sequence[T], workers: int
) -> Iterator[tuple[int, R | None]]:
    """Yield each item's place and what the work on it returned, in the order of completion.

    Args:
        work: a function of a module, or a ``partial`` of one; what it raises is raised here.
        items: the work is done once on each, but again on those that stood beside a crash.
        workers: processes; 0 does everything in this one, and nothing is caught.

    Yields:
        None as a result: the item crashed its process, or took over ``MOST_SECONDS``.
    """
    if workers == 0:
        yield from ((place, work(item)) for place, item in enumerate(items))
        return
    left = list(range(len(items)))
    while left:
        suspects, left = yield from _until_crash(work, items, left, workers)
        for place in suspects:
            guilty, _ = yield from _until_crash(work, items, [place], 1)
            if guilty:
                yield place, None


def _until_crash(
    work: Callable[[T], R], items: Sequence[T], places: Sequence[int], workers: int
) -> Generator[tuple[int, R], None, tuple[list[int], list[int]]]:
    """Work until the end or a crash; return what ran when it came, and what had not begun."""
    waiting = list(reversed(places))
    running: dict[Future[R], int] = {}
    done = set[int]()
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the process that the others are forked from.
    context.set_forkserver_preload(["clients.images.read"])
    most = min(workers, len(places))
    pool = ProcessPoolExecutor(most, context, initializer=partial(_bound, MOST_MEMORY))
    try:
        while waiting or running:
            while waiting and len(running) < 2 * most:
                place = waiting.pop()
                running[pool.submit(_timed, work, items[place])] = place
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                result = future.result()
                place = running.pop(future)
                done.add(place)
                yield place, result
    except BrokenProcessPool:
        return sorted({*places} - {*waiting} - done), waiting[::-1]
    finally:
        pool.shutdown(cancel_futures=True)
    return [], []


def _bound(memory: int) -> None:
    """Bound what this process may take: an allocation beyond it fails, and is a crash at worst."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = taken + memory
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    _keep_memory()


def _keep_memory() -> None:
    """Keep what one image took for the next: each piece anew costs more than decoding it.

    The system hands out memory page by page, 2,400 of them for a picture of 512 x 512, and two
    processes wait for each other there.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


def _timed(work: Callable[[T], R], item: T) -> R:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whose effect is to end the process
    signal.alarm(MOST_SECONDS)
    try:
        return work(item)
    finally:
        signal.alarm(0)
