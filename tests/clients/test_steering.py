"""What strategies do in each step: pulls, held stretches, slower steps, and how gradients vary."""

import dataclasses

import numpy as np
import pytest
import torch
from steered import fits_of
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.fits import Pull
from clients.together import train_all
from clients.training import batches, train_alone
from federation.reduce import Part

OPTIMIZERS = {
    "sgd": {"name": "sgd", "lr": 0.1},
    "momentum": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.05},
    "adam": {"name": "adam", "lr": 0.01, "weight_decay": 0.05},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.5},
}


@pytest.fixture
def prepare(tmp_path, write_site, make_study):
    def prepare(optimizer="sgd", private=False, **training):
        more = {"privacy": {"mechanism": "dp_sgd", "epsilon": 1.0}} if private else {}
        table = {"batch_size": 10, "local_epochs": 2, "optimizer": OPTIMIZERS[optimizer]}
        study = make_study(
            "ehr", "text", split={"by": "given"}, training={**table, **training}, **more
        )
        return fits_of(tmp_path, write_site, study)

    return prepare


def pulled(fits, seed=0):
    """The fits with another pull each, of one strength."""
    rng = np.random.default_rng(seed)

    def pull(fit):
        direction, apart = rng.normal(0, 0.1, (2, len(fit.start))).astype(np.float32)
        return Pull(direction, 0.7, fit.start + apart)

    return [dataclasses.replace(fit, pull=pull(fit)) for fit in fits]


def torch_optimizer(vector, section):
    if section.name == "sgd":
        return torch.optim.SGD(
            [vector], section.lr, momentum=section.momentum, weight_decay=section.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[section.name]
    return kind([vector], section.lr, weight_decay=section.weight_decay)


def by_autograd(fit):
    """Train on the loss with the pull's terms in it; return the weights."""
    model, pull = fit.model, fit.pull
    model.load(fit.start)
    model.module.train()
    vector = torch.nn.Parameter(torch.from_numpy(fit.start.copy()))
    optimizer, generator = torch_optimizer(vector, fit.training.optimizer), fit.generator()
    direction, anchor = torch.from_numpy(pull.direction), torch.from_numpy(pull.anchor)
    for rows in batches(fit, generator):
        model.load(vector.detach().numpy())
        model.vector.grad.zero_()
        loss = binary_cross_entropy_with_logits(
            model.module(*fit.cohort.inputs(rows, model.device)), fit.cohort.labels[rows]
        )
        loss.backward()
        optimizer.zero_grad()
        extra = direction @ vector + pull.strength / 2 * (vector - anchor).square().sum()
        extra.backward()
        vector.grad += model.vector.grad
        optimizer.step()
    return vector.detach().numpy()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pulls_are_the_gradient_of_the_terms_they_stand_for(prepare, optimizer):
    _, fits = prepare(optimizer)
    for fit in pulled(fits):
        assert train_alone(fit).weights == pytest.approx(by_autograd(fit), abs=1e-5)


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_held_stretches_do_not_move_and_the_others_do(prepare, optimizer, together):
    bench, fits = prepare(optimizer)
    bench.together = together
    held = (Part("ehr", 0, 30), Part("fusion", len(fits[0].start) - 3, len(fits[0].start)))
    fits = [dataclasses.replace(fit, held=held, start=fit.start + 1) for fit in fits]
    for fit, result in zip(fits, train_all(fits, bench), strict=True):
        moved = result().weights != fit.start
        still = np.zeros(len(moved), bool)
        for part in held:
            still[part.start : part.stop] = True
        assert not moved[still].any()
        assert moved[~still].mean() > 0.1


def steered(fits):
    """Pulls, a held stretch, a factor for each site, and variances, all at once."""
    changed = [
        dataclasses.replace(fit, held=(Part("ehr", 5, 9),), slowed=slowed, watched=True)
        for fit, slowed in zip(fits, (0.25, 1.0, 0.04), strict=True)
    ]
    return pulled(changed)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_sites_steered_together_are_what_each_is_alone_in_any_company(prepare, optimizer, private):
    bench, fits = prepare(optimizer, private)
    fits = steered(fits)
    whole = [result() for result in train_all(fits, bench)]
    for fit, one in zip(fits, whole, strict=True):
        alone = train_alone(fit)
        assert one.weights == pytest.approx(alone.weights, abs=1e-5)
        if not private:
            assert one.gradient_variance == pytest.approx(alone.gradient_variance, rel=1e-3)
    for places in ([1], [2, 0]):
        some = train_all([fits[i] for i in places], bench)
        for place, result in zip(places, some, strict=True):
            assert np.array_equal(result().weights, whole[place].weights)


def test_slowed_steps_are_those_of_a_smaller_learning_rate(prepare):
    _, (fit, *_) = prepare()
    optimizer = fit.training.optimizer.model_copy(update={"lr": 0.1 * 0.36})
    training = fit.training.model_copy(update={"optimizer": optimizer})
    slower = train_alone(dataclasses.replace(fit, training=training))
    slowed = train_alone(dataclasses.replace(fit, slowed=0.36))
    assert slowed.weights == pytest.approx(slower.weights, abs=1e-6)
    assert not np.array_equal(slowed.weights, train_alone(fit).weights)


def test_a_private_step_is_pulled_after_its_noise(prepare):
    """The pull tells nothing of patients: it must be neither clipped nor covered by noise."""
    _, (fit, *_) = prepare(private=True)
    once = dataclasses.replace(fit, segment=dataclasses.replace(fit.segment, steps=1))
    (with_pull,) = pulled([once])
    pull = with_pull.pull
    apart = train_alone(once).weights - train_alone(with_pull).weights
    expected = 0.1 * (pull.direction + 0.7 * (fit.start - pull.anchor))
    assert apart == pytest.approx(expected, abs=1e-6)


def test_variance_is_the_squared_standard_error_of_the_mean_gradient(prepare):
    _, (fit, *_) = prepare(local_steps=7, local_epochs=None)
    result = train_alone(dataclasses.replace(fit, watched=True))
    model, x, gradients = fit.model, fit.start, []
    for rows in batches(fit, fit.generator()):
        model.load(x)
        model.vector.grad.zero_()
        logits = model.module(*fit.cohort.inputs(rows, model.device))
        binary_cross_entropy_with_logits(logits, fit.cohort.labels[rows]).backward()
        gradients.append(model.vector.grad.double().numpy().copy())
        x = x - np.float32(0.1) * model.vector.grad.numpy()
    expected = np.var(gradients, axis=0, ddof=1).sum() / 7
    assert result.gradient_variance == pytest.approx(expected, rel=1e-4)
    single = fit.training.model_copy(update={"local_steps": 1})
    one_step = dataclasses.replace(fit, watched=True, training=single)
    assert train_alone(one_step).gradient_variance is None
    assert train_alone(fit).gradient_variance is None


def test_gradients_that_leave_all_bounds_have_no_variance(prepare):
    bench, fits = prepare()
    start = np.full_like(fits[0].start, 1e30)
    fits = [dataclasses.replace(fit, start=start, watched=True) for fit in fits]
    assert train_alone(fits[0]).gradient_variance is None
    assert [result().gradient_variance for result in train_all(fits, bench)] == [None] * 3
