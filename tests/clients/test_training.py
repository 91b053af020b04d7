"""Local training: what it does per step, and that it does the same again."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.fits import PlainFit
from clients.training import FlatSgd, drop_modalities, train_alone
from clients.workbench import Workbench
from federation.training import OptimizerSection
from federation.vocabulary import agreed_vocabulary


@pytest.fixture
def prepare(tmp_path, write_site, make_study):
    """Return a function: sections -> study, cohort, model."""

    def prepare(*modalities, patients=40, splits=None, labels=None, **sections):
        if splits:
            sections["split"] = {"by": "given"}
        study = make_study(*modalities, **sections)
        folder = write_site(
            tmp_path / "site",
            patients,
            splits=splits,
            labels=labels,
            images="image" in modalities,
            notes="text" in modalities,
        )
        ehr = study.modalities.ehr
        vocabulary = agreed_vocabulary(ehr) if ehr else None
        bench = Workbench()
        return (
            study,
            bench.cohort(str(folder), study, vocabulary),
            bench.model(study, vocabulary),
        )

    return prepare


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(seed=0):
    source = generator(seed)
    return lambda size: torch.rand(size, generator=source)


def trained(model, cohort, study, generator):
    return train_alone(
        PlainFit(model, model.weights(), cohort, study, study.training, lambda: generator)
    )


@pytest.mark.parametrize("names", [("ehr",), ("ehr", "text"), ("ehr", "image", "text")])
def test_dropping_never_takes_a_patients_last_modality(names):
    subsets = list(itertools.product([True, False], repeat=len(names)))
    rows = 200 * len(subsets)
    present = {
        name: torch.tensor([subsets[i % len(subsets)][k] for i in range(rows)])
        for k, name in enumerate(names)
    }
    dropped = drop_modalities(present, 0.9, draws())
    before = torch.stack(list(present.values()))
    after = torch.stack(list(dropped.values()))
    assert not (after & ~before).any()
    assert torch.equal(after.any(0), before.any(0))
    if len(names) > 1:
        assert (before & ~after).any()


def test_dropping_follows_its_probability():
    present = dict.fromkeys(("ehr", "text"), torch.ones(20_000, dtype=torch.bool))
    dropped = drop_modalities(present, 0.3, draws())
    # both hidden is undone: each is hidden with 0.3 - 0.09
    for mask in dropped.values():
        assert float((~mask).float().mean()) == pytest.approx(0.21, abs=0.015)


def given_splits(train, tuning=2):
    return {i: "train" if i <= train else "tuning" for i in range(1, train + tuning + 1)}


@pytest.mark.parametrize(
    ("train", "training", "steps"),
    [
        (33, {"local_epochs": 1, "batch_size": 16}, 3),
        (32, {"local_epochs": 3, "batch_size": 16}, 6),
        (5, {"local_epochs": 2, "batch_size": 64}, 2),
        (1, {"local_epochs": 1, "batch_size": 1}, 1),
        (33, {"local_steps": 1, "batch_size": 16}, 1),
        (5, {"local_steps": 7, "batch_size": 64}, 7),
        (10, {"local_steps": 5, "batch_size": 4}, 5),
    ],
)
def test_number_of_steps(prepare, train, training, steps):
    study, cohort, model = prepare(
        patients=train + 2, splits=given_splits(train), training=training
    )
    before = model.weights()
    result = trained(model, cohort, study, generator())
    assert result.steps == steps
    assert math.isfinite(result.loss)
    assert not np.array_equal(model.weights(), before)


class Recording(torch.nn.Module):
    """Stands in for a model and remembers which patients it was shown."""

    def __init__(self, cohort):
        super().__init__()
        self.rows, self.cohort = [], cohort

    def forward(self, values, present):
        known = self.cohort.modalities["ehr"].values
        self.rows.append([int((known == v).all(1).nonzero()[0]) for v in values["ehr"]])
        return values["ehr"].sum(1) * 0 + self.weight

    weight = None


def shown(prepare, training, train=10):
    study, cohort, model = prepare(
        patients=train + 4, splits=given_splits(train, 4), training=training
    )
    recording = Recording(cohort)
    recording.weight = torch.zeros(1, requires_grad=True)
    model.module = recording
    trained(model, cohort, study, generator())
    return recording.rows


def test_an_epoch_shows_every_training_patient_once_and_nobody_else(prepare):
    batches = shown(prepare, {"local_epochs": 2, "batch_size": 4})
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(itertools.chain(*epoch)) == list(range(10))
    assert batches[:3] != batches[3:]


def test_local_steps_go_on_over_as_many_passes_as_needed(prepare):
    batches = shown(prepare, {"local_steps": 4, "batch_size": 4})
    assert [len(b) for b in batches] == [4, 4, 2, 4]
    assert sorted(itertools.chain(*batches[:3])) == list(range(10))


def test_equal_generators_give_equal_weights_and_others_do_not(prepare):
    study, cohort, model = prepare(
        "ehr", "image", "text", fusion={"modality_dropout": 0.3, "kind": "cross_attention"}
    )
    start = model.weights()
    found = []
    for seed in (1, 1, 2):
        model.load(start)
        trained(model, cohort, study, generator(seed))
        found.append(model.weights().tobytes())
    assert found[0] == found[1] != found[2]


def test_the_optimiser_starts_anew_each_round(prepare):
    study, cohort, model = prepare(training={"optimizer": {"name": "adam", "lr": 0.01}})
    start = model.weights()
    for _ in range(2):
        model.load(start)
        trained(model, cohort, study, generator())
        last = model.weights()
    model.load(start)
    trained(model, cohort, study, generator())
    assert np.array_equal(model.weights(), last)


def test_balanced_loss_is_that_of_torchs_pos_weight(prepare):
    labels_of = {i: i % 4 == 0 for i in range(1, 21)}
    study, cohort, model = prepare(
        patients=20,
        splits=dict.fromkeys(labels_of, "train"),
        training={"loss": {"class_weight": "balanced"}, "local_steps": 1, "batch_size": 64},
    )
    labels = torch.tensor([float(v) for v in labels_of.values()])
    cohort = dataclasses.replace(cohort, labels=labels)
    rows = torch.arange(20)
    logits = model.module(*cohort.inputs(rows, torch.device("cpu")))
    weight = torch.tensor(15 / 5)
    expected = binary_cross_entropy_with_logits(logits, labels, pos_weight=weight).item()
    result = trained(model, cohort, study, generator())
    assert result.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_balanced_loss_of_one_class_is_the_plain_one(prepare, value):
    study, cohort, model = prepare(
        splits=given_splits(38), training={"loss": {"class_weight": "balanced"}}
    )
    cohort = dataclasses.replace(cohort, labels=torch.full((40,), value))
    assert math.isfinite(trained(model, cohort, study, generator()).loss)


def test_a_loss_that_is_not_finite_is_not_reported_as_a_number(prepare):
    study, cohort, model = prepare(training={"optimizer": {"name": "sgd", "lr": 1e38}})
    result = trained(model, cohort, study, generator())
    assert result.loss is None or math.isfinite(result.loss)


def test_training_lowers_the_loss_on_learnable_patients(prepare):
    study, cohort, model = prepare("ehr", "image", "text", training={"local_epochs": 8})
    first = trained(model, cohort, study, generator()).loss
    assert trained(model, cohort, study, generator()).loss < 0.7 * first


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_flat_sgd_equals_torchs(momentum, weight_decay):
    section = OptimizerSection(name="sgd", lr=0.1, momentum=momentum, weight_decay=weight_decay)
    start = torch.randn(50, generator=generator())
    flat = torch.nn.Parameter(start.clone(), requires_grad=False)
    torchs = torch.nn.Parameter(start.clone())
    ours = FlatSgd(flat, section)
    theirs = torch.optim.SGD([torchs], lr=0.1, momentum=momentum, weight_decay=weight_decay)
    for step in range(6):
        gradient = torch.randn(50, generator=generator(step))
        flat.grad, torchs.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
        assert torch.equal(flat.grad, gradient)
    torch.testing.assert_close(flat.data, torchs.data, rtol=1e-6, atol=1e-7)
