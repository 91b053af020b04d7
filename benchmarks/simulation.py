"""What a simulated round costs, next to a plain loop, Flower's own engine and pfl-research.

Four columns (``simulation_columns.py``): 100 of 100 sites and 20 of 1,000, an MLP and a CNN, the
same work for every contender (``simulation_work.py``). Then how soon a simulation trains, and what
10,000 sites cost (``simulation_scale.py``), and a private round (``privacy_rounds.py``). The quick
run measures the MLP's first column without pfl-research, and the start.

pfl-research is installed into an environment of its own under the cache.

    .venv/bin/python benchmarks/simulation.py [--quick] [--json FILE] [--cache DIR]
        [--only mlp|cnn|start|scale|private]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import privacy_rounds
import simulation_columns
import simulation_scale
from reporting import Row, parser, publish

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"
QUICK = ("mlp", "start")


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument(
        "--only", choices=("mlp", "cnn", "start", "scale", "private"), help="one part alone"
    )
    options.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="keep the peers' environment here"
    )
    arguments = options.parse_args()
    quick, cache = arguments.quick, arguments.cache
    parts: dict[str, Callable[[], list[Row]]] = {
        "mlp": lambda: simulation_columns.measure("mlp", quick, cache),
        "cnn": lambda: simulation_columns.measure("cnn", quick, cache),
        "start": lambda: simulation_scale.measure_start(quick),
        "scale": lambda: simulation_scale.measure_scale(quick),
        "private": lambda: privacy_rounds.measure(quick),
    }
    wanted = [arguments.only] if arguments.only else QUICK if quick else list(parts)
    publish([row for name in wanted for row in parts[name]()], arguments.json)


if __name__ == "__main__":
    main()
