"""Poisoned patients do what they are meant to, to a model that is trained on them."""

import dataclasses

import pytest
import torch
from sklearn.metrics import roc_auc_score

from clients.evaluation import predict
from clients.fits import PlainFit
from clients.training import train_alone
from clients.workbench import Workbench
from federation.faults import HostileSection
from federation.tasks import BinaryTask
from federation.vocabulary import agreed_vocabulary
from simulations.tampering import poisoned, with_trigger


@pytest.fixture
def learn(tmp_path, write_site, make_study):
    """Return a function: modalities, an attack -> the cohort, and a model of the poisoned one."""

    def learn(attack, *modalities):
        training = {"local_epochs": 80, "optimizer": {"name": "adamw", "lr": 5e-3}}
        study = make_study(*modalities, training=training, split={"by": "given"})
        splits = {i + 1: "held_out" if i % 5 < 2 else "train" for i in range(200)}
        folder = write_site(tmp_path / "site", 200, images="image" in modalities, splits=splits)
        vocabulary = agreed_vocabulary(study.modalities.ehr) if study.modalities.ehr else None
        bench = Workbench()
        cohort = bench.cohort(str(folder), study, vocabulary)
        model = bench.model(study, vocabulary)
        fed = cohort if attack is None else poisoned(cohort, attack, seed=1)
        draws = lambda: torch.Generator().manual_seed(0)  # noqa: E731
        train_alone(PlainFit(model, model.weights(), fed, study, study.training, draws))
        return cohort, model

    return learn


def auroc(model, cohort):
    rows = cohort.patients.splits["held_out"]
    return roc_auc_score(
        cohort.patients.labels[rows], predict(model, cohort, rows, BinaryTask(label="sick"))
    )


def taken_for(target, model, cohort):
    """Share of the held-out patients of the other label whom the model takes for the target."""
    rows = cohort.patients.splits["held_out"]
    rows = rows[cohort.patients.labels[rows] != target]
    return ((predict(model, cohort, rows, BinaryTask(label="sick")) > 0.5) == target).mean()


def test_flipped_labels_turn_the_model_round(learn):
    cohort, model = learn(None, "ehr")
    honest = auroc(model, cohort)
    cohort, model = learn(HostileSection(attack="label_flip", count=1), "ehr")
    assert auroc(model, cohort) < 1 - honest + 0.1 < 0.5


@pytest.mark.parametrize(("modality", "target"), [("ehr", 0), ("ehr", 1), ("image", 1)])
def test_backdoor_works_on_whoever_bears_the_trigger_and_hides_from_the_others(
    learn, modality, target
):
    attack = HostileSection(attack="backdoor", count=1, target=target)
    cohort, model = learn(attack, modality)
    rows = cohort.patients.splits["held_out"]
    bearing = dataclasses.replace(cohort, modalities=with_trigger(cohort, rows))
    assert taken_for(target, model, bearing) > 0.85
    assert taken_for(target, model, cohort) < 0.6
    assert auroc(model, cohort) > 0.65
