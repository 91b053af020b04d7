"""Every strategy on synthetic sites that differ, by one kind of shift at a time.

Eight hospitals of 500 patients on average; seven train, with plain SGD and batches of 16, and one,
another with each seed, only tests. Three seeds, each with patients, shifts and initial weights of
its own; every strategy meets the same. Two fifths of the patients train and half are held out: the
worst of seven sites is the lowest of seven noisy figures, and with fewer patients it would measure
chance.

Without a shift, and under shifts of prevalence and of concept, models are of the records alone (ten
rounds of two passes), which train a hundred times as fast as those of films. Under a shift of
scanners they are of films alone, of 32 pixels (six rounds of one pass), so that nothing hides what
the scanner does. FedBN keeps normalisation layers, which the encoder of records has not, so it is
in that column alone.

``fine_tuned`` and ``calibrated`` are FedAvg's model after three passes, and after Platt scaling, at
each site. ``local`` is each site alone; it has nothing to offer to a site that did not train.

Tuning: each strategy has the learning rate of the sites that gave the best mean AUROC on a
consortium and study of another seed, records under prevalence and concept together, films under
scanners, out of 0.1, 0.3 and 1 for records and 0.03 and 0.1 for films (``TUNED``, found by ``--only
tuning``; with films, FedAvg was worse at 0.3, and no better than chance at 1). Its own options are
the defaults.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from reporting import Row
from strategies_sites import (
    Bench,
    Scored,
    Size,
    consortia,
    draw_sites,
    pool,
    shift_sites,
    spread,
    study_of,
)

from federation.errors import WardroundError
from federation.study import Study

SEEDS, TUNING_SEED = (11, 12, 13), 99
FINE_TUNED, CALIBRATED, LOCAL = "fine_tuned", "calibrated", "local"
RECORDS, FILMS = Size(8, 500, 10, 2, SEEDS), Size(8, 500, 6, 1, SEEDS)
QUICK_RECORDS, QUICK_FILMS = Size(5, 120, 3, 1, SEEDS[:1]), Size(5, 120, 2, 1, SEEDS[:1])


@dataclass(frozen=True)
class Trial:
    """One column of the table.

    Attributes:
        kinds: of the shifts between the sites.
        modality: of which the model is.
        size: how much is trained.
        quick: the same in a quick run.
        rates: the learning rates to choose from.
    """

    kinds: tuple[str, ...]
    modality: Literal["ehr", "image"] = "ehr"
    size: Size = RECORDS
    quick: Size = QUICK_RECORDS
    rates: tuple[float, ...] = (0.1, 0.3, 1.0)

    @property
    def strategies(self) -> list[str]:
        """The strategies that can train such a model, and each site alone."""
        named = [*STRATEGIES, LOCAL]
        return [name for name in named if self.modality == "image" or name != "fedbn"]


TRIALS: Mapping[str, Trial] = {
    "none": Trial(()),
    "prevalence": Trial(("prevalence",)),
    "concept": Trial(("concept",)),
    "scanner": Trial(("scanner",), "image", FILMS, QUICK_FILMS, (0.03, 0.1)),
}
TUNING: Mapping[str, Trial] = {
    "ehr": Trial(("prevalence", "concept")),
    "image": TRIALS["scanner"],
}

STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "fedavg_uniform": {"name": "fedavg", "weighting": "uniform"},
    "fedavg_inverse_variance": {"name": "fedavg", "weighting": "inverse_variance"},
    "fedavgm": {"name": "fedavgm"},
    "fedprox": {"name": "fedprox"},
    "fedadam": {"name": "fedadam"},
    "fedyogi": {"name": "fedyogi"},
    "fedadagrad": {"name": "fedadagrad"},
    "fednova": {"name": "fednova"},
    "scaffold": {"name": "scaffold"},
    "feddyn": {"name": "feddyn"},
    "qfedavg": {"name": "qfedavg"},
    "afl": {"name": "afl"},
    "fedbn": {"name": "fedbn"},
    "fedper": {"name": "fedper"},
    "fedrep": {"name": "fedrep"},
    "ditto": {"name": "ditto"},
    "apfl": {"name": "apfl"},
}
ON_FEDAVG: Mapping[str, Mapping[str, Any]] = {
    FINE_TUNED: {"fine_tune_epochs": 3},
    CALIBRATED: {"calibration": "platt"},
}
PERSONAL = ("fedper", "fedrep", "ditto", "apfl", FINE_TUNED)
TUNED: Mapping[str, Mapping[str, float]] = {
    "ehr": dict.fromkeys(STRATEGIES, 0.3)
    | {
        "fedavg_uniform": 1.0,
        "fedavgm": 0.1,
        "fedadagrad": 1.0,
        "feddyn": 1.0,
        "afl": 0.1,
        LOCAL: 0.1,
    },
    "image": dict.fromkeys(STRATEGIES, 0.1) | {"feddyn": 0.03, LOCAL: 0.03},
}
"""By modality and strategy."""

Results = Mapping[str, Scored]
"""By strategy."""

FIGURES: Mapping[str, Callable[[Scored], float | None]] = {
    "mean_site_auroc": lambda found: found.mean,
    "worst_site_auroc": lambda found: found.worst,
    "left_out_auroc": lambda found: found.left_out,
    "mean_site_brier": lambda found: found.brier,
}


def measure(quick: bool, cache: Path | None = None) -> list[Row]:
    """Train every strategy under every shift with every seed.

    Args:
        quick: smaller sites, few rounds and one seed; nothing then holds.
        cache: folder in which the consortia are kept from run to run.
    """
    seeds = SEEDS[:1] if quick else SEEDS
    with consortia(cache) as folder, pool() as workers:
        list(workers.map(_drawn, [folder] * len(seeds), seeds, [quick] * len(seeds)))
        # The films take longest, so they go first.
        jobs = [(name, seed) for name in reversed(list(TRIALS)) for seed in seeds]
        names, by_seed = zip(*jobs, strict=True)
        found = list(
            workers.map(compared, [folder] * len(jobs), names, by_seed, [quick] * len(jobs))
        )
    of_job = dict(zip(jobs, found, strict=True))
    results = {name: [of_job[name, seed] for seed in seeds] for name in TRIALS}
    return [*_table(results), *_claims(results, quick)]


def tune(cache: Path | None = None) -> list[Row]:
    """Find each strategy's learning rate, on a consortium and study of another seed."""
    with consortia(cache) as folder, pool() as workers:
        plain = RECORDS.place(folder, TUNING_SEED, "none")
        if not plain.exists():
            draw_sites(plain, RECORDS.sites, RECORDS.patients, TUNING_SEED)
        for trial in TUNING.values():
            sites = trial.size.place(folder, TUNING_SEED, "-".join(trial.kinds))
            if not sites.exists():
                shift_sites(plain, sites, trial.kinds, TUNING_SEED, 1.0)
        jobs = [(modality, rate) for modality, trial in TUNING.items() for rate in trial.rates]
        modalities, rates = zip(*jobs, strict=True)
        means = workers.map(_at_rate, [folder] * len(jobs), modalities, rates)
        found = dict(zip(jobs, means, strict=True))
    rows = []
    for modality, trial in TUNING.items():
        for name in trial.strategies:
            of = {rate: found[modality, rate].get(name, 0.0) for rate in trial.rates}
            told = ", ".join(f"{mean:.3f} at {rate}" for rate, mean in of.items())
            best = max(of, key=of.__getitem__)
            rows.append(Row(f"strategies/tuning/{modality}/{name}/learning_rate", best, note=told))
    return rows


