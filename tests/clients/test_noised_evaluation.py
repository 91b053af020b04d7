"""Evaluation with noise at a site: paid before it is drawn, planned in number, and no more told."""

from dataclasses import replace

import numpy as np
import pytest
from asking import Asked

from clients.budget import cap, planned_evaluations
from clients.ledger import segments_of, site_ledger
from clients.outbound import GateClosed, released
from clients.site import load_site
from clients.workbench import Workbench
from federation.bodies import EvaluateBody
from federation.messages import EVALUATE, Instruction, Reply
from federation.metrics.noised import BINS
from federation.models.build import build_model
from federation.privacy.accounting import epsilon
from federation.subgroups import LEVELS
from federation.vocabulary import agreed_vocabulary


def private(make_study, **sections):
    evaluation = {"noise": {"epsilon": 2.0}, "every": 1, **sections.pop("evaluation", {})}
    privacy = {"mechanism": "dp_sgd", "epsilon": 2.0}
    return make_study("ehr", privacy=privacy, evaluation=evaluation, **sections)


@pytest.fixture
def asked(tmp_path, write_site, make_study):
    """A site of 400 patients, an instruction, and what the site knows for itself."""

    def asked(policy=None, **sections):
        folder = write_site(tmp_path / "bern", 400, policy=policy)
        study = private(make_study, **sections)
        vocabulary = agreed_vocabulary(study.modalities.ehr)
        weights = build_model(study, vocabulary).weights()
        instruction = Instruction(
            study, vocabulary=vocabulary, weights=weights, split="held_out", run="a1"
        )
        return Asked(folder), instruction, load_site(folder)

    return asked


def lines(site):
    ledger = site_ledger(site, writable=False)
    found = ledger.lines()
    ledger.close()
    return found


def test_planned_evaluations_cost_the_study_s_epsilon_and_no_further_one_is_answered(asked):
    site, instruction, own = asked()
    study = instruction.study
    assert planned_evaluations(study, "tuning") == 3  # two rounds, and the threshold
    tuning = replace(instruction, split="tuning")
    for round_ in (1, 2, 0):
        assert site.ask(EVALUATE, replace(tuning, round=round_)).status == "ok"
    spent = segments_of(lines(own))
    assert [(s.sampling_rate, s.steps, s.noise) for s in spent] == [(1.0, 3, "discrete")]
    assert 1.9 < epsilon(spent, study.privacy.delta) <= 2.0
    other = replace(tuning, weights=instruction.weights + 1)
    refused = site.ask(EVALUATE, other)
    assert refused.status == "the privacy budget of the site's patients does not allow it"
    assert refused.body is None
    assert len(lines(own)) == 3


def test_every_level_is_counted_whoever_is_there_and_noise_is_of_the_told_scale(asked):
    site, instruction, own = asked()
    body = site.ask(EVALUATE, instruction).body
    assert {*body.cells, *body.withheld} == {
        "",
        *(f"{name}={level}" for name in own.settings.data.subgroups for level in LEVELS[name]),
    }
    (line,) = lines(own)
    assert (line.kind, line.model, line.steps) == ("evaluation", "federated:held_out", 3)
    assert (body.noise.counts, body.noise.evaluations, body.noise.seeded) == (3, 1, False)
    assert body.noise.scale == line.noise_multiplier
    told = body.noised()[""]
    workbench = Workbench()
    cohort = workbench.cohort(str(own.file), instruction.study, instruction.vocabulary)
    patients = len(cohort.patients.splits["held_out"])
    assert body.noise.patients == patients
    off = (told.n - patients) / (body.noise.scale * np.sqrt(2 * BINS))
    assert 0 < abs(off) < 6 or off == 0


def test_asked_twice_a_deployed_site_draws_and_pays_anew(asked):
    site, instruction, own = asked()
    first = site.ask(EVALUATE, instruction)
    again = site.ask(EVALUATE, instruction)
    assert first.status == "ok"
    assert again.status == "the privacy budget of the site's patients does not allow it"
    assert len(lines(own)) == 1


def test_cap_ends_it(asked):
    policy = {"epsilon_per_patient": 0.5}
    site, instruction, own = asked(policy, evaluation={"noise": {"epsilon": 50.0}})
    answered = site.ask(EVALUATE, instruction)
    assert answered.status == "the privacy budget of the site's patients does not allow it"
    assert answered.body is None
    spent = segments_of(lines(own))
    assert cap(own.policy).rdp(spent) <= cap(own.policy).budget


@pytest.mark.parametrize(
    "change",
    [{"model": "pooled"}, {"shared": True}, {"model": "existing_score"}, {"split": "train"}],
)
def test_nothing_else_is_scored(asked, change):
    site, instruction, own = asked()
    reply = site.ask(EVALUATE, replace(instruction, **change))
    assert (reply.status, reply.body) == ("not an instruction of this version", None)
    assert not (own.state / "ledger.sqlite").exists() or lines(own) == []


def test_gate_lets_neither_exact_counts_nor_unasked_noise_pass(asked, make_study):
    site, instruction, own = asked()
    body = site.ask(EVALUATE, instruction).body
    plain = make_study("ehr")
    with pytest.raises(GateClosed, match="noise"):
        released(Reply("ok", body), own.policy, plain)
    exact = EvaluateBody(cells={}, withheld={"": "fewer than 10 patients"})
    with pytest.raises(GateClosed, match="noise"):
        released(Reply("ok", exact), own.policy, instruction.study)


@pytest.mark.parametrize(
    ("sections", "word"),
    [
        ({"evaluation": {"baselines": ["local"]}}, "baselines"),
        ({"evaluation": {"existing_score": "X"}}, "existing_score"),
        ({"evaluation": {"predecessor": "0" * 64}}, "predecessor"),
        ({"evaluation": {"windows": {"number": 2}}}, "windows"),
        ({"evaluation": {"threshold": {"rule": "fixed", "value": 0.35}}}, "threshold"),
    ],
)
def test_what_the_plan_does_not_pay_for_is_refused_with_the_reason(make_study, sections, word):
    with pytest.raises(ValueError, match=word):
        private(make_study, **sections)


def test_noise_without_private_training_is_refused(make_study):
    with pytest.raises(ValueError, match="dp_sgd"):
        make_study("ehr", evaluation={"noise": {"epsilon": 1.0}})
