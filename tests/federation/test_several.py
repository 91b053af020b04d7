"""Several tasks of one model: each is what it would be alone, and patients are each their own."""

import copy

import numpy as np
import pytest
import torch

from federation.metrics.several import SeveralSummary
from federation.metrics.summaries import read_summary
from federation.models.build import build_model
from federation.models.losses import patient_losses
from federation.privacy.clipping import clipped_sum
from federation.study import Study
from federation.tasks import TASKS, SeveralTask
from federation.training import LossSection
from federation.vocabulary import agreed_vocabulary

ALONE = {
    "binary": {"label": "sick"},
    "multiclass": {"label": "grade", "classes": ["a", "b", "c"]},
    "multilabel": {"label": "found", "labels": ["x", "y"]},
    "survival": {"label": "time", "intervals": [10.0, 20.0, 40.0], "horizons": [20.0, 40.0]},
    "cox": {"label": "time", "intervals": [10.0, 20.0, 40.0], "model": "cox"},
}
NAN = float("nan")
PATIENTS = 24


def section(name):
    return {"kind": "survival" if name == "cox" else name, **ALONE[name]}


def several(*names, **more):
    return {"kind": "several", "tasks": {name: section(name) for name in names}, **more}


def drawn(task, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (PATIENTS,) if task.outputs == 1 else (PATIENTS, task.outputs)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("loss", [{}, {"name": "focal", "class_weight": "balanced"}])
def test_one_task_among_several_is_to_the_bit_what_it_is_alone(name, loss):
    alone, one = TASKS[section(name)["kind"]](**ALONE[name]), SeveralTask(**several(name))
    asked = LossSection() if section(name)["kind"] == "survival" else LossSection(**loss)
    labels = alone.probe_labels(PATIENTS)
    assert (one.outputs, one.label_shape) == (alone.outputs, alone.label_shape)
    both = []
    for task in (alone, one):
        logits = drawn(alone).requires_grad_()
        losses = task.minimised(labels, asked)(logits, labels)
        losses.mean().backward()
        scores = task.scores(logits.detach().double()).numpy()
        both.append((losses.detach(), logits.grad, task.summarise(scores, labels.numpy())))
    (losses, gradient, summary), (same, too, together) = both
    assert torch.equal(losses, same)
    assert torch.equal(gradient, too)
    assert together.tasks[name].to_json() == summary.to_json()
    assert one.explains(together)
    assert (one.happened(labels.numpy()) == alone.happened(labels.numpy())).all()


@pytest.fixture(scope="module")
def three(make_study):
    """A study of three tasks, and labels of which each patient lacks another one."""
    task = several("binary", "multiclass", "survival", loss_weights={"survival": 0.5})
    study = make_study(task=task)
    labels = study.task.probe_labels(PATIENTS)
    return study, labels


def alone_losses(study, logits, labels):
    """Each patient's loss by a loop over patients and tasks."""
    found = []
    for logit, label in zip(logits, labels, strict=True):
        total = torch.zeros(())
        for part in study.task.parts:
            own = label[part.labels]
            if own.isnan().any():
                continue
            wanted = own[0] if part.task.label_shape == () else own
            given = logit[part.logits][0] if part.task.outputs == 1 else logit[part.logits]
            one = part.task.losses(given[None], wanted[None], LossSection(), None)[0]
            total = total + study.task.loss_weights.get(part.name, 1.0) * one
        found.append(total)
    return torch.stack(found)


def test_loss_is_the_weighted_sum_of_what_is_known_of_a_patient(three):
    study, labels = three
    assert labels.isnan().any(1).sum() > PATIENTS / 2
    logits = drawn(study.task).requires_grad_()
    found, expected = patient_losses(study)(logits, labels), alone_losses(study, logits, labels)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, wanted)
    assert gradient.isfinite().all()
    for part in study.task.parts:
        unknown = labels[:, part.labels].isnan().any(1)
        assert (gradient[unknown][:, part.logits] == 0).all()


