"""What a site lets a study spend: noise that fits, rounds that were planned, a cap that holds."""

import dataclasses

import pytest

from clients.budget import (
    MOST_NOISE_RATIO,
    UnfitTerms,
    cap,
    check_terms,
    note_unprotected,
    spend,
    spent_so_far,
    wanted_noise,
)
from clients.ledger import Ledger
from clients.site import load_site
from federation.errors import BudgetSpent
from federation.messages import Instruction
from federation.privacy.accounting import Segment, epsilon

PATIENTS = 200
WEIGHTS = "0" * 64


@pytest.fixture
def site(tmp_path, write_site):
    def site(**policy):
        return load_site(write_site(tmp_path / "bern", 20, policy=policy or None))

    return site


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite", "bern", "c", durable=False)


@pytest.fixture
def study(make_study):
    def study(privacy=None, **sections):
        terms = {"mechanism": "dp_sgd", "epsilon": 2.0, **(privacy or {})}
        training = {"rounds": 5, "batch_size": 20, **sections.pop("training", {})}
        return make_study(privacy=terms, training=training, **sections)

    return study


def asked(study, round_=1, run="a1", model="federated"):
    return Instruction(study, model=model, round=round_, run=run)


def whole_run(study, site, ledger, run="a1", seeded=False):
    return [
        spend(asked(study, round_, run), WEIGHTS, PATIENTS, site, ledger, seeded)
        for round_ in range(1, study.training.rounds + 1)
    ]


def test_a_whole_run_costs_the_study_s_epsilon_and_not_a_percent_less(study, site, ledger):
    private = study()
    segments = whole_run(private, site(), ledger)
    assert ledger.segments("a1", "federated") == [Segment(0.1, segments[0].noise_multiplier, 50)]
    assert segments == [Segment(0.1, wanted_noise(private, PATIENTS), 10)] * 5
    assert 1.98 < epsilon(segments, 1e-5) <= 2.0


def test_rdp_as_the_study_s_accountant_asks_for_more_noise(study):
    by_rdp = wanted_noise(study({"accountant": "rdp"}), PATIENTS)
    assert by_rdp > wanted_noise(study(), PATIENTS)


def test_rounds_beyond_the_planned_ones_are_refused(study, site, ledger):
    whole_run(study(), site(), ledger)
    with pytest.raises(BudgetSpent, match="5 rounds that the study small planned"):
        spend(asked(study(), 6), WEIGHTS, PATIENTS, site(), ledger, False)
    assert len(ledger.lines()) == 5


def test_participation_plans_for_fewer_rounds_with_less_noise_each(study, site, ledger):
    half = study({"participation": 0.5})
    assert wanted_noise(half, PATIENTS) < wanted_noise(study(), PATIENTS)
    for round_ in (1, 3, 4):
        spend(asked(half, round_), WEIGHTS, PATIENTS, site(), ledger, False)
    with pytest.raises(BudgetSpent, match="3 rounds"):
        spend(asked(half, 5), WEIGHTS, PATIENTS, site(), ledger, False)


def test_studies_one_after_another_get_more_noise_near_the_cap_and_then_nothing(
    study, site, ledger
):
    hospital, noises = site(epsilon_per_patient=4.5), []

    def until_refused():
        for run in range(100):
            noises.append(whole_run(study(), hospital, ledger, f"{run:x}")[0].noise_multiplier)

    with pytest.raises(BudgetSpent, match=r"policy\.epsilon_per_patient"):
        until_refused()
    assert len(noises) > 2
    wanted = wanted_noise(study(), PATIENTS)
    assert noises[0] == wanted
    assert wanted < noises[-1] <= MOST_NOISE_RATIO * wanted
    spent = ledger.segments()
    assert cap(hospital.policy).epsilon_spent(spent) <= 4.5
    assert epsilon(spent, 1e-5, "rdp") <= 4.5


def test_noise_stays_as_it_was_when_the_run_began_and_the_cap_ends_it(study, site, ledger):
    hospital = site(epsilon_per_patient=2.5)
    first = spend(asked(study()), WEIGHTS, PATIENTS, hospital, ledger, False)
    whole_run(study(), hospital, ledger, "b2")

    def to_the_end():
        for round_ in range(2, 6):
            later = spend(asked(study(), round_), WEIGHTS, PATIENTS, hospital, ledger, False)
            assert later == first

    with pytest.raises(BudgetSpent, match="is spent"):
        to_the_end()
    assert cap(hospital.policy).epsilon_spent(ledger.segments()) <= 2.5


