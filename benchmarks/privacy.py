"""Differential privacy: what a private step and round cost, and what epsilon costs the model.

Steps (``privacy_steps.py``) against the non-private step and Opacus' modes, a federated round
(``privacy_rounds.py``), and the evidence (``privacy_evidence.py``): a published benchmark's curve,
correctly accounted, and a synthetic consortium at epsilon 8.

    .venv/bin/python benchmarks/privacy.py [--quick] [--json FILE] [--only steps|rounds|evidence]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import privacy_evidence
import privacy_rounds
import privacy_steps
from flamby_heart import SOURCE
from reporting import Row, parser, publish


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument("--only", choices=("steps", "rounds", "evidence"), help="one part alone")
    options.add_argument("--source", type=Path, default=SOURCE, help="UCI's processed.*.data files")
    arguments = options.parse_args()
    source = arguments.source if arguments.source.is_dir() else None
    parts: dict[str, Callable[[], list[Row]]] = {
        "steps": lambda: privacy_steps.measure(arguments.quick),
        "rounds": lambda: privacy_rounds.measure(arguments.quick),
        "evidence": lambda: privacy_evidence.measure(arguments.quick, source),
    }
    wanted = [arguments.only] if arguments.only else list(parts)
    publish([row for name in wanted for row in parts[name]()], arguments.json)


if __name__ == "__main__":
    main()
