"""What a round's aggregation costs, next to the time in which its bytes can move.

The exact sum: 100 million parameters from 50 sites, screened and added one after another as the
server does, and the mean at the end. Its limit is what numpy takes, in the same thread, to read
each float32 update once and to read and write the int64 sum once per update. Limit and sum take
turns, so that a busy machine slows both alike; times are process time, medians over the sites.
Beside it: ten updates at a time, without screening; a float64 sum that is not exact, as one would
write it in numpy; memory; a small model; and the robust rules.

    .venv/bin/python benchmarks/aggregation.py [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from reporting import Row, parser, publish

from federation.reduce import Part, WeightedSum, screen
from server import robust

GOAL = 3.0
SITES = 50
PARAMETERS = 100_000_000
ROBUST_PARAMETERS = 1_000_000
SMALL_PARAMETERS, SMALL_SITES = 20_000, 32
GROUP = 10
HOSTILE = 10
PATIENTS = {"model": 137}
Vector = NDArray[np.float32]


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__).parse_args()
    shrink = 10 if options.quick else 1
    rows = _sum(PARAMETERS // shrink, options.quick)
    rows += _memory(PARAMETERS // 100)
    rows += _small()
    rows += _robust(ROBUST_PARAMETERS // shrink)
    publish(rows, options.json)


def _sum(parameters: int, quick: bool) -> list[Row]:
    # More than the cache holds, and fewer than the sites: a machine need not hold fifty.
    updates = [_updates(1, parameters, seed)[0] for seed in range(3)]
    total, plain = _empty(parameters), np.zeros(parameters)
    ways: dict[str, Callable[[int], object]] = {
        "limit": lambda site: (updates[site % 3].max(), np.add(total.values, 1, out=total.values)),
        "exact": lambda site: _take(total, updates[site % 3]),
        "inexact": lambda site: plain.__iadd__(np.multiply(updates[site % 3], 137.0)),
    }
    seconds = _interleaved(ways, range(SITES // (10 if quick else 1)))
    groups = _interleaved(
        {"group": lambda _: total.add_all((updates * GROUP)[:GROUP], [PATIENTS] * GROUP)},
        range(3 if quick else SITES // GROUP),
    )
    mean = _interleaved({"mean": lambda _: total.mean()}, range(3))["mean"]
    limit, whole = seconds["limit"], SITES * seconds["exact"] + mean
    ratio = whole / (SITES * limit)
    return [
        Row(
            "aggregation/sum/ratio",
            ratio,
            GOAL,
            0.0,
            None if quick else ratio <= GOAL,
            f"{parameters // 10**6}M parameters x {SITES} sites: {whole:.3g} s a round, limit "
            f"{SITES * limit:.3g} s",
        ),
        Row(
            f"aggregation/sum/{GROUP}_at_once/ratio",
            groups["group"] / GROUP / limit,
            note=f"{_each(groups['group'] / GROUP, limit)}; unscreened",
        ),
        Row(
            "aggregation/sum/inexact/ratio",
            seconds["inexact"] / limit,
            note=f"{_each(seconds['inexact'], limit)}; total += weight * update in numpy",
        ),
        Row("aggregation/mean/seconds", mean, note="of the sum, once a round"),
    ]


def _take(total: WeightedSum, update: Vector) -> None:
    screen(update, len(update), None)
    total.add(update, PATIENTS)


def _memory(parameters: int) -> list[Row]:
    """Most memory allocated while a round is summed, 50 sites against one."""
    update = _updates(1, parameters, 0)[0]
    peaks = {}
    for sites in (1, SITES):
        tracemalloc.start()
        total = _empty(parameters)
        for _ in range(sites):
            _take(total, update)
        total.mean()
        peaks[sites] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    note = f"{peaks[SITES] / 2**20:.3g} MiB, one site {peaks[1] / 2**20:.3g} MiB"
    return [Row.near("aggregation/memory/ratio", peaks[SITES] / peaks[1], 1.0, 0.01, note)]


def _small() -> list[Row]:
    updates = _updates(SMALL_SITES, SMALL_PARAMETERS, 0)
    total = _empty(SMALL_PARAMETERS)

    def one_by_one(_: int) -> None:
        for update in updates:
            total.add(update, PATIENTS)

    ways = {
        "one_by_one": one_by_one,
        "at_once": lambda _: total.add_all(updates, [PATIENTS] * SMALL_SITES),
    }
    return [
        Row(
            f"aggregation/small/{name}/microseconds",
            1e6 * seconds / SMALL_SITES,
            note=f"an update of {SMALL_PARAMETERS // 1000}k parameters",
        )
        for name, seconds in _interleaved(ways, range(100)).items()
    ]


def _robust(parameters: int) -> list[Row]:
    updates = _updates(SITES, parameters, 0)
    ways: dict[str, Callable[[Vector], object]] = {
        "median": robust.coordinate_median,
        "trimmed_mean": partial(robust.trimmed_mean, fraction=HOSTILE / SITES),
        "krum": partial(robust.krum, hostile=HOSTILE),
        "multi_krum": partial(robust.multi_krum, hostile=HOSTILE, chosen=SITES - HOSTILE - 2),
        "bulyan": partial(robust.bulyan, hostile=HOSTILE),
        "geometric_median": partial(robust.geometric_median, smoothing=1e-6, iterations=100),
        "screening": partial(robust.screened, largest_norm_ratio=3.0, least_cosine=0.0),
    }
    calls = {name: _calling(rule, updates) for name, rule in ways.items()}
    note = f"{parameters:,} parameters x {SITES} sites, {HOSTILE} of them hostile"
    return [
        Row(f"aggregation/robust/{name}/seconds", seconds, note=note)
        for name, seconds in _interleaved(calls, range(3)).items()
    ]


def _calling(rule: Callable[[Vector], object], updates: Vector) -> Callable[[int], object]:
    return lambda _: rule(updates)


def _interleaved(ways: dict[str, Callable[[int], object]], turns: range) -> dict[str, float]:
    """Median seconds of process time of each way, which take turns after one without a clock."""
    for way in ways.values():
        way(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in turns:
        for name, way in ways.items():
            began = time.process_time()
            way(turn)
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _updates(sites: int, parameters: int, seed: int) -> Vector:
    """(sites, parameters) float32, standard normal times 0.01."""
    draws = np.random.default_rng(seed)
    return draws.standard_normal((sites, parameters), dtype=np.float32) * np.float32(0.01)


def _empty(parameters: int) -> WeightedSum:
    return WeightedSum.zeros((Part("model", 0, parameters),))


def _each(ours: float, limit: float) -> str:
    return f"{1e3 * ours:.3g} ms an update, limit {1e3 * limit:.3g} ms"


if __name__ == "__main__":
    main()