def test_a_round_computed_again_is_a_new_spend_unless_its_noise_is_seeded(study, site, ledger):
    for _ in range(2):
        spend(asked(study()), WEIGHTS, PATIENTS, site(), ledger, seeded=True)
    assert len(ledger.lines()) == 1
    spend(asked(study()), "1" * 64, PATIENTS, site(), ledger, seeded=True)
    assert len(ledger.lines()) == 2, "from other weights it is another round"
    for _ in range(2):
        spend(asked(study(), run="b2"), WEIGHTS, PATIENTS, site(), ledger, seeded=False)
    assert len(ledger.lines("b2")) == 2


def test_models_of_one_run_are_planned_apart_and_paid_together(study, site, ledger):
    whole_run(study(), site(), ledger)
    spend(asked(study(), model="local:bern"), WEIGHTS, PATIENTS, site(), ledger, False)
    assert [segment.steps for segment in ledger.segments()] == [60]
    told = spent_so_far(asked(study(), model="local:bern"), PATIENTS, ledger)
    assert [(s.steps, s.rounds) for s in told.segments] == [(10, 1)]
    assert told.ledger.length == 6
    assert told.ledger.hash == ledger.head().hash


def test_another_study_under_the_same_run_gets_noise_of_its_own(study, site, ledger):
    loose = spend(asked(study({"epsilon": 6.0})), WEIGHTS, PATIENTS, site(), ledger, False)
    strict = spend(asked(study({"epsilon": 0.5})), WEIGHTS, PATIENTS, site(), ledger, False)
    assert strict.noise_multiplier > 5 * loose.noise_multiplier


def test_what_is_told_adds_the_rounds_of_a_run_up(study, site, ledger):
    whole_run(study(), site(), ledger, seeded=True)
    told = spent_so_far(asked(study()), PATIENTS, ledger)
    assert [(s.sampling_rate, s.steps, s.rounds) for s in told.segments] == [(0.1, 50, 5)]
    assert told.seeded and told.wanted_noise == told.segments[0].noise_multiplier


def test_other_patients_in_the_middle_of_a_run_are_noticed(study, site, ledger):
    spend(asked(study()), WEIGHTS, PATIENTS, site(), ledger, False)
    with pytest.raises(UnfitTerms, match="began with 200 training patients; now there are 190"):
        spend(asked(study(), 2), WEIGHTS, 190, site(), ledger, False)


def test_a_large_delta_or_batch_is_refused_with_the_field(study, site):
    check_terms(study(), PATIENTS, site())
    with pytest.raises(UnfitTerms, match=r"privacy.delta \(study\): 0.001 is above 0.1 / patients"):
        check_terms(study({"delta": 1e-3}), PATIENTS, site())
    with pytest.raises(UnfitTerms, match=r"policy\.delta: 0\.001 is above"):
        check_terms(study(), PATIENTS, site(delta=1e-3))
    with pytest.raises(UnfitTerms, match="batches of 201, and this site has 200"):
        check_terms(study(training={"batch_size": 201}), PATIENTS, site())


def test_a_batch_of_the_whole_site_is_rate_one(study, site, ledger):
    everybody = study(training={"batch_size": PATIENTS, "local_epochs": 2})
    (segment, *_) = whole_run(everybody, site(), ledger)
    assert (segment.sampling_rate, segment.steps) == (1.0, 2)


def test_training_without_protection_is_noted_once_for_each_model(make_study, ledger):
    plain = make_study()
    for round_ in (1, 2):
        note_unprotected(asked(plain, round_), WEIGHTS, PATIENTS, ledger)
    note_unprotected(asked(plain, 1, model="local:bern"), WEIGHTS, PATIENTS, ledger)
    assert [line.kind for line in ledger.lines()] == ["unprotected"] * 2
    assert ledger.segments() == []


def test_a_study_cannot_ask_for_more_than_the_cap_however_large_its_epsilon(study, site, ledger):
    greedy = dataclasses.replace(asked(study({"epsilon": 1000.0})))
    segment = spend(greedy, WEIGHTS, PATIENTS, site(epsilon_per_patient=1.0), ledger, False)
    assert epsilon([segment] * 5, 1e-5, "rdp") <= 1.0
