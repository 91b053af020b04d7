"""What a federated round under DP-SGD costs, next to Opacus as its tutorial uses it.

100 sites of 100 patients, an MLP of 20k parameters, 4 Poisson steps of 32 patients on average.
Ours is the whole path of a simulation: messages, a line in every site's ledger, noise, the gate,
exact sums. Opacus' is a researcher's loop: for each site a fresh model with the global weights,
``make_private`` with hooks, four steps, and the update added up; no messages, no ledgers. Rounds
are interleaved; the figures are medians.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reporting import Row
from simulation import BATCH, PATIENTS, SITES, PlainLoop, plain_study, timed, write_site
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import Task, run_rounds
from simulations.grids import LocalGrid, RayGrid, SimulatedGrid

GOAL = 0.35
ROUNDS = 4
"""Of each of our runs: its noise is fixed in the first."""
CAP = 1000.0
"""Of epsilon, so that no timed round is refused."""


def measure(quick: bool) -> list[Row]:
    """Time rounds of ours, of Opacus and of the plain loop in turn."""
    torch.set_num_threads(1)
    repeats = 3 if quick else 11
    with tempfile.TemporaryDirectory() as folder:
        files = {f"site-{i:03d}": _site(Path(folder), i) for i in range(SITES)}
        study = plain_study()
        grid = LocalGrid(files)
        grid.use_ledgers(Path(folder, "ledgers"))
        runs = itertools.count(1)
        private = Study.model_validate(
            {
                **study.to_dict(),
                "privacy": {"mechanism": "dp_sgd", "epsilon": 1.0},
                "training": {**study.to_dict()["training"], "rounds": ROUNDS},
            }
        )
        plain, start = PlainLoop(files, study), _module().state_dict()
        workers = min(2, len(os.sched_getaffinity(0)))
        ray = RayGrid(files, workers)
        ray.use_ledgers(Path(folder, "ledgers-ray"))
        rounds: dict[str, Callable[[], Any]] = {
            "plain": plain.round,
            "ours": lambda: _round(grid, private, f"{next(runs):x}"),
            "ours_ray": lambda: _round(ray, private, f"{next(runs):x}"),
            "opacus": lambda: _opacus_round(plain, start),
        }
        for run in rounds.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in rounds}
        for _ in range(repeats):
            for name, run in rounds.items():
                seconds[name].append(timed(run))
        ray.close()
    median = {name: statistics.median(times) for name, times in seconds.items()}
    median["ours"] /= ROUNDS
    median["ours_ray"] /= ROUNDS
    ratio = median["ours"] / median["opacus"]
    told = ", ".join(f"{name} {value:.3f} s" for name, value in median.items())
    return [
        Row(
            "privacy/federated_round/ratio_to_opacus_hooks",
            ratio,
            GOAL,
            0.0,
            None if quick else ratio <= GOAL,
            f"100 sites, 4 Poisson steps: {told}",
        ),
        Row(
            "privacy/federated_round/ray/ratio_to_opacus_hooks",
            median["ours_ray"] / median["opacus"],
            note=f"{workers} Ray workers, as `simulate` chooses for 100 sites; Opacus on one core",
        ),
        Row(
            "privacy/federated_round/ratio_to_plain_loop",
            median["ours"] / median["plain"],
            note="the plain loop has no privacy, no messages and no ledgers",
        ),
    ]


def _site(folder: Path, index: int) -> Path:
    file = write_site(folder, index)
    file.write_text(f"{file.read_text()}[policy]\nepsilon_per_patient = {CAP}\ndelta = 1e-5\n")
    return file


def _round(grid: SimulatedGrid, study: Study, run: str) -> None:
    assert study.modalities.ehr is not None
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node)
    result = run_rounds(Task(exchange, study, agreed_vocabulary(study.modalities.ehr), run=run))
    assert not result.lost_quorum, result.lost_quorum


def _opacus_round(plain: PlainLoop, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Train every site once from the start with Opacus, and return the mean model."""
    from opacus import PrivacyEngine

    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    patients = 0
    for x, _, y in plain.data.values():
        module = _module()
        module.load_state_dict(start)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made, optimizer, loader = PrivacyEngine(accountant="rdp").make_private(
                module=module,
                optimizer=optimizer,
                data_loader=DataLoader(TensorDataset(x, y), batch_size=BATCH),
                noise_multiplier=2.0,
                max_grad_norm=1.0,
            )
            for values, labels in itertools.islice(itertools.cycle(loader), -(-PATIENTS // BATCH)):
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(made(values).squeeze(-1), labels).backward()
                optimizer.step()
        for name, value in module.state_dict().items():
            total[name] += value * len(x)
        patients += len(x)
    return {name: value / patients for name, value in total.items()}


def _module() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 112), nn.ReLU(), nn.Linear(112, 112), nn.ReLU(), nn.Linear(112, 1)
    )
