"""What a deployed site lets in: what a person approved, at its hours, so many rounds a day."""

from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from asking import AtTheDoor, instruction_for

from clients import approvals, door
from clients.approvals import audit_log
from clients.door import answer_at_the_door
from clients.site import load_site, open_site
from clients.workbench import Workbench
from federation.errors import UserError
from federation.messages import DESCRIBE, EVALUATE, TRAIN, Instruction, Reply

UNAPPROVED = "the study is not approved at the site"
OTHER_VERSION = "not an instruction of this version"
TOO_MANY = "more rounds than the site allows"
CLOSED = "outside the site's hours"


def events(folder: Path) -> list[str]:
    return [entry.event for entry in audit_log(load_site(folder)).entries()]


@pytest.fixture
def folder(tmp_path, write_site):
    return write_site(tmp_path / "bern", 60)


def with_policy(folder: Path, lines: str) -> None:
    file = folder / "site.toml"
    file.write_text(f"{file.read_text()}\n[policy]\n{lines}\n")


def test_without_approval_nothing_of_the_data_is_touched(folder, make_study, monkeypatch):
    def touched(*_):
        raise AssertionError("the data was read")

    monkeypatch.setattr(Workbench, "cohort", touched)
    monkeypatch.setattr(Workbench, "patients", touched)
    study = make_study("ehr")
    for kind in (DESCRIBE, TRAIN, EVALUATE):
        assert AtTheDoor(folder).ask(kind, instruction_for(study)) == Reply(UNAPPROVED)
    assert events(folder) == ["begun", *["received", "refused", "sent"] * 3]


def test_an_approved_study_is_answered_and_both_sides_of_it_are_recorded(folder, make_study):
    study = make_study("ehr")
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder)
    reply = asked.ask(TRAIN, instruction_for(study))
    assert reply.status == "ok"
    received, sent = audit_log(load_site(folder)).entries()[-2:]
    assert (received.told["kind"], received.told["round"]) == (TRAIN, 1)
    assert received.told["fingerprint"] == study.fingerprint
    assert (sent.event, sent.told["status"], sent.told["to"]) == (
        "sent",
        "ok",
        received.told["digest"],
    )
    assert sent.told["bytes"] > reply.update.nbytes


def test_another_study_under_the_same_name_needs_its_own_approval(folder, make_study):
    approvals.approve(make_study("ehr"), load_site(folder))
    other = make_study("ehr", training={"rounds": 99})
    assert AtTheDoor(folder).ask(DESCRIBE, instruction_for(other)).status == UNAPPROVED


def test_the_comparators_of_an_approved_study_are_part_of_it(folder, make_study):
    baselines = {"baselines": ["local", "single_modality"]}
    study = make_study("ehr", "text", evaluation=baselines, strategy={"name": "fedprox", "mu": 0.1})
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder)
    for form in (study.plain(), study.only("ehr"), study.only("text")):
        assert form.fingerprint != study.fingerprint
        assert asked.ask(DESCRIBE, Instruction(form)).status != UNAPPROVED
    assert asked.ask(DESCRIBE, Instruction(study.only("text").plain())).status == UNAPPROVED


def test_what_is_withdrawn_is_refused_again(folder, make_study):
    study, at = make_study("ehr"), load_site(folder)
    approvals.approve(study, at)
    approvals.withdraw(study, at)
    assert AtTheDoor(folder).ask(DESCRIBE, instruction_for(study)).status == UNAPPROVED


def test_an_approval_is_for_the_code_that_was_installed_then(folder, make_study, monkeypatch):
    study, at = make_study("ehr"), load_site(folder)
    monkeypatch.setattr(approvals, "version", lambda _: "0.0.9")
    approvals.approve(study, at)
    assert approvals.approval_of(study, at)
    monkeypatch.undo()
    assert AtTheDoor(folder).ask(DESCRIBE, instruction_for(study)).status == UNAPPROVED


def test_a_policy_may_need_no_approval(folder, make_study):
    with_policy(folder, "approve = false")
    assert AtTheDoor(folder).ask(DESCRIBE, instruction_for(make_study("ehr"))).status == "ok"


def test_a_log_that_was_changed_approves_nothing(folder, make_study):
    study, at = make_study("ehr"), load_site(folder)
    approvals.approve(make_study("ehr", training={"rounds": 7}), at)
    approvals.approve(study, at)
    log = audit_log(at).path
    lines = log.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"by":', '"By":')
    log.write_text("".join(lines))
    with pytest.raises(UserError, match="the chain is broken"):
        approvals.approve(study, at)
    status = AtTheDoor(folder).ask(DESCRIBE, instruction_for(study)).status
    assert status == "the site's files need attention"


def test_a_bundle_that_is_not_this_version_s_is_refused_whatever_it_asks(folder, make_study):
    study = make_study("ehr")
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder, expected_bundle=False)
    assert asked.ask(TRAIN, instruction_for(study)).status == OTHER_VERSION
    assert events(folder)[-3:] == ["received", "refused", "sent"]


def test_more_rounds_than_the_study_says_are_refused(folder, make_study):
    study = make_study("ehr", training={"rounds": 2})
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder)
    assert asked.ask(TRAIN, instruction_for(study, 2)).status == "ok"
    assert asked.ask(TRAIN, instruction_for(study, 3)).status == TOO_MANY


