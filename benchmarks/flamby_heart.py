"""FLamby's Fed-Heart-Disease table, reproduced through the code that runs in a hospital.

Ogier du Terrail et al., NeurIPS 2022 (Datasets and Benchmarks). The published figures are those of
owkin/FLamby, flamby/results/results_benchmark_fed_heart_disease/heart_seed{42..46}.csv: accuracy
at 0.5, for each centre the mean of five seeds, and the unweighted mean of the four centres.

FLamby standardises a centre's features by that centre's training patients, and pooled training by
everybody's; but what its table calls `client_test_k` is standardised by centre k alone, for the
pooled model too. So the published pooled figure is that of a model that meets features scaled
otherwise than those it learned from. We measure it so, and beside it on features scaled as in
training, which is what FLamby's "Pooled Test" does.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import DataSchema, LabelSchema
from numpy.typing import NDArray
from reporting import Row, parser, publish
from sklearn.model_selection import train_test_split

from federation.metrics.summary import ScoreSummary, merge
from federation.models.build import Vector
from federation.study import Study
from federation.vocabulary import Vocabulary, agreed_vocabulary
from server.exchange import Exchange
from server.rounds import run_rounds
from server.scoring import evaluate
from server.task import Task
from simulations.grids import LocalGrid

SOURCE = Path(__file__).resolve().parents[1] / "../shared/data/uci_heart_disease"
CENTRES = ("cleveland", "hungarian", "switzerland", "va")
SEEDS = (42, 43, 44, 45, 46)
ROUNDS, LOCAL_STEPS, POOLED_EPOCHS = 15, 100, 50
FEDAVG = {"name": "fedavg"}

FEDAVG_GOAL, FEDAVG_TOLERANCE = 0.6850, 0.035
POOLED_GOAL, POOLED_TOLERANCE = 0.7353, 0.005
PUBLISHED_FEDAVG = {"cleveland": 0.731, "hungarian": 0.719, "switzerland": 0.650, "va": 0.640}
PUBLISHED_FEDAVG_SD = 0.028
PUBLISHED_POOLED = {"cleveland": 0.783, "hungarian": 0.764, "switzerland": 0.750, "va": 0.644}
PUBLISHED_POOLED_SD = 0.003
PUBLISHED_POOLED_TEST = 0.7953

UNUSED = (10, 11, 12)  # slope, ca and thal are missing for most patients of three centres
CATEGORIES = (2, 6)  # cp, restecg
LABEL = 13
TRAIN_FRACTION, TEST_FRACTION, SPLIT_SEED = 0.66, 0.34, 43

FEATURES = 13
CODES = tuple(f"HEART//F{number:02}" for number in range(FEATURES))
PREDICTION_TIME = datetime(2000, 1, 1)
MEASURED_AT = PREDICTION_TIME - timedelta(hours=1)

Array = NDArray[np.float64]
Cells = Mapping[str, ScoreSummary]
"""The held-out score summary of each centre."""


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument("--source", type=Path, default=SOURCE, help="UCI's processed.*.data files")
    arguments = options.parse_args()
    if not arguments.source.is_dir():
        options.error(f"--source: {arguments.source} is not a folder of UCI's processed.*.data")
    # --quick changes nothing: all of it takes half a minute.
    publish(measure(arguments.source), arguments.json)


def measure(
    source: Path,
    seeds: Sequence[int] = SEEDS,
    rounds: int = ROUNDS,
    pooled_epochs: int = POOLED_EPOCHS,
) -> list[Row]:
    """Train with every seed, federated and pooled, and compare with what was published."""
    centres = read_centres(source)
    with tempfile.TemporaryDirectory() as folder:
        own = open_sites(centres, own_scaling(centres), Path(folder, "own"))
        shared = open_sites(centres, pooled_scaling(centres), Path(folder, "pooled"))
        federated: list[Cells] = []
        pooled: list[Cells] = []
        pooled_as_trained: list[Cells] = []
        for seed in seeds:
            task = federated_task(own, seed, rounds)
            federated.append(held_out(task, trained(task)))
            task = pooled_task(shared, seed, pooled_epochs)
            weights = trained(task)
            pooled.append(held_out(replace(task, exchange=own), weights))
            pooled_as_trained.append(held_out(task, weights))
            print(
                f"seed {seed}: federated {mean_accuracy(federated[-1]):.4f}, "
                f"pooled {mean_accuracy(pooled[-1]):.4f}",
                file=sys.stderr,
            )
    return [*_federated_rows(federated), *_pooled_rows(pooled, pooled_as_trained)]


@dataclass(frozen=True)
class Centre:
    """One centre's usable rows, in the order of its file.

    Attributes:
        name: as in the file's name.
        features: (rows, 13) raw.
        labels: (rows,) bool.
        train: (rows,) bool; the others are held out.
    """

    name: str
    features: Array
    labels: NDArray[np.bool_]
    train: NDArray[np.bool_]


@dataclass(frozen=True)
class Scaling:
    """Means and standard deviations of the features, each (13,)."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, features: Array) -> Scaling:
        """Fit to training rows."""
        return cls(features.mean(0), features.std(0, ddof=1) + 1e-9)

    def apply(self, features: Array) -> Array:
        """Standardise."""
        return (features - self.mean) / self.deviation


