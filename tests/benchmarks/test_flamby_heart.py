from __future__ import annotations

import doctest
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from clients.features import LARGEST_VALUE
from clients.workbench import Workbench
from federation.randomness import derive_seed, torch_generator

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "../shared/data/uci_heart_disease"
SEED = 42

sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # where a benchmark finds `reporting`
heart = importlib.import_module("flamby_heart")
reporting = importlib.import_module("reporting")

needs_uci = pytest.mark.skipif(
    not SOURCE.is_dir(), reason=f"UCI's heart-disease files are not at {SOURCE}"
)


@pytest.fixture(scope="module")
def centres():
    return heart.read_centres(SOURCE)


@needs_uci
def test_complete_rows_and_splits_are_those_flamby_publishes(centres):
    published = {  # FLamby's README: train, test
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }
    assert {c.name: (int(c.train.sum()), int((~c.train).sum())) for c in centres} == published
    assert {c.features.shape[1] for c in centres} == {13}
    assert [c.labels.sum() for c in centres] == [139, 98, 45, 101]


@needs_uci
def test_first_row_of_cleveland_has_the_columns_in_flambys_order(centres):
    # 63,1,1,145,233,1,2,150,0,2.3,...: cp 1 and restecg 2 become the last five columns
    expected = [63, 1, 145, 233, 1, 150, 0, 2.3, 0, 0, 0, 0, 1]
    assert centres[0].features[0].tolist() == expected


@needs_uci
@pytest.mark.parametrize("scaling", ["own_scaling", "pooled_scaling"])
def test_sites_hold_the_standardised_values_unclipped(centres, scaling, tmp_path):
    scaled = getattr(heart, scaling)(centres)
    task = heart.federated_task(heart.open_sites(centres, scaled, tmp_path), SEED)
    workbench = Workbench()
    for centre in centres:
        cohort = workbench.cohort(
            str(tmp_path / centre.name / "site.toml"), task.study, task.vocabulary
        )
        values = cohort.modalities["ehr"].values.numpy()
        expected = scaled[centre.name].apply(centre.features)
        assert np.abs(expected).max() < LARGEST_VALUE
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
        assert cohort.patients.splits["train"].tolist() == np.flatnonzero(centre.train).tolist()
        assert (cohort.patients.labels == centre.labels).all()


@needs_uci
def test_own_scaling_uses_training_rows_alone_and_pooled_scaling_those_of_everybody(centres):
    for centre in centres:
        own = heart.own_scaling(centres)[centre.name].apply(centre.features)[centre.train]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-9)
    pooled = heart.pooled_scaling(centres)
    together = np.concatenate([pooled[c.name].apply(c.features)[c.train] for c in centres])
    assert len(together) == 486
    np.testing.assert_allclose(together.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(together.std(0, ddof=1), 1, atol=1e-7)


@needs_uci
def test_federated_rounds_equal_a_plain_torch_loop(centres, tmp_path):
    scaling = heart.own_scaling(centres)
    rounds = 5
    task = heart.federated_task(heart.open_sites(centres, scaling, tmp_path), SEED, rounds)
    ours = heart.trained(task)
    x = {c.name: torch.tensor(scaling[c.name].apply(c.features)).float() for c in centres}
    y = {c.name: torch.tensor(c.labels).float() for c in centres}
    train = {c.name: torch.tensor(np.flatnonzero(c.train)) for c in centres}

    torch.manual_seed(derive_seed(SEED, "initial weights"))
    model = torch.nn.Linear(13, 1)
    model_weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    for round_ in range(1, rounds + 1):
        mean = torch.zeros(14, dtype=torch.float64)
        for name, rows in train.items():
            torch.nn.utils.vector_to_parameters(model_weights.clone(), model.parameters())
            _train_plainly(model, x[name], y[name], _batches(rows, name, round_))
            local = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
            mean += local.double() * len(rows) / 486
        model_weights = mean.float()
    np.testing.assert_allclose(ours, model_weights, atol=1e-5)

    cells = heart.held_out(task, ours)
    for centre in centres:
        logits = x[centre.name] @ model_weights[:13] + model_weights[13]
        expected = accuracy_score(centre.labels[~centre.train], logits[~centre.train] > 0)
        assert heart.accuracy(cells[centre.name]) == pytest.approx(expected)


@needs_uci
def test_one_seed_and_two_rounds_give_every_row_and_a_file(tmp_path):
    rows = heart.measure(SOURCE, seeds=(SEED,), rounds=2, pooled_epochs=1)
    reporting.publish(rows, tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    by_name = {row["name"]: row for row in written}
    assert len(by_name) == len(written)
    assert by_name["flamby/fedavg/accuracy"]["goal"] == 0.685
    assert by_name["flamby/pooled/accuracy"]["tolerance"] == 0.005
    assert by_name["flamby/fedavg/accuracy"]["holds"] in (True, False)
    assert by_name["flamby/fedavg/va/accuracy"]["holds"] is None
    assert all(0 <= r["measured"] <= 1 for r in written if r["name"].endswith("accuracy"))


def test_examples_in_reporting_are_right():
    assert doctest.testmod(reporting).failed == 0


def _batches(rows: torch.Tensor, site: str, round_: int) -> Iterator[torch.Tensor]:
    """The 100 batches that clients/app.py draws for a site in a round."""
    generator = torch_generator(SEED, "training", site, "federated", round_)
    drawn = 0
    while True:
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(4):
            yield batch
            drawn += 1
            if drawn == 100:
                return


def _train_plainly(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, batches: Iterator[torch.Tensor]
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for batch in batches:
        optimizer.zero_grad()
        predicted = torch.sigmoid(model(x[batch])).squeeze(1)
        torch.nn.functional.binary_cross_entropy(predicted, y[batch]).backward()
        optimizer.step()
