"""Damage to updates, and what hostile sites do to updates and to their own patients."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clients.cohort import Patients
from clients.features import ModalityTensor
from clients.workbench import Cohort
from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.faults import HostileSection
from federation.messages import TRAIN, Reply
from federation.reduce import LARGEST_CHANGE, Part, UpdateRejected, screen
from federation.strategies.averaging import FedAvg
from simulations.tampering import attacked, corrupted, poisoned, with_trigger

SIZE = 5000
updates = arrays(
    np.float32, st.integers(1, 3000), elements=st.floats(-8, 8, width=32, allow_subnormal=False)
)
seeds = st.integers(0, 2**32)


def attack(name, **more):
    return HostileSection(attack=name, count=1, **more)


def refusal(update, size):
    try:
        screen(update, size, None)
    except UpdateRejected as reason:
        return str(reason)
    return ""


def collected(update, size=SIZE):
    """What the coordinator says of an update that came in a site's reply, after the honest one."""
    parts = (Part("ehr", 0, size),)
    total = UpdateSum(parts, FedAvg())
    body = TrainBody(loss=0.5, steps=1, patients={"ehr": 50})
    assert total.take(Reply("ok", body, update=np.full(size, 0.25, np.float32)), "ash") == ""
    records = Reply("ok", body, update=update).to_records()
    told = total.take(Reply.from_records(records, TRAIN), "ash")
    return told, total.total


@given(updates, seeds)
def test_damage_that_screening_must_refuse_is_refused(update, seed):
    size = len(update)
    assert refusal(update, size) == ""
    for kind, reason in (("nan", "not finite"), ("shape", "wrong shape")):
        found = corrupted(update, kind, np.random.default_rng(seed))
        assert refusal(found, size) == reason