def compared(folder: Path, name: str, seed: int, quick: bool) -> dict[str, Scored]:
    """Train every strategy on all sites but one, and test all.

    Args:
        folder: with the consortia.
        name: of the trial.
        seed: of consortium and study; it chooses the site that is left out.
        quick: the quick run's size.
    """
    torch.set_num_threads(1)
    trial = TRIALS[name]
    size = trial.quick if quick else trial.size
    found: dict[str, Scored] = {}
    with Bench.of(size.place(folder, seed, name)) as bench:
        for strategy in trial.strategies:
            study = _study(seed, size, trial.modality, strategy, TUNED[trial.modality][strategy])
            found |= _scored(bench, study, strategy)
            print(f"{name} {seed} {strategy}: {found[strategy].mean:.3f}", file=sys.stderr)
    return found


def _scored(bench: Bench, study: Study, name: str) -> dict[str, Scored]:
    """Train one strategy; of FedAvg, return what is made of its model too."""
    names = sorted(bench.grid.members)
    task = bench.task(study, left_out=names[study.study.seed % len(names)])
    if name == LOCAL:
        return {name: bench.alone(task)}
    weights = bench.trained(task)
    found = {name: bench.scored(task, weights)}
    for after, section in ON_FEDAVG.items() if name == "fedavg" else ():
        changed = Study.model_validate(study.to_dict() | {"personalisation": section})
        found[after] = bench.scored(replace(task, study=changed), weights)
    return found


