"""Runs one contender in this process, and prints what its rounds took as one line of JSON.

    python benchmarks/simulation_contender.py NAME JOB

NAME is the end of a module's name, ``plain`` for ``simulation_plain``; JOB is a ``Job`` as JSON.
The contender is imported, never run as a script: what it sends to worker processes is then found
there by name, and what they keep from one call to the next stays.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys

import numpy as np
import torch
from simulation_work import Column, Job


def main(name: str, text: str) -> None:
    """Run a contender.

    Prints ``first`` (when the first round ended, by ``time.monotonic()``), ``rounds`` (seconds of
    each round after it), ``weights`` (sum and norm of the last model) and ``peak_mb`` (the most
    that this process has held, without its children).
    """
    torch.set_num_threads(1)
    given = json.loads(text)
    job = Job(**(given | {"column": Column(**given["column"])}))
    weights = importlib.import_module(f"simulation_{name}").run(job)
    if weights is None:
        return  # one of several processes that work together: another one prints
    flat = np.asarray(weights, dtype=np.float64)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {
        "first": job.watch.first,
        "rounds": job.watch.rounds,
        "weights": [float(flat.sum()), float(np.linalg.norm(flat))],
        "peak_mb": peak,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