def read_centres(source: Path) -> list[Centre]:
    """Read UCI's files as FLamby does: its columns, its complete rows, its split."""
    tables = {name: _complete_rows(source / f"processed.{name}.data") for name in CENTRES}
    # Encoded together, so that a category one centre lacks still has its column there.
    features = pd.get_dummies(
        pd.concat({name: rows.drop(columns=LABEL) for name, rows in tables.items()}),
        columns=list(CATEGORIES),
        drop_first=True,
    )
    centres = []
    for name, rows in tables.items():
        labels = (rows[LABEL] > 0).to_numpy()
        own = features.loc[name].to_numpy(np.float64)
        centres.append(Centre(name, own, labels, _training_rows(labels)))
    return centres


def own_scaling(centres: Sequence[Centre]) -> dict[str, Scaling]:
    """Each centre by its own training rows."""
    return {centre.name: Scaling.of(centre.features[centre.train]) for centre in centres}


def pooled_scaling(centres: Sequence[Centre]) -> dict[str, Scaling]:
    """Every centre by the training rows of all."""
    everybody = Scaling.of(np.concatenate([c.features[c.train] for c in centres]))
    return {centre.name: everybody for centre in centres}


def open_sites(centres: Sequence[Centre], scaling: Mapping[str, Scaling], folder: Path) -> Exchange:
    """Write one site folder a centre and connect to all of them in this process."""
    for number, centre in enumerate(centres, start=1):
        values = scaling[centre.name].apply(centre.features)
        _write_site(folder / centre.name, centre, values, first_id=number * 1000)
    grid = LocalGrid({centre.name: folder / centre.name / "site.toml" for centre in centres})
    return Exchange(grid, simulated=True, pooled_node=grid.pooled_node)


def federated_task(
    exchange: Exchange,
    seed: int,
    rounds: int = ROUNDS,
    lr: float = 1e-3,
    strategy: Mapping[str, Any] = FEDAVG,
) -> Task:
    """100 updates a round: 15 rounds are 50 epochs of a centre of average size."""
    sgd = {"name": "sgd", "lr": lr}
    study = _study(seed, strategy, rounds=rounds, local_steps=LOCAL_STEPS, optimizer=sgd)
    return Task(exchange, study, _vocabulary(study), measured=False)


def pooled_task(exchange: Exchange, seed: int, epochs: int = POOLED_EPOCHS) -> Task:
    """All patients as one site, in a single round so that Adam keeps its moments."""
    study = alone_study(seed, epochs)
    node = exchange.pooled_node
    assert node is not None
    only = {"pooled": node}
    return Task(exchange, study, _vocabulary(study), "pooled", only=only, quorum=1, measured=False)


def alone_study(seed: int, epochs: int = POOLED_EPOCHS) -> Study:
    """Training in one place: Adam, in one round."""
    adam = {"name": "adam", "lr": 1e-3}
    return _study(seed, FEDAVG, rounds=1, local_epochs=epochs, optimizer=adam)


def trained(task: Task) -> Vector:
    """Train to the last round."""
    result = run_rounds(task)
    if result.lost_quorum:
        raise RuntimeError(result.lost_quorum)
    return result.weights


def held_out(task: Task, weights: Vector) -> Cells:
    """Let every centre score its test patients."""
    everywhere = replace(task, only=None)
    evaluations, failed = evaluate(everywhere, weights, "held_out")
    if failed:
        raise RuntimeError(f"no evaluation from {failed}")
    return {evaluation.site: evaluation.cells[""] for evaluation in evaluations}


def accuracy(cell: ScoreSummary) -> float:
    """Share of patients on their side of 0.5."""
    confusion = cell.confusion(0.5)
    return (confusion.tp + confusion.tn) / cell.n


def mean_accuracy(cells: Cells) -> float:
    """Mean over the centres, each counted once whatever its size."""
    return statistics.mean(accuracy(cell) for cell in cells.values())


def _federated_rows(runs: Sequence[Cells]) -> list[Row]:
    means = [mean_accuracy(run) for run in runs]
    return [
        Row.near(
            "flamby/fedavg/accuracy",
            statistics.mean(means),
            FEDAVG_GOAL,
            FEDAVG_TOLERANCE,
            f"mean of centres and of {len(runs)} seeds",
        ),
        Row(
            "flamby/fedavg/accuracy_sd",
            _deviation(means),
            note=f"over seeds; published {PUBLISHED_FEDAVG_SD}",
        ),
        *_by_centre("fedavg", runs, PUBLISHED_FEDAVG),
    ]


