"""What a simulated round costs, next to a plain single-process loop over the same sites.

100 sites of 100 patients, an MLP of 20k parameters over 64 values, one local epoch, batch 32,
SGD: the plain loop trains the same module on the same tensors in the same batches, one site after
another on one thread, and averages. Rounds of the three are interleaved, so that a busy machine
slows all of them alike; the figures are medians.

    .venv/bin/python benchmarks/simulation.py [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from reporting import Row, parser, publish
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.workbench import Workbench
from federation.models.build import Vector, build_model
from federation.randomness import torch_generator
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import Task, run_rounds
from simulations.grids import LocalGrid, RayGrid, SimulatedGrid

SITES, PATIENTS, VALUES, WIDTH = 100, 100, 64, 112
BATCH = 32


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__).parse_args()
    repeats = 5 if options.quick else 25
    with tempfile.TemporaryDirectory() as folder:
        files = {f"site-{i:03d}": write_site(Path(folder), i) for i in range(SITES)}
        publish(_measure(files, repeats), options.json)


def _measure(files: dict[str, Path], repeats: int) -> list[Row]:
    study = plain_study()
    workers = min(2, len(os.sched_getaffinity(0)))
    began = time.perf_counter()
    local = LocalGrid(files)
    first_local = timed(lambda: _round(local, study))
    started_local = time.perf_counter() - began
    began = time.perf_counter()
    ray = RayGrid(files, workers)
    first_ray = timed(lambda: _round(ray, study))
    started_ray = time.perf_counter() - began
    plain = PlainLoop(files, study)
    agree = np.abs(_round(local, study) - _round(ray, study)).max()
    away = float(np.abs(_round(local, study) - plain.round()).max())
    assert agree == 0, "the two grids differ"
    assert away < 1e-5, f"the plain loop differs by {away}"
    rounds: dict[str, Callable[[], Any]] = {
        "plain": plain.round,
        "in_process": lambda: _round(local, study),
        "ray": lambda: _round(ray, study),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(repeats):
        for name, run in rounds.items():
            seconds[name].append(timed(run))
    ray.close()
    median = {name: statistics.median(times) for name, times in seconds.items()}
    base = median["plain"]
    rows = [Row("simulation/plain_loop/seconds", base, note="100 sites, one process, one thread")]
    for name, label in (("in_process", "--workers 0"), ("ray", f"{workers} Ray workers")):
        ratio = median[name] / base
        note = f"{label}: {median[name]:.3f} s a round, plain loop {base:.3f} s"
        rows.append(Row(f"simulation/{name}/ratio", ratio, 1.0, 0.0, ratio <= 1.0, note))
    rows += [
        Row(
            "simulation/in_process/first_round_seconds",
            started_local,
            note=f"{first_local:.2f} s of it the round and reading",
        ),
        Row(
            "simulation/ray/first_round_seconds",
            started_ray,
            note=f"Ray's start included; {first_ray:.2f} s of it the round and reading",
        ),
    ]
    return rows


class PlainLoop:
    """The same work as a researcher would write it for one study on one machine."""

    def __init__(self, files: dict[str, Path], study: Study):
        assert study.modalities.ehr is not None
        vocabulary = agreed_vocabulary(study.modalities.ehr)
        bench = Workbench()
        self.study = study
        self.data = {}
        for name, file in sorted(files.items()):
            cohort = bench.cohort(str(file), study, vocabulary)
            rows = torch.from_numpy(cohort.patients.splits["train"])
            self.data[name] = (
                cohort.modalities["ehr"].values[rows],
                cohort.modalities["ehr"].present[rows],
                cohort.labels[rows],
            )
        self.initial = build_model(study, vocabulary).module
        self.module = build_model(study, vocabulary).module

    def round(self) -> Vector:
        """Train every site once from the initial model; return the mean model, flat."""
        start = {name: p.detach() for name, p in self.initial.named_parameters()}
        total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in start.items()}
        patients = 0
        for name, (x, present, y) in self.data.items():
            with torch.no_grad():
                for key, parameter in self.module.named_parameters():
                    parameter.copy_(start[key])
            optimizer = torch.optim.SGD(self.module.parameters(), lr=0.05)
            generator = torch_generator(self.study.study.seed, "training", name, "federated", 1)
            order = torch.randperm(len(x), generator=generator)
            for batch in order.split(BATCH):
                optimizer.zero_grad()
                logits = self.module({"ehr": x[batch]}, {"ehr": present[batch]})
                binary_cross_entropy_with_logits(logits, y[batch]).backward()
                optimizer.step()
            for key, parameter in self.module.named_parameters():
                total[key] += parameter.detach() * len(x)
            patients += len(x)
        flat = torch.cat([(value / patients).reshape(-1) for value in total.values()])
        return flat.float().numpy()


def _round(grid: SimulatedGrid, study: Study) -> Vector:
    assert study.modalities.ehr is not None
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node)
    return run_rounds(Task(exchange, study, agreed_vocabulary(study.modalities.ehr))).weights


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def plain_study() -> Study:
    """Return the study that all timings share: one round, an MLP of 20k parameters."""
    return Study.model_validate(
        {
            "study": {"name": "simulation-benchmark", "seed": 1},
            "task": {"label": "parity"},
            "split": {"fractions": {"train": 1.0, "tuning": 0.0, "held_out": 0.0}},
            "modalities": {
                "ehr": {
                    "encoder": "mlp",
                    "width": WIDTH,
                    "vocabulary": "listed",
                    "age": False,
                    "aggregates": ["last"],
                    "reference_ranges": {f"V//{k:02d}": [-1, 1] for k in range(VALUES)},
                }
            },
            "training": {
                "rounds": 1,
                "batch_size": BATCH,
                "optimizer": {"name": "sgd", "lr": 0.05},
            },
            "evaluation": {"every": 0},
        }
    )


def write_site(folder: Path, index: int) -> Path:
    """Write one hospital of random patients whose label is the sign of a weighted sum."""
    site = folder / f"site-{index:03d}"
    (site / "meds" / "data").mkdir(parents=True)
    x = np.random.default_rng(index).standard_normal((PATIENTS, VALUES)).astype(np.float32)
    subjects = np.repeat(np.arange(PATIENTS) + 1, VALUES)
    moment = np.datetime64("2020-01-01T00:00:00", "us")
    pq.write_table(
        pa.table(
            {
                "subject_id": subjects,
                "time": np.full(len(subjects), moment),
                "code": [f"V//{k:02d}" for k in range(VALUES)] * PATIENTS,
                "numeric_value": x.reshape(-1),
            }
        ),
        site / "meds" / "data" / "0.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "subject_id": np.arange(PATIENTS) + 1,
                "prediction_time": np.full(PATIENTS, moment + np.timedelta64(1, "h")),
                "boolean_value": x @ np.linspace(-1, 1, VALUES) > 0,
            }
        ),
        site / "labels.parquet",
    )
    file = site / "site.toml"
    file.write_text(
        f'[site]\nname = "{site.name}"\ndevice = "cpu"\n[data]\n'
        'events = { format = "meds", path = "meds" }\nlabels = "labels.parquet"\n'
    )
    return file


if __name__ == "__main__":
    main()
