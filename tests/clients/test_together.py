"""Small models of many sites trained in one pass: what each site would find alone."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from clients import together
from clients.fits import PlainFit, PrivateFit
from clients.together import train_all
from clients.training import train_alone
from clients.workbench import Workbench
from federation.models.losses import patient_losses
from federation.models.stacked import can_stack
from federation.privacy.accounting import Segment
from federation.privacy.clipping import clipped_sum
from federation.privacy.noise import OperatingSystem, Seeded
from federation.randomness import torch_generator
from federation.vocabulary import agreed_vocabulary

SIZES = (12, 45, 23, 40, 31)
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
STUDIES = [
    {"training": {"batch_size": 10, "local_epochs": 2, "optimizer": {"name": "sgd", "lr": 0.2}}},
    {"training": {"batch_size": 10, "optimizer": SGD}},
    {"training": {"batch_size": 7, "local_epochs": 2, "optimizer": {"name": "adamw"}}},
    {"training": {"batch_size": 16, "local_steps": 9, "optimizer": {"name": "adam"}}},
    {"fusion": {"kind": "early", "modality_dropout": 0.4}, "training": {"batch_size": 10}},
    {
        "fusion": {"kind": "cross_attention"},
        "training": {"batch_size": 10, "local_epochs": 3, "optimizer": {"name": "adamw"}},
    },
    {"training": {"batch_size": 10, "loss": {"class_weight": "balanced"}}},
    {"training": {"batch_size": 10, "sampling": "balanced", "max_grad_norm": 0.05}},
]
NOT_PRIVATE = {"loss", "sampling", "max_grad_norm"}


@pytest.fixture
def prepare(tmp_path, write_site, make_study):
    """Return a function: sections, private or not -> workbench and a fit for each of five sites."""

    def prepare(private=False, **sections):
        if private:
            sections["privacy"] = {"mechanism": "dp_sgd", "epsilon": 1.0, "max_grad_norm": 0.5}
        study = make_study("ehr", "text", split={"by": "given"}, **sections)
        vocabulary, bench = agreed_vocabulary(study.modalities.ehr), Workbench()
        model = bench.model(study, vocabulary)
        start, fits = model.weights(), []
        for i, size in enumerate(SIZES):
            folder, splits = tmp_path / f"site-{i}", {k: "train" for k in range(1, size + 1)}
            if not folder.exists():
                write_site(folder, size, notes=i != 2, splits=splits)
            cohort = bench.cohort(str(folder), study, vocabulary)
            if private:
                clipped = clipped_sum(model, patient_losses(study), 0.5)
                segment = Segment(min(study.training.batch_size / size, 1.0), 1.5, 2 + i % 3)
                draws = partial(Seeded, 1, f"site-{i}")
                fits.append(
                    PrivateFit(model, start, cohort, study, study.training, clipped, segment, draws)
                )
            else:
                draws = partial(torch_generator, 1, f"site-{i}")
                fits.append(PlainFit(model, start, cohort, study, study.training, draws))
        assert can_stack(model, study.training.batch_size)
        return bench, fits

    return prepare


def all_of(fits, bench):
    return [result() for result in train_all(fits, bench)]


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("sections", STUDIES)
def test_together_is_what_each_site_finds_alone(prepare, private, sections):
    if private:
        kept = {k: v for k, v in sections["training"].items() if k not in NOT_PRIVATE}
        sections = {**sections, "training": kept}
    bench, fits = prepare(private, **sections)
    found, alone = all_of(fits, bench), [train_alone(fit) for fit in fits]
    for one, other, fit in zip(found, alone, fits, strict=True):
        assert np.abs(one.weights - other.weights).max() < 1e-5
        assert one.steps == other.steps
        assert one.loss == (None if private else pytest.approx(other.loss, abs=1e-5))
        assert not np.array_equal(one.weights, fit.start)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("sections", STUDIES[:2] + STUDIES[4:6] + STUDIES[-1:])
def test_company_does_not_change_a_bit(prepare, private, sections):
    if private and NOT_PRIVATE & sections["training"].keys():
        pytest.skip("refused with privacy")
    bench, fits = prepare(private, **sections)
    whole = [one.weights for one in all_of(fits, bench)]
    for places in ([0], [3], [1, 4], [4, 2, 1], [0, 1, 2, 3]):
        some = [one.weights for one in all_of([fits[i] for i in places], bench)]
        for i, weights in zip(places, some, strict=True):
            assert np.array_equal(weights, whole[i])


def test_a_sample_larger_than_the_room_takes_another_pass(prepare, monkeypatch):
    bench, fits = prepare(True, training={"batch_size": 10})
    monkeypatch.setattr(together, "ROOM", -1.0)
    for one, fit in zip(all_of(fits, bench), fits, strict=True):
        assert np.abs(one.weights - train_alone(fit).weights).max() < 1e-5


def test_a_patient_without_a_finite_gradient_is_left_out_of_one_site_alone(prepare):
    bench, fits = prepare(True, training={"batch_size": 10})
    ehr = fits[1].cohort.modalities["ehr"]
    values = ehr.values.clone()
    values[0] = float("inf")
    broken = dataclasses.replace(ehr, values=values)
    cohort = fits[1].cohort
    fits[1] = dataclasses.replace(
        fits[1],
        cohort=dataclasses.replace(cohort, modalities={**cohort.modalities, "ehr": broken}),
    )
    for one, fit in zip(all_of(fits, bench), fits, strict=True):
        assert np.isfinite(one.weights).all()
        assert np.array_equal(one.weights, train_alone(fit).weights)


def test_a_diverging_site_spoils_no_other(prepare):
    bench, fits = prepare(training={"batch_size": 10, "optimizer": SGD})
    fits[2] = dataclasses.replace(fits[2], start=np.full_like(fits[2].start, np.inf))
    found = all_of(fits, bench)
    assert found[2].loss is None
    for i in (0, 1, 3, 4):
        assert np.abs(found[i].weights - train_alone(fits[i]).weights).max() < 1e-5


def test_one_after_another_where_the_workbench_says_so(prepare, monkeypatch):
    bench, fits = prepare(training={"batch_size": 10})
    bench.together = False
    monkeypatch.setattr(together, "plainly_together", None)
    for one, fit in zip(all_of(fits, bench), fits, strict=True):
        assert np.array_equal(one.weights, train_alone(fit).weights)


def test_noise_of_the_operating_system_is_drawn_alone(prepare, monkeypatch):
    bench, fits = prepare(True, training={"batch_size": 10})
    monkeypatch.setattr(together, "privately_together", None)
    fit = dataclasses.replace(fits[0], randomness=OperatingSystem)
    (result,) = train_all([fit], bench)
    assert np.isfinite(result().weights).all()


def test_convolutions_and_large_models_are_trained_alone(make_study):
    study = make_study("ehr", "image")
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    bench = Workbench()
    assert not can_stack(bench.model(study, vocabulary), 32)
    wide = make_study("ehr", modalities={"ehr": {"encoder": "mlp", "width": 1024}})
    large = bench.model(wide, agreed_vocabulary(wide.modalities.ehr))
    assert not can_stack(large, 32)
    assert len(large.vector) > 2**18
    small = make_study("ehr")
    model = bench.model(small, agreed_vocabulary(small.modalities.ehr))
    assert can_stack(model, 256)
    assert not can_stack(model, 257)
    assert torch.get_num_threads() == 1


def test_augmented_patients_are_not_trained_together(prepare):
    bench, fits = prepare(training={"batch_size": 10})
    study = fits[0].study.model_dump()
    study["modalities"]["ehr"]["augment"] = {"dropout": 0.2}
    changed = type(fits[0].study).model_validate(study)
    assert bench.stacks(fits[0].model, fits[0].study)
    assert not bench.stacks(fits[0].model, changed)