def test_rounds_of_one_day_are_counted_over_runs_and_models(folder, make_study):
    with_policy(folder, "approve = false\nmost_rounds_a_day = 2")
    study = make_study("ehr", training={"rounds": 5})
    now = [datetime.now()]
    asked = AtTheDoor(folder, now=lambda: now[0])
    assert asked.ask(TRAIN, instruction_for(study, 1)).status == "ok"
    assert asked.ask(TRAIN, instruction_for(study, 1)).status == "ok", "sent again"
    assert asked.ask(TRAIN, instruction_for(study, 1, run="cd34")).status == "ok"
    assert asked.ask(TRAIN, instruction_for(study, 2)).status == TOO_MANY
    assert asked.ask(DESCRIBE, instruction_for(study)).status == "ok"
    now[0] += timedelta(days=1)
    assert asked.ask(TRAIN, instruction_for(study, 2)).status == "ok"


def test_a_site_takes_part_at_its_hours(folder, make_study):
    with_policy(folder, 'approve = false\nhours = "19:00-06:00"')
    study = make_study("ehr")
    for hour, status in ((5, "ok"), (6, CLOSED), (12, CLOSED), (19, "ok")):
        asked = AtTheDoor(folder, now=lambda hour=hour: datetime(2026, 3, 1, hour))
        assert asked.ask(DESCRIBE, instruction_for(study)).status == status


def test_a_message_above_the_largest_is_not_looked_at(folder, make_study, monkeypatch):
    study = make_study("ehr")
    approvals.approve(study, load_site(folder))
    monkeypatch.setattr(door, "MOST_BYTES", 1000)
    reply = AtTheDoor(folder).ask(TRAIN, instruction_for(study))
    assert reply == Reply(OTHER_VERSION)
    assert events(folder)[-3:] == ["received", "refused", "sent"]


def test_messages_are_recorded_while_the_data_are_away(folder, make_study):
    study = make_study("ehr")
    approvals.approve(study, load_site(folder))
    (folder / "meds").rename(folder / "away")
    reply = AtTheDoor(folder).ask(DESCRIBE, instruction_for(study))
    assert reply == Reply("the site's files need attention")
    log = audit_log(open_site(folder)).entries()
    assert [entry.event for entry in log] == ["begun", "approved", "received", "sent"]
    assert log[-1].told["status"] == reply.status


def test_what_cannot_be_recorded_does_not_leave(folder, make_study):
    with_policy(folder, "approve = false")
    study = make_study("ehr")
    state = load_site(folder).state
    (state / "audit.jsonl").mkdir(parents=True)
    reply = AtTheDoor(folder).ask(DESCRIBE, instruction_for(study))
    assert reply == Reply("the site's files need attention")


def test_no_word_of_what_goes_wrong_in_the_app_leaves(folder, make_study):
    with_policy(folder, "approve = false")

    def failing(message, context):
        raise MemoryError("jane-doe-00417")

    asked = AtTheDoor(folder)
    asked.app = partial(answer_at_the_door, app=failing)
    assert asked.ask(DESCRIBE, instruction_for(make_study("ehr"))) == Reply("the site failed")
    assert b"jane-doe" not in asked.sent


def test_no_text_of_a_message_stands_in_the_log_but_names_and_digests(folder, make_study):
    """A coordinator's words could be a patient's name, sent by mistake."""
    asked = AtTheDoor(folder)
    secret = "jane-doe-00417"
    records = instruction_for(make_study("ehr")).to_records()
    records["task"]["run"] = secret
    records[secret] = records.pop("task")
    assert asked.ask_records(DESCRIBE, records).status == OTHER_VERSION
    text = audit_log(load_site(folder)).path.read_text()
    assert secret not in text
    assert '"kind":"query.describe"' in text


def test_the_words_a_person_reads_name_data_exits_cost_rounds_and_code(folder, make_study):
    study = make_study("ehr", "text", privacy={"mechanism": "dp_sgd", "epsilon": 3.0})
    text = "\n".join(approvals.in_plain_words(study, load_site(folder)))
    for expected in (
        study.fingerprint,
        "coded events and their values",
        "notes",
        "clipped and noised",
        "epsilon 3 at delta 1e-05",
        f"up to {study.training.rounds} training rounds",
        "the coordinator sends none",
    ):
        assert expected in text
    unprotected = "\n".join(approvals.in_plain_words(make_study("ehr"), load_site(folder)))
    assert "NO differential privacy" in unprotected


def test_stamped_messages_of_the_coordinator_are_told_apart_by_content(folder, make_study):
    from clients.door import digest_of

    one, other = (instruction_for(make_study("ehr"), n).to_records() for n in (1, 2))
    assert digest_of(one) == digest_of(instruction_for(make_study("ehr"), 1).to_records())
    assert digest_of(one)[0] != digest_of(other)[0]


def test_person_reads_what_a_strategy_does_and_keeps_at_the_site(folder, make_study):
    sgd = {"optimizer": {"name": "sgd", "lr": 0.1}}

    def words(**sections):
        study = make_study("ehr", training={"rounds": 1, **sgd}, **sections)
        return "\n".join(approvals.in_plain_words(study, load_site(folder)))

    scaffold = words(strategy={"name": "scaffold"})
    assert "keeps its control variate" in scaffold and "a mean gradient, not noised" in scaffold
    assert "loss of the coordinator's model" in words(strategy={"name": "qfedavg"})
    assert "loss of the coordinator's model" not in words(strategy={"name": "fedavg"})
    assert "gradients of training vary" in words(strategy={"weighting": "inverse_variance"})
    assert "goes on training" in words(personalisation={"fine_tune_epochs": 2})