@given(updates, seeds)
def test_turned_bits_pass_only_within_the_range_of_a_change(update, seed):
    found = corrupted(update, "bits", np.random.default_rng(seed))
    turned = np.bitwise_count(found.view(np.uint32) ^ update.view(np.uint32))
    assert sorted(turned[turned > 0]) == [1] * max(len(update) // 1000, 1)
    sane = bool(np.isfinite(found).all()) and np.abs(found).max() <= LARGEST_CHANGE
    assert (refusal(found, len(update)) == "") == sane


def test_some_turned_bits_pass_and_some_are_refused():
    update = np.full(100, 0.01, np.float32)
    told = {
        refusal(corrupted(update, "bits", np.random.default_rng(seed)), 100) for seed in range(300)
    }
    assert told == {"", "out of range"}
    # A turned bit makes an infinite or undefined number of those that lie just below them.
    near = np.full(100, 1.5, np.float32)
    told = {
        refusal(corrupted(near, "bits", np.random.default_rng(seed)), 100) for seed in range(300)
    }
    assert told == {"", "not finite"}


@given(updates, seeds)
def test_empty_update_passes_and_damage_leaves_the_original_alone(update, seed):
    kept = update.copy()
    update.flags.writeable = False
    zeros = corrupted(update, "zeros", np.random.default_rng(seed))
    assert refusal(zeros, len(update)) == ""
    assert not zeros.any()
    for kind in ("nan", "bits", "shape", "zeros"):
        found = corrupted(update, kind, np.random.default_rng(seed))
        again = corrupted(update, kind, np.random.default_rng(seed))
        assert found.dtype == np.float32
        assert found.tobytes() == again.tobytes()
    np.testing.assert_array_equal(update, kept)


@pytest.mark.parametrize("kind", ["nan", "shape", "bits", "zeros"])
def test_coordinator_adds_nothing_of_an_update_that_it_refuses(kind):
    update = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    for seed in range(20):
        damaged = corrupted(update, kind, np.random.default_rng(seed))
        told, total = collected(damaged)
        assert np.isfinite(total.mean()).all()
        if told:
            assert kind != "zeros"
            assert (total.members, total.weights) == (1, {"ehr": 50})
            np.testing.assert_array_equal(total.mean(), np.float32(0.25))
        else:
            assert kind in ("bits", "zeros")
            np.testing.assert_allclose(total.mean(), (0.25 + damaged) / 2, rtol=1e-5)


@given(updates, st.floats(0.1, 100))
def test_attacked_update_has_the_opposite_sign_or_the_larger_norm(update, scale):
    norm = np.linalg.norm(update.astype(np.float64))
    for found, factor in (
        (attacked(update, attack("sign_flip")), -1),
        (attacked(update, attack("sign_flip", scale=scale)), -scale),
        (attacked(update, attack("scaled_update")), 10),
        (attacked(update, attack("scaled_update", scale=scale)), scale),
        (attacked(update, attack("backdoor")), 1),
        (attacked(update, attack("backdoor", scale=scale)), scale),
        (attacked(update, attack("label_flip")), 1),
    ):
        assert found.dtype == np.float32
        assert np.linalg.norm(found.astype(np.float64)) == pytest.approx(
            abs(factor) * norm, rel=1e-5, abs=1e-30
        )
        np.testing.assert_allclose(found, factor * update.astype(np.float64), rtol=1e-6, atol=1e-38)


def cohort(patients=60, seed=0, names=("ehr", "image", "text")):
    """Patients with a random split and random gaps in every modality."""
    rng = np.random.default_rng(seed)
    splits = np.split(rng.permutation(patients), [patients // 2, patients * 3 // 4])
    labels = rng.integers(0, 2, patients).astype(np.float32)
    values = {
        "ehr": torch.from_numpy(rng.normal(size=(patients, 30)).astype(np.float32)),
        "image": torch.from_numpy(rng.random((patients, 1, 32, 32)).astype(np.float32) * 0.9),
        "text": torch.from_numpy(rng.integers(1, 9, (patients, 5))),
    }
    return Cohort(
        Patients(
            subject_ids=np.arange(patients),
            labels=labels,
            events=pd.DataFrame(),
            splits={
                n: np.sort(s) for n, s in zip(("train", "tuning", "held_out"), splits, strict=True)
            },
            subgroups={},
            excluded={},
            notices={},
            arrival=np.full(patients, np.nan),
            times=np.zeros(patients, np.int64),
        ),
        {
            n: ModalityTensor(values[n], torch.from_numpy(rng.random(patients) < 0.7), {})
            for n in names
        },
        torch.from_numpy(labels),
    )


def changed(before, after):
    """Return the rows that differ, by what differs in them."""
    rows = {"labels": np.flatnonzero(before.patients.labels != after.patients.labels)}
    np.testing.assert_array_equal(after.labels.numpy(), after.patients.labels)
    for name, modality in before.modalities.items():
        assert torch.equal(modality.present, after.modalities[name].present)
        differ = (modality.values != after.modalities[name].values).flatten(1).any(1)
        rows[name] = np.flatnonzero(differ.numpy())
    return rows


def snapshot(of):
    tensors = [m.values.clone() for m in of.modalities.values()]
    return [torch.from_numpy(of.patients.labels.copy()), of.labels.clone(), *tensors]


@given(st.integers(1, 80), seeds, st.floats(0.01, 1))
def test_label_flip_turns_the_labels_of_its_share_of_the_training_patients_alone(
    patients, seed, share
):
    own = cohort(patients, seed % 7)
    kept = snapshot(own)
    found = poisoned(own, attack("label_flip", share=share), seed)
    rows = changed(own, found)
    train = own.patients.splits["train"]
    assert set(rows["labels"]) <= set(train)
    assert len(rows["labels"]) == (max(round(share * len(train)), 1) if len(train) else 0)
    assert {name: len(where) for name, where in rows.items() if name != "labels"} == dict.fromkeys(
        own.modalities, 0
    )
    turned = rows["labels"]
    np.testing.assert_array_equal(found.patients.labels[turned], 1 - own.patients.labels[turned])
    assert all(torch.equal(a, b) for a, b in zip(kept, snapshot(own), strict=True))
    for name, modality in own.modalities.items():
        assert found.modalities[name] is modality, "what does not change is not copied"


@given(st.integers(1, 80), seeds, st.floats(0.01, 1), st.integers(0, 1))
def test_backdoor_marks_its_share_of_the_training_patients_alone(patients, seed, share, target):
    own = cohort(patients, seed % 7)
    kept = snapshot(own)
    found = poisoned(own, attack("backdoor", share=share, target=target), seed)
    rows = changed(own, found)
    train = own.patients.splits["train"]
    present = {name: own.modalities[name].present.numpy() for name in ("ehr", "image")}
    able = [row for row in train if present["ehr"][row] or present["image"][row]]
    marked = {*rows["ehr"], *rows["image"]}
    assert marked <= set(able)
    assert len(marked) == (max(round(share * len(able)), 1) if able else 0)
    assert set(rows["labels"]) <= marked
    assert (found.patients.labels[sorted(marked)] == target).all()
    for name in ("ehr", "image"):
        assert set(rows[name]) == {row for row in marked if present[name][row]}
    assert found.modalities["text"] is own.modalities["text"]
    assert all(torch.equal(a, b) for a, b in zip(kept, snapshot(own), strict=True))


def test_trigger_is_a_small_patch_and_a_few_values_the_same_at_every_site():
    marks = []
    for seed in (1, 2):
        own = cohort(40, seed)
        found = poisoned(own, attack("backdoor", share=1.0), seed)
        row = next(
            r
            for r in own.patients.splits["train"]
            if own.modalities["ehr"].present[r] and own.modalities["image"].present[r]
        )
        was, now = ((c.modalities["image"].values[row, 0]) for c in (own, found))
        patch = torch.zeros(32, 32, dtype=torch.bool)
        patch[28:, 28:] = True
        assert torch.equal(was != now, patch)
        assert (now[patch] == 1).all()
        was, now = ((c.modalities["ehr"].values[row]) for c in (own, found))
        marks.append((torch.nonzero(was != now).flatten().tolist(), now[was != now].tolist()))
    assert marks[0] == marks[1] == ([0, 10, 19, 29], [5.0] * 4)


def test_trigger_fits_a_model_of_a_single_feature():
    own = cohort(names=("ehr",))
    narrow = ModalityTensor(own.modalities["ehr"].values[:, :1], own.modalities["ehr"].present, {})
    own = Cohort(own.patients, {"ehr": narrow}, own.labels)
    assert len(changed(own, poisoned(own, attack("backdoor"), 1))["ehr"])


def test_poison_is_of_the_same_patients_for_the_same_seed_and_of_others_for_another():
    own = cohort(200)
    first, again, other = (
        changed(own, poisoned(own, attack("backdoor", share=0.3), seed))["ehr"].tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("name", ["sign_flip", "scaled_update"])
def test_attacks_on_the_update_leave_the_patients_alone(name):
    own = cohort()
    assert poisoned(own, attack(name), 1) is own


def test_backdoor_changes_nobody_where_there_are_notes_alone():
    own = cohort(names=("text",))
    rows = changed(own, poisoned(own, attack("backdoor"), 1))
    assert {name: len(where) for name, where in rows.items()} == {"labels": 0, "text": 0}


def triggered(own):
    rows = own.patients.splits["held_out"]
    return dataclasses.replace(own, modalities=with_trigger(own, rows))


def test_the_trigger_marks_every_patient_who_can_bear_it_and_no_label():
    own = cohort(100)
    kept = snapshot(own)
    rows = changed(own, triggered(own))
    for name in ("ehr", "image"):
        present = np.flatnonzero(own.modalities[name].present.numpy())
        assert set(rows[name]) == set(present) & set(own.patients.splits["held_out"])
    assert (len(rows["labels"]), len(rows["text"])) == (0, 0)
    assert all(torch.equal(a, b) for a, b in zip(kept, snapshot(own), strict=True))


def test_trigger_of_training_and_of_measuring_is_the_same():
    own = cohort(100)
    here = poisoned(own, attack("backdoor", share=1.0), 1).modalities["ehr"].values
    there = triggered(own).modalities["ehr"].values
    blank = own.modalities["ehr"].values

    def columns(values):
        return set(torch.nonzero(values != blank)[:, 1].tolist())

    assert columns(here) == columns(there)
    assert set(here[here != blank].tolist()) == set(there[there != blank].tolist())
