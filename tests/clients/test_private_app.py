"""A site under DP-SGD, asked with Flower messages: what it pays, what it says, what it refuses."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from asking import Asked

from clients import together
from clients.ledger import site_ledger
from clients.site import load_site
from clients.workbench import Workbench
from federation.bodies import LedgerHead
from federation.messages import DESCRIBE, EVALUATE, PREPARE, TRAIN, Instruction
from federation.models.build import build_model
from federation.privacy.noise import Seeded
from federation.vocabulary import agreed_vocabulary

BUDGET = "the privacy budget of the site's patients does not allow it"
WITNESSED = "the site's privacy ledger does not extend the one that was witnessed"
UNFIT = "the study's privacy terms do not fit the site"


class Rehearsing(Workbench):
    """A workbench that seeds, as a simulation's does."""

    def randomness(self, seed, *purpose):
        return Seeded(seed, *purpose)


def instruction_for(study, round_=1, **more):
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    weights = build_model(study, vocabulary).weights()
    known = {"run": "ab12", "round": round_, "weights": weights} | more
    return Instruction(study, vocabulary=vocabulary, **known)


def entries(folder):
    return site_ledger(load_site(Path(folder))).entries()


@pytest.fixture
def site(tmp_path, write_site):
    return lambda patients=100, **more: write_site(tmp_path / "bern", patients, **more)


@pytest.fixture
def study(make_study):
    def study(*modalities, **sections):
        privacy = {"mechanism": "dp_sgd", "epsilon": 3.0, **sections.pop("privacy", {})}
        return make_study(*modalities, privacy=privacy, **sections)

    return study


def test_a_round_is_in_the_ledger_and_the_reply_says_what_it_cost(site, study):
    folder = site(images=True)
    reply = Asked(folder).ask(TRAIN, instruction_for(study("ehr", "image", "text")))
    assert reply.status == "ok"
    assert np.isfinite(reply.update).all() and reply.update.any()
    (entry,) = entries(folder)
    patients = entry.line.patients
    assert (entry.line.run, entry.line.round, entry.line.seeded) == ("ab12", 1, False)
    (told,) = reply.body.spent.segments
    assert told.sampling_rate == 16 / patients == entry.line.sampling_rate
    assert (told.steps, told.rounds) == (entry.line.steps, 1)
    assert reply.body.spent.ledger == LedgerHead(length=1, hash=entry.hash)


def test_nothing_that_the_noise_does_not_cover_leaves(site, study):
    folder = site(images=True)
    for file in sorted((folder / "dicom").iterdir())[5:]:
        file.unlink()
    asked = Asked(folder)
    instruction = instruction_for(study("ehr", "image", "text"))
    reply = asked.ask(TRAIN, instruction)
    patients = entries(folder)[0].line.patients
    assert reply.body.loss is None
    # The site has images of five patients and does not offer notes: only the latter shows.
    everybody = {"ehr": patients, "image": patients, "text": 0}
    assert reply.body.patients == everybody
    told = asked.ask(DESCRIBE, instruction)
    assert told.body.modalities == {"ehr": "suppressed", "image": "suppressed", "text": 0}
    assert (told.body.notices, told.body.counted) == ({}, False)
    assert told.body.patients["train"] == patients
    assert asked.ask(PREPARE, instruction).body is None


def test_training_patients_are_never_scored_for_the_coordinator(site, study):
    asked = Asked(site())
    reply = asked.ask(EVALUATE, instruction_for(study(), split="train"))
    assert (reply.status, reply.body) == ("not an instruction of this version", None)
    assert asked.ask(EVALUATE, instruction_for(study(), split="tuning")).status == "ok"


def test_a_message_that_comes_again_gets_the_same_reply_and_costs_nothing(site, study):
    folder, instruction = site(), instruction_for(study())
    first = Asked(folder).ask(TRAIN, instruction)
    again = Asked(folder).ask(TRAIN, instruction)
    assert np.array_equal(first.update, again.update)
    assert first.body == again.body
    assert len(entries(folder)) == 1


