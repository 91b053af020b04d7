"""Strategies: a published table, sites that differ, and sites that are hostile.

    .venv/bin/python benchmarks/strategies.py [--quick] [--json FILE] [--cache DIR]
        [--only flamby|shifts|robustness|tuning]

FLamby's Fed-Heart-Disease by the strategies of its table (``strategies_flamby.py``), every strategy
under three kinds of shift (``strategies_shifts.py``), and two hostile sites of eleven
(``strategies_hostile.py``). ``--only tuning`` finds the learning rates that the second uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import strategies_flamby
import strategies_hostile
import strategies_shifts
from flamby_heart import SEEDS, SOURCE
from reporting import Row, parser, publish


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument(
        "--only", choices=("flamby", "shifts", "robustness", "tuning"), help="one part alone"
    )
    options.add_argument("--source", type=Path, default=SOURCE, help="UCI's processed.*.data files")
    options.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the synthetic sites here between runs"
    )
    arguments = options.parse_args()
    quick, cache, source = arguments.quick, arguments.cache, arguments.source
    if arguments.only == "flamby" and not source.is_dir():
        options.error(f"--source: {source} is not a folder of UCI's processed.*.data")
    seeds = SEEDS[:2] if quick else SEEDS
    parts: dict[str, Callable[[], list[Row]]] = {
        "flamby": lambda: strategies_flamby.measure(source, seeds) if source.is_dir() else [],
        "shifts": lambda: strategies_shifts.measure(quick, cache),
        "robustness": lambda: strategies_hostile.measure(quick, cache),
    }
    if arguments.only == "tuning":
        publish(strategies_shifts.tune(cache), arguments.json)
        return
    wanted = [arguments.only] if arguments.only else list(parts)
    publish([row for name in wanted for row in parts[name]()], arguments.json)


if __name__ == "__main__":
    main()
