from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from clients.workbench import Workbench
from federation.models.build import build_model
from federation.randomness import torch_generator
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import run_rounds
from server.task import Task
from simulations.grids import LocalGrid

REPOSITORY = Path(__file__).parents[2]

sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # where a benchmark finds its parts
work = importlib.import_module("simulation_work")
plain = importlib.import_module("simulation_plain")
sites = importlib.import_module("simulation_sites")
columns = importlib.import_module("simulation_columns")
scale = importlib.import_module("simulation_scale")
processes = importlib.import_module("simulation_processes")

KINDS = pytest.mark.parametrize("kind", ["mlp", "cnn"])


def vocabulary_of(study: Study):
    ehr = study.modalities.ehr
    return None if ehr is None else agreed_vocabulary(ehr)


@KINDS
def test_peers_train_the_layers_of_our_model(kind):
    study = sites.column_study(work.Column(kind, 2, 2), 1)
    ours = build_model(study, vocabulary_of(study))
    module = work.plain_module(kind)
    assert [p.shape for p in module.parameters()] == [p.shape for p in ours.module.parameters()]
    vector_to_parameters(torch.from_numpy(ours.weights()), module.parameters())
    x, _ = work.site_data(kind, 0)
    name = study.modalities.names[0]
    expected = ours.module({name: x}, {name: torch.ones(len(x), dtype=torch.bool)})
    torch.testing.assert_close(module(x).squeeze(-1), expected, rtol=1e-4, atol=1e-5)


@KINDS
def test_our_sites_hold_what_the_peers_draw_and_two_rounds_give_the_plain_loops_model(
    kind, tmp_path
):
    files = sites.write_sites(tmp_path, kind, 3)
    study = sites.column_study(work.Column(kind, 3, 3), 2)
    vocabulary, bench, data = vocabulary_of(study), Workbench(), {}
    for site, file in enumerate(files.values()):
        cohort = bench.cohort(str(file), study, vocabulary)
        held = next(iter(cohort.modalities.values()))
        assert held.present.all()
        x, y = work.site_data(kind, site)
        torch.testing.assert_close(held.values, x, rtol=0, atol=1e-3)
        assert cohort.labels.equal(y)
        rows = torch.from_numpy(cohort.patients.splits["train"])
        data[site] = (held.values[rows], cohort.labels[rows])
        assert len(rows) == work.PATIENTS

    def shuffled(round_, site):
        generator = torch_generator(
            study.study.seed, "training", f"site-{site:05d}", "federated", round_
        )
        return torch.randperm(work.PATIENTS, generator=generator).split(work.BATCH)

    initial = build_model(study, vocabulary).weights()
    module = work.plain_module(kind)
    vector_to_parameters(torch.from_numpy(initial.copy()), module.parameters())
    loop = plain.PlainLoop(module, data)
    for round_ in (1, 2):
        loop.batches = functools.partial(shuffled, round_)
        loop.round(data)
    grid = LocalGrid(files)
    grid.use_ledgers(tmp_path / "ledgers")
    ours = run_rounds(Task(Exchange(grid, simulated=True), study, vocabulary)).weights
    assert np.abs(ours - initial).max() > 1e-3
    np.testing.assert_allclose(loop.flat(), ours, atol=1e-5)


def test_sites_of_a_round_are_drawn_anew_and_alike_for_every_contender():
    column = work.Column("mlp", 1000, 20)
    rounds = [column.asked(round_) for round_ in range(1, 6)]
    assert all(len(set(asked)) == 20 for asked in rounds)
    assert len({tuple(asked) for asked in rounds}) == 5
    assert rounds == [column.asked(round_) for round_ in range(1, 6)]
    assert work.Column("mlp", 5, 5).asked(1) == [0, 1, 2, 3, 4]


def test_first_round_is_not_among_the_timed_ones():
    watch = work.Stopwatch()
    for _ in range(3):
        watch.round_done()
    assert watch.first is not None
    assert len(watch.rounds) == 2
    first = watch.first
    watch.restart()
    watch.round_done()
    assert (watch.first, len(watch.rounds)) == (first, 1)


@pytest.fixture(scope="module")
def tiny():
    """A job of three rounds and what the plain loop made of it.

    An even number of sites: two processes of pfl-research lose step in their draws at an odd one.
    """
    job = work.Job(work.Column("mlp", 4, 4), rounds=2)
    return job, processes.run_contender("plain", job)


def test_contender_in_its_own_process_reports_its_rounds_and_its_model(tiny):
    job, timing = tiny
    again = dataclasses.replace(job, watch=work.Stopwatch())
    flat = plain.run(again).astype(float)
    assert timing.weights == pytest.approx((flat.sum(), np.linalg.norm(flat)))
    assert len(timing.rounds) == 2
    assert 0 < sum(timing.rounds) < timing.first
    assert timing.peak_mb > 50
    started = parameters_to_vector(work.plain_module("mlp").parameters()).detach().numpy()
    assert np.abs(flat - started).max() > 1e-3