def _pooled_rows(runs: Sequence[Cells], as_trained: Sequence[Cells]) -> list[Row]:
    means = [mean_accuracy(run) for run in runs]
    together = [accuracy(merge(run.values())) for run in as_trained]
    return [
        Row.near(
            "flamby/pooled/accuracy",
            statistics.mean(means),
            POOLED_GOAL,
            POOLED_TOLERANCE,
            "mean of centres, each scaled by itself, as published",
        ),
        Row(
            "flamby/pooled/accuracy_sd",
            _deviation(means),
            note=f"over seeds; published {PUBLISHED_POOLED_SD}",
        ),
        *_by_centre("pooled", runs, PUBLISHED_POOLED),
        Row(
            "flamby/pooled/scaled_as_trained/accuracy",
            statistics.mean(mean_accuracy(run) for run in as_trained),
            note="mean of centres, scaled by the pooled statistics; not published",
        ),
        Row(
            "flamby/pooled/scaled_as_trained/accuracy_all_patients",
            statistics.mean(together),
            note=f"the pooled test set; published {PUBLISHED_POOLED_TEST}",
        ),
    ]


def _by_centre(model: str, runs: Sequence[Cells], published: Mapping[str, float]) -> list[Row]:
    return [
        Row(
            f"flamby/{model}/{name}/accuracy",
            statistics.mean(accuracy(run[name]) for run in runs),
            note=f"{runs[0][name].n} patients; published {figure:.3f}",
        )
        for name, figure in published.items()
    ]


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _complete_rows(file: Path) -> pd.DataFrame:
    rows = pd.read_csv(file, header=None, na_values="?").drop(columns=list(UNUSED))
    return rows.dropna().astype(np.float64)


def _training_rows(labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """FLamby's split, by label unless a class has at most two rows (Switzerland)."""
    stratify = labels if np.bincount(labels, minlength=2).min() > 2 else None
    chosen, _ = train_test_split(
        np.arange(len(labels)),
        train_size=TRAIN_FRACTION,
        test_size=TEST_FRACTION,
        random_state=SPLIT_SEED,
        shuffle=True,
        stratify=stratify,
    )
    train = np.zeros(len(labels), bool)
    train[chosen] = True
    return train


def _study(seed: int, strategy: Mapping[str, Any], **training: Any) -> Study:
    return Study.model_validate(
        {
            "study": {"name": "flamby-heart", "seed": seed},
            "task": {"label": "heart_disease"},
            "split": {"by": "given"},
            "modalities": {
                "ehr": {
                    "encoder": "linear",
                    "vocabulary": "listed",
                    # The protocol standardises; [-1, 1] leaves a value as it is.
                    "reference_ranges": dict.fromkeys(CODES, (-1.0, 1.0)),
                    "aggregates": ["last"],
                    "age": False,
                }
            },
            "fusion": {"kind": "late"},
            "training": {"batch_size": 4, **training},
            "strategy": {"weighting": "patients", "minimum_sites": len(CENTRES), **strategy},
            "evaluation": {"every": 0, "subgroups": []},
        }
    )


def _vocabulary(study: Study) -> Vocabulary:
    assert study.modalities.ehr is not None
    return agreed_vocabulary(study.modalities.ehr)


def _write_site(folder: Path, centre: Centre, values: Array, first_id: int) -> None:
    (folder / "meds" / "data").mkdir(parents=True)
    (folder / "meds" / "metadata").mkdir()
    (folder / "site.toml").write_text(_SITE_FILE.format(name=centre.name), encoding="utf-8")
    subjects = np.arange(first_id, first_id + len(values))
    events = {
        "subject_id": subjects.repeat(FEATURES),
        "time": [MEASURED_AT] * values.size,
        "code": list(CODES) * len(values),
        "numeric_value": values.reshape(-1).astype(np.float32),
        "text_value": [None] * values.size,
    }
    labels = {
        "subject_id": subjects,
        "prediction_time": [PREDICTION_TIME] * len(values),
        "boolean_value": centre.labels,
    }
    splits = {"subject_id": subjects, "split": np.where(centre.train, "train", "held_out")}
    pq.write_table(_table(events, DataSchema.schema()), folder / "meds" / "data" / "0.parquet")
    pq.write_table(_table(labels, LabelSchema.schema()), folder / "labels.parquet")
    pq.write_table(pa.table(splits), folder / "meds" / "metadata" / "subject_splits.parquet")


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    fields = [schema.field(name) for name in columns]
    return pa.table(dict(columns), schema=pa.schema(fields))


_SITE_FILE = """\
[site]
name = "{name}"
device = "cpu"

[data]
events = {{ format = "meds", path = "meds" }}
labels = "labels.parquet"

[policy]
minimum_cell = 10
score_bins = "fine"             # the data is public
"""

if __name__ == "__main__":
    main()
