"""DP-SGD on a cohort: what one patient more can change, and what the study's seed cannot reach."""

import numpy as np
import pytest
import torch

from clients.fits import PrivateFit
from clients.training import train_alone
from clients.workbench import Workbench
from federation.models.losses import patient_losses
from federation.privacy.accounting import Segment
from federation.privacy.clipping import clipped_sum
from federation.privacy.noise import Seeded
from federation.vocabulary import agreed_vocabulary

NORM = 0.5


class Silent(Seeded):
    """Samples and drops modalities at random, and adds no noise: what is left is the signal."""

    def normal(self, size):
        return torch.zeros(size, dtype=torch.float64)


@pytest.fixture
def prepare(tmp_path, write_site, make_study):
    """Return a function: tables to change -> study, cohort, model, clipped sum."""

    def prepare(**sections):
        privacy = {"mechanism": "dp_sgd", "epsilon": 1.0, "max_grad_norm": NORM}
        privacy |= sections.pop("privacy", {})
        optimizer = {"name": "sgd", "lr": 1.0}
        study = make_study(
            "ehr", "text",
            privacy=privacy,
            training={"batch_size": 16, "optimizer": optimizer},
            split={"by": "given"},
            **sections,
        )  # fmt: skip
        splits = {i: "train" if i <= 64 else "tuning" for i in range(1, 71)}
        folder = tmp_path / "site"
        if not folder.exists():
            write_site(folder, 70, notes=True, splits=splits)
        vocabulary, bench = agreed_vocabulary(study.modalities.ehr), Workbench()
        model = bench.model(study, vocabulary)
        clipped = clipped_sum(model, patient_losses(study), NORM)
        return study, bench.cohort(str(folder), study, vocabulary), model, clipped

    return prepare


def one_step(study, cohort, model, clipped, rate, randomness):
    before = model.weights()
    segment = Segment(rate, 1.0, 1)
    result = train_alone(
        PrivateFit(
            model, before, cohort, study, study.training, clipped, segment, lambda: randomness
        )
    )
    after = model.weights()
    model.load(before)
    assert (result.loss, result.steps) == (None, 1)
    return after - before


AUGMENTED = {
    "ehr": {
        "width": 8,
        "buckets": 8,
        "reference_ranges": {"LAB//CRP": [0.0, 10.0]},
        "augment": {"dropout": 0.3, "jitter_hours": 6.0},
    }
}


@pytest.mark.parametrize("sections", [{}, {"modalities": AUGMENTED}], ids=["plain", "augmented"])
@pytest.mark.parametrize("patient", [0, 17, 63])
def test_one_patient_moves_a_step_by_the_clipping_norm_at_most(prepare, patient, sections):
    study, cohort, model, clipped = prepare(**sections)
    rows = cohort.patients.splits["train"]
    patients = len(rows)
    whole = one_step(study, cohort, model, clipped, 1.0, Silent(1)) * patients
    cohort.patients.splits["train"] = np.delete(rows, patient)
    without = one_step(study, cohort, model, clipped, 1.0, Silent(1)) * (patients - 1)
    moved = np.linalg.norm((whole - without).astype(np.float64))
    assert 0 < moved <= NORM * (1 + 1e-3)  # a step rounds to its grid, after the noise


def test_physical_batches_do_not_change_a_step(prepare):
    steps = []
    for size in (512, 7):
        study, cohort, model, clipped = prepare(
            privacy={"physical_batch": size}, modalities=AUGMENTED
        )
        steps.append(one_step(study, cohort, model, clipped, 0.5, Seeded(1)))
    assert np.allclose(*steps, atol=1e-5)


def test_modality_dropout_is_drawn_from_the_private_randomness(prepare):
    study, cohort, model, clipped = prepare(fusion={"modality_dropout": 0.5})
    same = [one_step(study, cohort, model, clipped, 1.0, Silent(1)) for _ in range(2)]
    assert np.array_equal(*same)
    other = one_step(study, cohort, model, clipped, 1.0, Silent(2))
    assert not np.array_equal(same[0], other), "everybody is in the step: only masks can differ"


def test_augmentation_is_drawn_from_the_private_randomness(prepare):
    study, cohort, model, clipped = prepare(modalities=AUGMENTED)
    same = [one_step(study, cohort, model, clipped, 1.0, Silent(1)) for _ in range(2)]
    assert np.array_equal(*same)
    other = one_step(study, cohort, model, clipped, 1.0, Silent(2))
    assert not np.array_equal(same[0], other), "everybody is in the step: only views can differ"


def test_a_step_that_draws_nobody_still_adds_noise(prepare):
    study, cohort, model, clipped = prepare()

    class Nobody(Seeded):
        def uniform(self, size):
            return torch.ones(size, dtype=torch.float64)

    update = one_step(study, cohort, model, clipped, 0.25, Nobody(3))
    assert update.std() == pytest.approx(NORM / 16, rel=0.1)


def test_labels_of_a_patient_outside_the_training_split_change_nothing(prepare):
    study, cohort, model, clipped = prepare()
    before = one_step(study, cohort, model, clipped, 0.5, Seeded(4))
    cohort.labels[cohort.patients.splits["tuning"]] = (
        1 - cohort.labels[cohort.patients.splits["tuning"]]
    )
    assert np.array_equal(one_step(study, cohort, model, clipped, 0.5, Seeded(4)), before)


def test_training_without_much_noise_learns(prepare):
    study, cohort, model, clipped = prepare()
    rows = torch.from_numpy(cohort.patients.splits["train"])

    def loss():
        with torch.no_grad():
            logits = model.module(*cohort.inputs(rows, model.device))
        return float(patient_losses(study)(logits, cohort.labels[rows]).mean())

    first = loss()
    segment = Segment(0.25, 0.05, 60)
    start = model.weights()
    train_alone(
        PrivateFit(model, start, cohort, study, study.training, clipped, segment, lambda: Seeded(5))
    )
    model.module.eval()
    assert loss() < 0.7 * first
