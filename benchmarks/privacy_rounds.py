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
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from reporting import Row
from simulation_plain import PlainLoop
from simulation_sites import column_study, write_sites
from simulation_work import BATCH, PATIENTS, Column, Data, plain_module, site_data
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from federation.privacy.accounting import Segment, epsilon
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import RoundsResult, run_rounds
from server.task import Task
from simulations.grids import LocalGrid, SimulatedGrid
from simulations.ray_grid import RayGrid

GOALS = {"ours": 0.35, "ours_ray": 0.1}
"""At most this part of Opacus' time: in process, and as `simulate` runs 100 sites."""
SITES = 100
ROUNDS = 4
"""Of each of our runs: its noise is fixed in the first."""
CAP = 1000.0
"""Of epsilon, so that no timed round is refused."""


def measure(quick: bool) -> list[Row]:
    """Time rounds of ours, of Opacus and of the plain loop in turn."""
    torch.set_num_threads(1)
    repeats = 3 if quick else 11
    with tempfile.TemporaryDirectory() as folder:
        files = write_sites(Path(folder), "mlp", SITES)
        for file in files.values():
            text = file.read_text()
            file.write_text(f"{text}[policy]\nepsilon_per_patient = {CAP}\ndelta = 1e-5\n")
        grid = LocalGrid(files)
        grid.use_ledgers(Path(folder, "ledgers"))
        runs = itertools.count(1)
        study = column_study(Column("mlp", SITES, SITES), ROUNDS)
        private = Study.model_validate(
            {**study.to_dict(), "privacy": {"mechanism": "dp_sgd", "epsilon": 1.0}}
        )
        data = {site: site_data("mlp", site) for site in range(SITES)}
        plain, start = PlainLoop(plain_module("mlp"), data), plain_module("mlp").state_dict()
        workers = min(2, len(os.sched_getaffinity(0)))
        ray = RayGrid(files, workers)
        ray.use_ledgers(Path(folder, "ledgers-ray"))
        rounds: dict[str, Callable[[], Any]] = {
            "plain": lambda: plain.round(data),
            "ours": lambda: _round(grid, private, f"{next(runs):x}"),
            "ours_ray": lambda: _round(ray, private, f"{next(runs):x}"),
            "opacus": lambda: _opacus_round(data, start),
        }
        for run in rounds.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in rounds}
        for _ in range(repeats):
            for name, run in rounds.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
        ray.close()
        grid.close()
        spent = _epsilon_row(files, private)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name in GOALS:
        median[name] /= ROUNDS
    told = ", ".join(f"{name} {value:.3f} s" for name, value in median.items())
    labels = {
        "ours": ("", "in process"),
        "ours_ray": ("/ray", f"{workers} Ray workers, as `simulate` chooses; Opacus on one core"),
    }
    rows = []
    for name, (path, label) in labels.items():
        ratio = median[name] / median["opacus"]
        row = f"privacy/federated_round{path}/ratio_to_opacus_hooks"
        holds = None if quick else ratio <= GOALS[name]
        note = f"100 sites, 4 Poisson steps, {label}: {told}"
        rows.append(Row(row, ratio, GOALS[name], 0.0, holds, note))
    return [
        *rows,
        Row(
            "privacy/federated_round/ratio_to_plain_loop",
            median["ours"] / median["plain"],
            note="the plain loop has no privacy, no messages and no ledgers",
        ),
        spent,
    ]


def _epsilon_row(files: Mapping[str, Path], study: Study) -> Row:
    """Compare what the sites say to have spent, trained in one pass and one after another."""
    found = []
    for together in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            grid = LocalGrid(files, together)
            grid.use_ledgers(Path(folder))
            told = _round(grid, study, "e").spent.values()
            grid.close()
        terms = {
            (s["sampling_rate"], s["noise_multiplier"], s["steps"])
            for one in told
            for s in one["segments"]
        }
        found.append(max(epsilon([Segment(*one)], study.privacy.delta) for one in terms))
    name = "privacy/federated_round/epsilon_in_one_pass"
    return Row.near(name, found[0], found[1], 0.0, "goal: that of sites trained one after another")


def _round(grid: SimulatedGrid, study: Study, run: str) -> RoundsResult:
    assert study.modalities.ehr is not None
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node, members=grid.members)
    result = run_rounds(Task(exchange, study, agreed_vocabulary(study.modalities.ehr), run=run))
    assert not result.lost_quorum, result.lost_quorum
    return result


def _opacus_round(data: Mapping[int, Data], start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Train every site once from the start with Opacus, and return the mean model."""
    from opacus import PrivacyEngine

    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    patients = 0
    for x, y in data.values():
        module = plain_module("mlp")
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
