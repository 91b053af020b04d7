"""What a step of training takes: process time of several kinds in turn, and memory."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

Step = Callable[[], None]


def seconds_of(steps: Mapping[str, Step], repeats: int) -> dict[str, float]:
    """Return the median process time of each kind of step.

    The kinds take turns, so that a busy machine slows all of them alike.
    """
    many = {kind: _for_some_milliseconds(step) for kind, step in steps.items()}
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(repeats):
        for kind, step in steps.items():
            found[kind].append(_process_time(step, many[kind]))
    return {kind: statistics.median(seconds) for kind, seconds in found.items()}


def _for_some_milliseconds(step: Step) -> int:
    """How many steps take about ten milliseconds."""
    step()
    step()
    return max(1, math.ceil(1e-2 / _process_time(step, 2)))


def _process_time(step: Step, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - began) / count


def peak_bytes(step: Step) -> int:
    """Return what the step allocates at most, over what was there before it."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        found.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        peak = max(peak, held)
    return peak