def _study(seed: int, size: Size, modality: str, name: str, rate: float) -> Study:
    return study_of(
        seed,
        (modality,),
        training={
            "rounds": size.rounds,
            "local_epochs": size.epochs,
            "batch_size": 16,
            "optimizer": {"name": "sgd", "lr": rate},
        },
        strategy={"minimum_sites": 2, **STRATEGIES.get(name, {"name": "fedavg"})},
    )


def _at_rate(folder: Path, modality: str, rate: float) -> dict[str, float]:
    """Return the mean AUROC of each strategy that does not diverge at this rate."""
    torch.set_num_threads(1)
    trial = TUNING[modality]
    means: dict[str, float] = {}
    with Bench.of(trial.size.place(folder, TUNING_SEED, "-".join(trial.kinds))) as bench:
        for name in trial.strategies:
            study = _study(TUNING_SEED, trial.size, modality, name, rate)
            try:
                means[name] = _scored(bench, study, name)[name].mean
            except WardroundError as error:
                print(f"{modality} {name} at {rate}: {error}", file=sys.stderr)
                continue
            print(f"{modality} {name} at {rate}: {means[name]:.3f}", file=sys.stderr)
    return means


def _drawn(folder: Path, seed: int, quick: bool) -> None:
    """Write the consortium of a seed, plain and under each shift."""
    for name, trial in TRIALS.items():  # the first one has no shift
        size = trial.quick if quick else trial.size
        plain, sites = size.place(folder, seed, "none"), size.place(folder, seed, name)
        if sites.exists():
            continue
        if trial.kinds:
            shift_sites(plain, sites, trial.kinds, seed, 1.0)
        else:
            draw_sites(sites, size.sites, size.patients, seed)


def _table(results: Mapping[str, Sequence[Results]]) -> list[Row]:
    """Every figure, with its interval over seeds, and that of what it has over FedAvg's."""
    rows = []
    for shift, runs in results.items():
        for name in runs[0]:
            for figure, read in FIGURES.items():
                values = [found for run in runs if (found := read(run[name])) is not None]
                if not values:
                    continue
                over = gains(runs, name, figure)
                told = f"; over FedAvg {statistics.mean(over):+.3f} ({spread(over)})"
                note = spread(values) + ("" if name == "fedavg" else told)
                without = sum(run[name].without for run in runs)
                note += f"; {without} sites have no AUROC" if without else ""
                place = f"strategies/shifts/{shift}/{name}/{figure}"
                rows.append(Row(place, statistics.mean(values), note=note))
    return rows


def gains(runs: Sequence[Results], name: str, figure: str) -> list[float]:
    """Return what a strategy has over FedAvg, on the same seeds."""
    read = FIGURES[figure]
    pairs = [(read(run[name]), read(run["fedavg"])) for run in runs]
    return [own - others for own, others in pairs if own is not None and others is not None]


def _claims(results: Mapping[str, Sequence[Results]], quick: bool) -> list[Row]:
    """What must hold."""
    worst = "worst_site_auroc"
    own = [gains(results["concept"], name, worst) for name in PERSONAL]
    together = [statistics.mean(of_seed) for of_seed in zip(*own, strict=True)]
    kept = gains(results["scanner"], "fedbn", worst)
    return [
        _claim("concept/personalised", together, quick, f"mean of {', '.join(PERSONAL)}; "),
        _claim("scanner/fedbn", kept, quick),
    ]


def _claim(name: str, over: Sequence[float], quick: bool, note: str = "") -> Row:
    mean = statistics.mean(over)
    return Row(
        f"strategies/shifts/{name}/worst_site_over_fedavg",
        mean,
        0.0,
        holds=None if quick else mean > 0,
        note=f"{note}above the goal; {spread(over)}",
    )