@pytest.mark.parametrize("mode", ["book_keeping", "functorch", "per_patient"])
def test_clipped_gradients_are_those_of_a_loop_over_patients(three, mode):
    study, labels = three
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    model = build_model(study, vocabulary)
    generator = torch.Generator().manual_seed(1)
    places = vocabulary.places
    rows = torch.randn(PATIENTS, places, 6, generator=generator).flatten(1)
    values, present = {"ehr": rows}, {"ehr": torch.ones(PATIENTS, dtype=torch.bool)}
    norm, expected = 0.05, torch.zeros(len(model.vector))
    again = copy.deepcopy(model.module)
    for k in range(PATIENTS):
        again.zero_grad()
        logits = again({"ehr": rows[k : k + 1]}, {"ehr": present["ehr"][k : k + 1]})
        alone_losses(study, logits, labels[k : k + 1]).sum().backward()
        own = torch.cat([p.grad.reshape(-1) for p in again.parameters()])
        expected += own * min(1.0, norm / float(own.norm()))
    clipped = clipped_sum(model, patient_losses(study), norm, mode)
    model.vector.grad.zero_()
    clipped.add(values, present, labels)
    torch.testing.assert_close(model.vector.grad, expected, rtol=1e-4, atol=1e-6)


def test_order_of_the_file_does_not_matter_and_the_whole_has_a_name(make_study):
    study = make_study(task=several("survival", "binary"))
    assert list(study.task.tasks) == ["binary", "survival"]
    assert study.fingerprint == make_study(task=several("binary", "survival")).fingerprint
    assert SeveralTask(**several("survival", "binary")).label == "time, sick"
    assert Study.model_validate_json(study.canonical) == study
    assert study.task.metrics[:2] == ("mean", "binary.auroc")
    assert study.task.lower_is_better("survival.integrated_brier")
    assert not study.task.lower_is_better("mean")


def test_weights_of_outcomes_are_each_task_s_own(make_study):
    weights = {"binary.positive": 3.0, "multiclass.b": 2.0}
    study = make_study(
        task=several("binary", "multiclass"), training={"loss": {"class_weight": weights}}
    )
    labels = torch.tensor([[1.0, NAN], [NAN, 1.0], [0.0, 0.0]])
    logits = drawn(study.task)[:3]
    plain = make_study(task=several("binary", "multiclass"))
    ratio = patient_losses(study)(logits, labels) / patient_losses(plain)(logits, labels)
    torch.testing.assert_close(ratio, torch.tensor([3.0, 2.0, 1.0]))


def test_outcomes_that_may_be_unknown_are_tasks_and_findings():
    task = SeveralTask(**several("binary", "multilabel", "survival"))
    assert dict(task.apart) == {
        "binary": slice(0, 1),
        "multilabel/x": slice(1, 2),
        "multilabel/y": slice(2, 3),
        "survival": slice(3, 5),
    }


def test_summary_is_exact_both_ways_and_says_what_it_withholds():
    task = SeveralTask(**several("binary", "multilabel"))
    labels = task.probe_labels(PATIENTS)
    scores = task.scores(drawn(task).double()).numpy()
    summary = task.summarise(scores, labels.numpy())
    assert read_summary(summary.to_json()).to_json() == summary.to_json()
    why = "withheld to protect fewer than 10 patients"
    held = summary.without({"binary": why, "multilabel/y": why})
    assert held.withheld == {"binary": why}
    assert held.tasks["multilabel"].withheld == {"y": why}
    assert read_summary(held.to_json()).to_json() == held.to_json()
    assert task.explains(held)
    fewer = SeveralSummary({"binary": summary.tasks["binary"]})
    assert not task.explains(fewer)
    for change in ({"tasks": {}}, {"withheld": {"binary": "Mrs A."}}, {"note": 1}, {"tasks": 1}):
        with pytest.raises(ValueError, match=r"task|reason|more"):
            read_summary({**summary.to_json(), **change})


def test_site_is_told_of_each_task():
    task = SeveralTask(**several("binary", "survival"))
    labels = np.array([[1, NAN, NAN], [0, 5, 1], [NAN, 9, 0]], np.float32)
    told = task.describe(labels)["tasks"]
    assert told["binary"] == {"label": "sick", "known": 2, "positives": 1, "prevalence": 0.5}
    assert (told["survival"]["known"], told["survival"]["events"]) == (2, 1)
    assert task.happened(labels).tolist() == [1, 1, 0]