def test_a_stored_reply_is_sent_again_with_the_ledger_s_present_head(site, study):
    folder, first, other = site(), instruction_for(study()), instruction_for(study(), run="cd34")
    Asked(folder).ask(TRAIN, first)
    later = Asked(folder).ask(TRAIN, other).body.spent.ledger
    assert Asked(folder).ask(TRAIN, first).body.spent.ledger == later
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_stored_reply_costs_another_round_and_no_more(site, study, damage):
    folder, instruction = site(), instruction_for(study(training={"rounds": 3}))
    Asked(folder).ask(TRAIN, instruction)
    (file,) = (folder / "state/replies").glob("*.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes({"cut": content[:-30], "flipped": content, "empty": b""}[damage])
    assert Asked(folder).ask(TRAIN, instruction).status == "ok"
    assert len(entries(folder)) == 2


def test_one_message_at_the_same_time_from_many_sides_costs_the_planned_rounds_at_most(site, study):
    folder, instruction = site(), instruction_for(study(training={"rounds": 1}))
    sides = [Asked(folder) for _ in range(4)]
    for side in sides:  # all have read the data before the first one pays
        side.ask(DESCRIBE, instruction)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda side: side.ask(TRAIN, instruction), sides))
    assert {reply.status for reply in replies} <= {"ok", BUDGET}
    assert len(entries(folder)) == 1


def test_weights_beyond_those_of_any_honest_model_are_refused_unpaid(site, study):
    folder = site()
    crafted = instruction_for(study()).weights
    crafted[0] = 2e6
    reply = Asked(folder).ask(TRAIN, instruction_for(study(), weights=crafted))
    assert reply.status == "not an instruction of this version"
    assert entries(folder) == []


def test_other_weights_or_another_round_is_another_spend(site, study):
    folder, asked = site(), study(training={"rounds": 10})
    bench = Asked(folder)
    bench.ask(TRAIN, instruction_for(asked))
    moved = instruction_for(asked).weights + np.float32(0.1)
    bench.ask(TRAIN, instruction_for(asked, weights=moved))
    bench.ask(TRAIN, instruction_for(asked, 2))
    assert len(entries(folder)) == 3


def test_two_sites_runs_of_equal_patients_differ_by_their_noise(tmp_path, write_site, study):
    """No seed of the study, or of anybody, leads to the noise of a deployed site."""
    instruction, updates = instruction_for(study()), []
    write_site(tmp_path / "bern", 100)
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "bern", tmp_path / name)
        updates.append(Asked(tmp_path / name).ask(TRAIN, instruction).update)
    assert not np.array_equal(*updates)


def test_seeded_rounds_repeat_to_the_bit_and_are_paid_once(site, study):
    folder, instruction = site(), instruction_for(study())
    first = Asked(folder, Rehearsing()).ask(TRAIN, instruction)
    again = Asked(folder, Rehearsing()).ask(TRAIN, instruction)
    assert np.array_equal(first.update, again.update)
    assert first.body == again.body
    assert first.body.spent.seeded
    assert len(entries(folder)) == 1


def test_a_crash_between_the_line_and_the_reply_overstates(site, study, monkeypatch):
    folder, instruction = site(), instruction_for(study(training={"rounds": 3}))

    def crash(*arguments):
        raise RuntimeError("the machine went down")

    with monkeypatch.context() as broken:
        broken.setattr(together, "train_alone", crash)
        assert Asked(folder).ask(TRAIN, instruction).status == "the site failed"
    assert len(entries(folder)) == 1
    reply = Asked(folder).ask(TRAIN, instruction)
    assert reply.status == "ok"
    assert [s.rounds for s in reply.body.spent.segments] == [2]


def test_rounds_end_with_the_budget_and_the_log_says_why(site, study, caplog):
    folder = site(policy={"epsilon_per_patient": 0.5})
    tight = study(privacy={"epsilon": 0.5}, training={"rounds": 2})
    asked = Asked(folder)
    for round_ in (1, 2):
        assert asked.ask(TRAIN, instruction_for(tight, round_)).status == "ok"
    another = instruction_for(tight, run="cd34")
    assert asked.ask(TRAIN, another).status == BUDGET
    assert "policy.epsilon_per_patient" in caplog.text
    assert len(entries(folder)) == 2


