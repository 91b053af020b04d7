"""What compression of updates costs and saves, and what a model's journey takes in memory.

The heart study of examples/studies on UCI's four hospitals, in simulation, which rounds updates as
deployed sites do: bytes of an update, and the held-out AUROC over seeds. Then copies in memory at
both ends of the journey of a large model (``bandwidth_memory.py``).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bandwidth_memory
import tomli_w
from reporting import Row, parser, publish

from federation.study import load_study
from federation.validation import read_toml
from simulations.runner import simulate

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "../shared/data/uci_heart_disease"
SEEDS = (42, 43, 44, 45, 46)
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "float32": None,
    "fp16": {"kind": "fp16"},
    "bf16": {"kind": "bf16"},
    "int8": {"kind": "int8"},
    "top 10%": {"kind": "top_k", "fraction": 0.1},
    "top 1%": {"kind": "top_k", "fraction": 0.01},
}
LOSS = 0.01
"""Of AUROC, that compression may cost."""
MAY_COST_MORE = ("top 1%",)
"""Kinds that are here to show the price, without a goal."""


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__).parse_args()
    rows = _heart(options.quick) if SOURCE.is_dir() else []
    publish([*rows, *bandwidth_memory.rows(options.quick)], options.json)


def _heart(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "wardround", "dataset", "uci-heart"]
        command += ["--source", str(SOURCE), "--out", str(folder / "sites")]
        subprocess.run(command, check=True, capture_output=True)
        found = {
            kind: [_run(folder, kind, seed) for seed in SEEDS[: 1 if quick else None]]
            for kind in KINDS
        }
    whole = found["float32"]
    rows = []
    for kind, runs in found.items():
        auroc = statistics.mean(auroc for auroc, _ in runs)
        goal = statistics.mean(auroc for auroc, _ in whole)
        share = statistics.mean(received for _, received in runs)
        share /= statistics.mean(received for _, received in whole)
        holds = None if quick or kind in MAY_COST_MORE else auroc >= goal - LOSS
        note = f"{len(runs)} seeds, mean over hospitals"
        rows.append(Row(f"bandwidth/heart/{kind}/auroc", auroc, goal, LOSS, holds, note))
        rows.append(Row(f"bandwidth/heart/{kind}/bytes", share, note="of those without"))
    return rows


def _run(folder: Path, kind: str, seed: int) -> tuple[float, float]:
    """Return the mean of the hospitals' held-out AUROC, and bytes received in a round."""
    document = read_toml(ROOT / "examples/studies/heart-disease.toml")
    document["evaluation"] |= {"every": 0, "baselines": []}
    if KINDS[kind] is not None:
        document["strategy"]["compression"] = dict(KINDS[kind] or {})
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps(document), encoding="utf-8")
    out = folder / f"{kind.replace(' ', '-')}-{seed}"
    simulate(load_study(file, seed=seed), folder / "sites", out, workers=0)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    sites = metrics["models"]["federated"]["sites"].values()
    known = [site["auroc"]["value"] for site in sites if site.get("auroc")]
    lines = (out / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    received = [json.loads(line)["bytes"]["received"] for line in lines]
    aurocs = [value for value in known if value is not None]
    return statistics.mean(aurocs), statistics.mean(received)


if __name__ == "__main__":
    main()