def test_contender_that_fails_says_why():
    with pytest.raises(processes.Unmeasured, match="no_such_contender"):
        processes.run_contender("no_such_contender", work.Job(work.Column("mlp", 3, 3), 1))


@pytest.mark.slow
def test_flowers_engine_trains_the_same_model_as_the_plain_loop(tiny):
    job, expected = tiny
    timing = processes.run_contender("flower", dataclasses.replace(job, workers=1))
    assert timing.weights == pytest.approx(expected.weights, abs=1e-4)
    assert len(timing.rounds) == 2


@pytest.mark.skipif(
    not (REPOSITORY / "build/benchmarks/pfl/ready").exists(),
    reason="benchmarks/simulation.py has not made pfl-research's environment here",
)
def test_pfl_research_trains_the_same_model_as_the_plain_loop(tiny):
    job, expected = tiny
    every = columns.contenders(REPOSITORY / "build/benchmarks")
    for name in ("pfl", "pfl_shared"):
        timing = processes.run_contender("pfl", job, every[name].command)
        assert timing.weights == pytest.approx(expected.weights, abs=1e-4)


def test_column_runs_to_its_rows_and_tells_of_a_peer_that_is_not_there():
    every = columns.contenders(None)
    chosen = {name: every[name] for name in ("plain", "in_process")}
    chosen["pfl"] = columns.Contender("pfl", "pfl-research", command="cannot be installed")
    rows = columns.column_rows(work.Column("mlp", 3, 3), chosen, 1, 1, quick=True)
    found = {row.name: row for row in rows}
    assert found["simulation/mlp_3_of_3/plain/seconds"].measured > 0
    assert found["simulation/mlp_3_of_3/in_process/ratio_to_plain"].measured > 0
    missing = found["simulation/mlp_3_of_3/pfl/ratio_to_plain"]
    assert (missing.measured, missing.holds) == (None, None)
    assert missing.note == "cannot be installed"


def test_goals_are_those_of_the_grid_that_simulate_chooses_and_a_quick_run_judges_none():
    measured = {
        "plain": columns.Measured("plain", 1.0, 4.0),
        "in_process": columns.Measured("ours", 0.3, 4.0),
        "ray": columns.Measured("ours", 0.15, 9.0),
        "flower": columns.Measured("flower", 3.0, 20.0),
        "pfl": columns.Measured("pfl", 0.1, 5.0),
    }
    start = "simulation/mlp_100_of_100"
    rows = {r.name: r for r in columns._rows("mlp_100_of_100", measured, {}, "ray", quick=False)}
    assert rows[f"{start}/in_process/ratio_to_plain"].goal is None
    assert rows[f"{start}/ray/ratio_to_plain"].holds is True
    assert "0.150 s a round, plain 1.000 s" in rows[f"{start}/ray/ratio_to_plain"].note
    faster = rows[f"{start}/times_as_fast_as_flower"]
    assert (faster.measured, faster.goal, faster.holds) == (pytest.approx(20), 15, True)
    assert rows[f"{start}/ratio_to_pfl"].holds is False
    quick = columns._rows("mlp_100_of_100", measured, {}, "ray", quick=True)
    assert {row.holds for row in quick} == {None}


def test_peer_that_trained_another_model_is_not_compared_with():
    def timing(total, norm):
        return [processes.Timing(1.0, (0.1,), (total, norm), 100.0)]

    column = work.Column("mlp", 3, 3)
    alike = {"plain": timing(1.0, 8.0), "flower": timing(1.0001, 8.0), "ray": timing(9.0, 8.0)}
    columns._check_same_work(column, alike)
    with pytest.raises(AssertionError, match="flower trained another model"):
        columns._check_same_work(column, alike | {"flower": timing(1.0, 8.5)})
    with pytest.raises(AssertionError, match="the two grids differ"):
        columns._check_same_work(column, alike | {"in_process": timing(9.0, 8.1)})


def test_memory_of_a_process_counts_its_children():
    held = 100
    code = f"x = bytearray(b'1') * ({held} << 20); print(len(x), flush=True); input()"
    before = processes.tree_mb(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        grown = processes.tree_mb(os.getpid()) - before
        child.communicate(b"\n")
    assert held < grown < held + 60


def test_command_is_timed_to_the_awaited_line_and_its_failure_is_told():
    code = "import sys, time; print('round 1/1', file=sys.stderr, flush=True); time.sleep(1.2)"
    found = processes.run_command([sys.executable, "-c", code], "round 1/")
    assert found.seconds > found.first + 1
    assert found.peak_mb > 1
    with pytest.raises(processes.Unmeasured, match="no such study"):
        processes.run_command([sys.executable, "-c", "raise SystemExit('no such study')"], "x")


def test_simulate_trains_every_written_site_once(tmp_path):
    began = time.monotonic()
    sites.write_sites(tmp_path, "mlp", 4)
    found = scale.simulate(tmp_path, work.Column("mlp", 4, 4), tmp_path / "run", 0)
    assert 0 < found.first < found.seconds < time.monotonic() - began
    line = (tmp_path / "run" / "rounds.jsonl").read_text()
    assert all(f"site-{site:05d}" in line for site in range(4))