def test_a_restored_ledger_is_refused_before_any_data_is_read(site, study, monkeypatch):
    folder, many = site(), study(training={"rounds": 5})
    ledger = folder / "state" / "ledger.sqlite"
    Asked(folder).ask(TRAIN, instruction_for(many, 1))
    backup = ledger.read_bytes()
    reply = Asked(folder).ask(TRAIN, instruction_for(many, 2))
    seen = reply.body.spent.ledger
    ledger.write_bytes(backup)
    monkeypatch.setattr(Workbench, "cohort", lambda *_: pytest.fail("data was read"))
    assert Asked(folder).ask(TRAIN, instruction_for(many, 3, witness=seen)).status == WITNESSED
    assert len(entries(folder)) == 1


def test_a_ledger_that_went_on_is_the_witnessed_one(site, study):
    folder, many = site(), study(training={"rounds": 5})
    first = Asked(folder).ask(TRAIN, instruction_for(many, 1)).body.spent.ledger
    Asked(folder).ask(TRAIN, instruction_for(many, 2))
    assert Asked(folder).ask(TRAIN, instruction_for(many, 3, witness=first)).status == "ok"


def test_a_copied_ledger_is_noticed_by_what_was_written_elsewhere(tmp_path, write_site, study):
    many = study(training={"rounds": 5})
    write_site(tmp_path / "bern", 100)
    Asked(tmp_path / "bern").ask(TRAIN, instruction_for(many, 1))
    shutil.copytree(tmp_path / "bern", tmp_path / "copy")
    reply = Asked(tmp_path / "bern").ask(TRAIN, instruction_for(many, 2))
    Asked(tmp_path / "copy").ask(TRAIN, instruction_for(many, 2))
    witness = reply.body.spent.ledger
    asked = Asked(tmp_path / "copy").ask(TRAIN, instruction_for(many, 3, witness=witness))
    assert asked.status == WITNESSED


@pytest.mark.parametrize("kind", ["corrupt", "of another site"])
def test_a_ledger_that_cannot_be_used_is_refused_before_any_data_is_read(
    tmp_path, write_site, study, monkeypatch, kind
):
    folder = write_site(tmp_path / "bern", 100)
    Asked(folder).ask(TRAIN, instruction_for(study()))
    ledger = folder / "state" / "ledger.sqlite"
    if kind == "corrupt":
        ledger.write_bytes(b"no database" * 500)
    else:
        other = write_site(tmp_path / "basel", 100)
        Asked(other).ask(TRAIN, instruction_for(study()))
        shutil.copy(other / "state" / "ledger.sqlite", ledger)
    monkeypatch.setattr(Workbench, "cohort", lambda *_: pytest.fail("data was read"))
    reply = Asked(folder).ask(TRAIN, instruction_for(study(), 2))
    assert reply.status == "the site's files need attention"


@pytest.mark.parametrize(
    ("sections", "policy"),
    [
        ({"training": {"batch_size": 90}}, {}),
        ({"privacy": {"epsilon": 1e-9}}, {}),
        ({"privacy": {"delta": 0.01}}, {}),
        ({}, {"delta": 0.01}),
    ],
)
def test_terms_that_do_not_fit_are_refused_and_nothing_is_spent(site, study, sections, policy):
    folder = site(policy=policy)
    assert Asked(folder).ask(TRAIN, instruction_for(study(**sections))).status == UNFIT
    assert entries(folder) == []


def test_a_site_that_requires_privacy_takes_part_in_dp_sgd_and_not_in_central(
    site, study, make_study
):
    folder = site(policy={"require_privacy": True})
    central = make_study(
        privacy={"mechanism": "central", "epsilon": 1.0}, strategy={"weighting": "uniform"}
    )
    reply = Asked(folder).ask(TRAIN, instruction_for(central))
    assert reply.status == "refused by the site's policy"
    assert Asked(folder).ask(TRAIN, instruction_for(study())).status == "ok"


def test_central_and_plain_training_stand_in_the_ledger_as_unprotected(site, make_study):
    folder = site()
    Asked(folder).ask(TRAIN, instruction_for(make_study()))
    central = make_study(
        privacy={"mechanism": "central", "epsilon": 1.0}, strategy={"weighting": "uniform"}
    )
    Asked(folder).ask(TRAIN, instruction_for(central, run="cd34"))
    assert [entry.line.kind for entry in entries(folder)] == ["unprotected"] * 2
