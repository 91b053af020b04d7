"""Differential privacy: what a private step and round cost, and what epsilon costs the model.

Steps (``privacy_steps.py``) against the non-private step and Opacus' modes, a federated round
(``privacy_rounds.py``), a published benchmark's curve, correctly accounted (``privacy_flamby.py``),
and a synthetic consortium at epsilon 8 (``privacy_synthetic.py``).

    .venv/bin/python benchmarks/privacy.py [--quick] [--json FILE] [--cache DIR]
        [--only steps|rounds|flamby|synthetic]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import privacy_flamby
import privacy_rounds
import privacy_steps
import privacy_synthetic
from flamby_heart import SOURCE
from reporting import Row, parser, publish


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument(
        "--only", choices=("steps", "rounds", "flamby", "synthetic"), help="one part alone"
    )
    options.add_argument("--source", type=Path, default=SOURCE, help="UCI's processed.*.data files")
    options.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the synthetic consortium here between runs"
    )
    arguments = options.parse_args()
    source = arguments.source if arguments.source.is_dir() else None
    parts: dict[str, Callable[[], list[Row]]] = {
        "steps": lambda: privacy_steps.measure(arguments.quick),
        "rounds": lambda: privacy_rounds.measure(arguments.quick),
        "flamby": lambda: privacy_flamby.measure(arguments.quick, source),
        "synthetic": lambda: privacy_synthetic.measure(arguments.quick, arguments.cache),
    }
    wanted = [arguments.only] if arguments.only else list(parts)
    publish([row for name in wanted for row in parts[name]()], arguments.json)


if __name__ == "__main__":
    main()
