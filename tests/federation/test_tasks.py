"""The tasks: losses against others' code, one patient at a time; what a study may combine."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from federation.models.losses import patient_losses
from federation.privacy.layers import UnfitForPrivacy, check_loss
from federation.tasks import TASKS
from federation.tasks.survival import cox_losses, interval_losses
from federation.training import LossSection

SECTIONS = {
    "binary": {},
    "multiclass": {"classes": ["a", "b", "c"]},
    "multilabel": {"labels": ["x", "y"]},
    "survival": {"intervals": [10, 20, 40]},
    "several": {
        "tasks": {
            "grade": {"kind": "multiclass", "label": "grade", "classes": ["a", "b", "c"]},
            "sick": {"label": "sick"},
            "time": {"kind": "survival", "label": "time", "intervals": [10, 20, 40]},
        }
    },
}
PLAIN = LossSection()


def task_of(kind, **options):
    return TASKS[kind](label="it", **SECTIONS[kind], **options)


def logits_of(task, patients=7, seed=0):
    shape = (patients,) if task.outputs == 1 else (patients, task.outputs)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_task_has_its_example_here():
    assert TASKS.keys() == SECTIONS.keys()


LOSSES = [{}, {"name": "focal", "gamma": 1.5}, {"smoothing": 0.2}]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_each_patient_s_own_and_scores_are_risks(make_study, kind, loss):
    if kind == "survival" and loss:
        with pytest.raises(ValidationError, match="its own likelihood"):
            make_study(task={"kind": kind, **SECTIONS[kind]}, training={"loss": loss})
        return
    study = make_study(task={"kind": kind, **SECTIONS[kind]}, training={"loss": loss})
    task = study.task
    logits, labels = logits_of(task), task.probe_labels(7)
    losses = patient_losses(study)
    check_loss(losses, logits, labels)
    assert (losses(logits, labels) >= 0).all()
    scores = task.scores(logits.double())
    assert ((scores >= 0) & (scores <= 1)).all()
    summary = task.summarise(scores.numpy(), labels.numpy())
    assert task.explains(summary)
    assert summary.n <= 7
    assert not any(task_of(k).explains(summary) for k in TASKS if k != kind)


def test_binary_loss_is_what_it_was():
    task = task_of("binary")
    logits, labels = logits_of(task), task.probe_labels(7)
    expected = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert torch.equal(task.losses(logits, labels, PLAIN, None), expected)


def test_class_loss_is_torch_s():
    task = task_of("multiclass")
    logits, labels = logits_of(task), task.probe_labels(7)
    weights = torch.tensor([1.0, 2.0, 0.5])
    found = task.losses(logits, labels, LossSection(), weights)
    expected = cross_entropy(logits, labels.long(), weight=weights, reduction="none")
    torch.testing.assert_close(found, expected)
    smoothed = task.losses(logits, labels, LossSection(smoothing=0.3), None)
    expected = cross_entropy(logits, labels.long(), label_smoothing=0.3, reduction="none")
    torch.testing.assert_close(smoothed, expected)


def test_finding_that_is_not_known_neither_trains_nor_counts():
    task = task_of("multilabel")
    logits = logits_of(task).requires_grad_()
    labels = torch.tensor([[1.0, float("nan")]] * 7)
    losses = task.losses(logits, labels, PLAIN, None)
    losses.sum().backward()
    assert (logits.grad[:, 1] == 0).all()
    expected = binary_cross_entropy_with_logits(logits[:, 0], labels[:, 0], reduction="none") / 2
    torch.testing.assert_close(losses, expected)
    summary = task.summarise(task.scores(logits).detach().numpy(), labels.numpy())
    assert {name: one.n for name, one in summary.outcomes.items()} == {"x": 7, "y": 0}


def test_focal_loss_weighs_down_who_is_predicted_well():
    task = task_of("binary")
    logits, labels = torch.tensor([3.0, -3.0]), torch.ones(2)
    plain = task.losses(logits, labels, PLAIN, None)
    focal = task.losses(logits, labels, LossSection(name="focal"), None)
    missing = 1 - logits.sigmoid()
    torch.testing.assert_close(focal, plain * missing**2)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_balanced_weights_make_outcomes_weigh_alike(kind):
    task, balanced = task_of(kind), LossSection(class_weight="balanced")
    if kind == "multiclass":
        labels = torch.tensor([0.0] * 8 + [1.0] * 2)
        weights = task.weights(labels, balanced)
        assert weights.tolist() == pytest.approx([10 / 16, 10 / 4, 1.0])
    else:
        labels = torch.tensor([[1.0, 0.0]] + [[0.0, 0.0]] * 3 + [[float("nan"), 0.0]])
        assert task.weights(labels, balanced).tolist() == [3.0, 1.0]
    given = LossSection(class_weight={task.weighs[1]: 4.0})
    assert task.weights(labels[:0], given).tolist()[1] == 4.0


def test_interval_loss_is_the_likelihood_written_out():
    ends, logits = (10.0, 20.0, 40.0), logits_of(task_of("survival"), 6)
    labels = torch.tensor(
        [[5, 1], [10, 1], [15, 0], [14, 0], [40, 1], [90, 0]], dtype=torch.float32
    )
    hazard, expected = logits.sigmoid(), []
    for one, (days, event) in zip(hazard, labels.tolist(), strict=True):
        likelihood, start = torch.tensor(1.0), 0.0
        for risk, end in zip(one, ends, strict=True):
            if event and start < days <= end:
                likelihood = likelihood * risk
            elif (event and days > end) or (not event and days >= (start + end) / 2):
                likelihood = likelihood * (1 - risk)
            start = end
        expected.append(-likelihood.log())
    torch.testing.assert_close(interval_losses(logits, labels, ends), torch.stack(expected))


def test_cox_loss_is_least_where_lifelines_finds_its_estimate():
    import pandas as pd
    from lifelines import CoxPHFitter

    rng = np.random.default_rng(0)
    x = rng.normal(size=150)
    days, events = rng.exponential(np.exp(-0.7 * x)), rng.random(150) < 0.7
    fitted = CoxPHFitter().fit(pd.DataFrame({"x": x, "t": days, "e": events}), "t", "e")
    labels = torch.tensor(np.stack([days, events], 1))
    slope = torch.tensor(float(fitted.params_["x"]), dtype=torch.float64, requires_grad=True)
    total = cox_losses(slope * torch.from_numpy(x), labels).sum()
    assert float(total.detach()) == pytest.approx(-fitted.log_likelihood_, rel=1e-6)
    (gradient,) = torch.autograd.grad(total, slope)
    assert abs(float(gradient)) < 1e-3


def test_cox_couples_patients_and_is_refused_under_privacy(make_study):
    cox = {"kind": "survival", "model": "cox", **SECTIONS["survival"]}
    study = make_study(task=cox | {"horizons": [20, 40]})
    risks = study.task.scores(torch.tensor([0.3, -1.0], dtype=torch.float64)).numpy()
    told = study.task.summarise(risks, np.array([[12.0, 1.0], [50.0, 0.0]], np.float32))
    assert study.task.explains(told)
    losses = patient_losses(study)
    labels = torch.tensor([[float(k), 1.0] for k in range(5)])
    with pytest.raises(UnfitForPrivacy, match="who else"):
        check_loss(losses, torch.linspace(-1, 1, 5), labels)
    private = {"mechanism": "dp_sgd", "epsilon": 1.0}
    with pytest.raises(ValidationError, match=r"at risk.*discrete"):
        make_study(task=cox, privacy=private)
    discrete = {"kind": "survival", **SECTIONS["survival"]}
    assert make_study(task=discrete, privacy=private).task.separable


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"task": {"kind": "multiclass", "classes": ["a", "b"]}}, "at least 3"),
        ({"task": {"kind": "multiclass", "classes": ["a", "b", "a"]}}, "given twice"),
        ({"task": {"kind": "multilabel", "labels": ["subject_id", "b"]}}, "every labels file"),
        ({"task": {"kind": "survival", "intervals": [20, 10]}}, "later than the one before"),
        ({"task": {"kind": "survival", "intervals": [9, 10], "horizons": [9.5]}}, "9.5 is not"),
        ({"training": {"loss": {"gamma": 1.0}}}, "option of name"),
        ({"training": {"loss": {"class_weight": {"negative": 2.0}}}}, "positive"),
        ({"selection": {"metric": "c_index", "keep": "best"}}, "auroc, auprc, brier"),
        (
            {"task": {"kind": "multilabel", "labels": ["a", "b"]},
             "evaluation": {"existing_score": "SCORE"}},
            "one yes-or-no outcome",
        ),
        ({"task": {"kind": "several", "tasks": {}}}, "at least 1"),
        ({"task": {"kind": "several", "tasks": {"a": {"label": "x"}, "b": {"label": "x"}}}},
         'two are of the label "x"'),
        ({"task": {"kind": "several", "tasks": {"a": {"label": "x"}}, "loss_weights": {"b": 1}}},
         'no task "b"; there is: a'),
        ({"task": {"kind": "several", "tasks": {"a": {"label": "x"}}},
          "selection": {"keep": "best"}}, "give one of mean, a.auroc"),
        ({"task": {"kind": "several", "tasks": {"a": {"label": "x"}}},
          "training": {"loss": {"class_weight": {"positive": 2.0}}}}, "it has: a.positive"),
        ({"task": {"kind": "several", "tasks": {"a": {"kind": "several"}}}}, "not one of|tag"),
        ({"task": {"kind": "several", "tasks": {"a": {"label": "x"}}},
          "evaluation": {"noise": {"epsilon": 1.0}}}, "one yes-or-no outcome"),
        ({"task": {"kind": "several", "tasks": {"a": {"label": "x"}}},
          "strategy": {"screening": {"judge": "bern", "most_harm": 0.1}}}, "Brier score"),
        (
            {"task": {"kind": "survival", "intervals": [9, 10]}, "selection": {"keep": "best"}},
            "c_index, integrated_brier",
        ),
        (
            {"task": {"kind": "multiclass", "classes": ["a", "b", "c"]},
             "personalisation": {"calibration": "platt"}},
            "one logit",
        ),
    ],
)  # fmt: skip
def test_study_that_cannot_be_is_refused_with_the_reason(make_study, sections, told):
    with pytest.raises(ValidationError, match=told):
        make_study(**sections)
