"""No more is asked of a deployed site than the study plans, by whatever coordinator."""

import shutil

import numpy as np
import pytest
from asking import AtTheDoor, instruction_for

from clients import approvals
from clients.answers import ANSWERS, Answers, Question
from clients.approvals import audit_log
from clients.outbound import TakesNoPart
from clients.site import load_site
from federation.messages import (
    DESCRIBE,
    EVALUATE,
    PREPARE,
    TRAIN,
    Instruction,
    Reply,
    model_digest,
)
from federation.vocabulary import fitted_vocabulary

UNPLANNED = "more questions than the study plans"


@pytest.fixture
def folder(tmp_path, write_site):
    return write_site(tmp_path / "bern", 60)


@pytest.fixture
def study(make_study, folder):
    study = make_study("ehr", training={"rounds": 4}, evaluation={"every": 2})
    approvals.approve(study, load_site(folder))
    return study


def other_weights(instruction, by):
    return instruction.weights + np.float32(by)


def grow(folder, write_site):
    """The hospital has more patients now."""
    shutil.rmtree(folder / "meds")
    write_site(folder, 75)


def test_counts_that_are_asked_for_again_are_those_of_the_first_time(
    folder, make_study, write_site
):
    ehr = {"width": 8, "vocabulary": "prepared"}
    study = make_study("ehr", modalities={"ehr": ehr})
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder)
    first = asked.ask(PREPARE, Instruction(study, run="a1"))
    assert first.body.codes["LAB//CRP"][0] > 10
    vocabulary = fitted_vocabulary(study.modalities.ehr, [first.body.moments()])
    one = Instruction(study, run="a1", vocabulary=vocabulary)
    described = asked.ask(DESCRIBE, one)
    grow(folder, write_site)
    assert AtTheDoor(folder).ask(PREPARE, Instruction(study, run="b2")) == first
    assert AtTheDoor(folder).ask(DESCRIBE, one) == described
    approvals.approve(study, load_site(folder))  # a person allows it anew
    later = AtTheDoor(folder).ask(PREPARE, Instruction(study, run="b2"))
    assert later.body.codes["LAB//CRP"][0] > first.body.codes["LAB//CRP"][0]


def test_a_run_has_one_vocabulary(folder, make_study):
    study = make_study("ehr", modalities={"ehr": {"width": 8, "vocabulary": "prepared"}})
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder)
    moments = asked.ask(PREPARE, Instruction(study, run="a1")).body.moments()
    whole = fitted_vocabulary(study.modalities.ehr, [moments])
    one = fitted_vocabulary(study.modalities.ehr, [{"LAB//CRP": moments["LAB//CRP"]}])
    assert whole.canonical != one.canonical
    assert asked.ask(DESCRIBE, Instruction(study, run="a1", vocabulary=whole)).status == "ok"
    other = Instruction(study, run="a1", vocabulary=one)
    assert asked.ask(DESCRIBE, other).status == UNPLANNED


def test_each_place_of_the_plan_scores_three_models_and_repeats_what_it_said(folder, study):
    asked = AtTheDoor(folder)
    one = instruction_for(study, 2, split="tuning")
    first = asked.ask(EVALUATE, one)
    assert first.status == "ok"
    for by, status in ((0.1, "ok"), (0.2, "ok"), (0.3, UNPLANNED)):
        other = instruction_for(study, 2, split="tuning", weights=other_weights(one, by))
        assert AtTheDoor(folder).ask(EVALUATE, other).status == status
    assert AtTheDoor(folder).ask(EVALUATE, one) == first
    refused = audit_log(load_site(folder)).entries()[-5:-2]
    assert ("refused", UNPLANNED) in [(e.event, e.told.get("status")) for e in refused]


@pytest.mark.parametrize(
    ("round_", "split", "shared"),
    [
        (1, "tuning", False),  # evaluation.every = 2
        (2, "tuning", True),  # this site is no judge
        (2, "held_out", False),
        (6, "tuning", False),  # the study has four rounds
        (-2, "tuning", False),
    ],
)
def test_an_evaluation_out_of_plan_is_refused(folder, study, round_, split, shared):
    instruction = instruction_for(study, round_, split=split, shared=shared)
    assert AtTheDoor(folder).ask(EVALUATE, instruction).status == UNPLANNED


def test_finished_model_is_not_scored_once_more_as_the_shared_one_of_a_study_without(folder, study):
    asked = AtTheDoor(folder)
    for shared, status in ((False, "ok"), (True, UNPLANNED)):
        one = instruction_for(study, 0, split="held_out", shared=shared)
        assert asked.ask(EVALUATE, one).status == status


def test_second_model_is_scored_only_if_the_study_names_it(folder, make_study):
    ehr = {"modalities": {"ehr": {"width": 8}}, "strategy": {"minimum_sites": 1}}
    weights = instruction_for(make_study(**ehr)).weights
    named = model_digest(weights)
    study = make_study(**ehr, evaluation={"predecessor": named, "baselines": ["local"]})
    approvals.approve(study, load_site(folder))
    for by, status in ((0.0, "ok"), (0.1, UNPLANNED)):
        second = weights + np.float32(by)
        one = instruction_for(study, 0, split="held_out", reference=second)
        assert AtTheDoor(folder).ask(EVALUATE, one).status == status
    elsewhere = instruction_for(study, 0, split="tuning", reference=weights)
    assert AtTheDoor(folder).ask(EVALUATE, elsewhere).status == UNPLANNED


def test_another_model_s_name_opens_no_other_place(folder, study):
    asked = AtTheDoor(folder)
    assert asked.ask(TRAIN, instruction_for(study, 1, model="federated-2")).status == UNPLANNED
    named = instruction_for(study, 0, model="only:ehr", split="held_out")
    assert asked.ask(EVALUATE, named).status == UNPLANNED


def test_a_round_is_not_trained_from_ever_other_weights(folder, study):
    one = instruction_for(study, 1)
    found = [
        AtTheDoor(folder).ask(TRAIN, instruction_for(study, 1, weights=other_weights(one, by)))
        for by in (0.0, 0.1, 0.2, 0.3)
    ]
    assert [reply.status for reply in found] == ["ok", "ok", "ok", UNPLANNED]


def test_an_approval_covers_so_many_runs_and_a_new_one_as_many_again(folder, make_study):
    site = folder / "site.toml"
    site.write_text(site.read_text() + "\n[policy]\nmost_runs = 2\n")
    study = make_study("ehr")
    approvals.approve(study, load_site(folder))
    asked = AtTheDoor(folder)

    def runs(*names):
        return [asked.ask(DESCRIBE, Instruction(study, run=name)).status for name in names]

    assert runs("a1", "b2", "c3", "a1")[2] == UNPLANNED
    assert runs("b2") == runs("a1") != [UNPLANNED]
    approvals.approve(study, load_site(folder))
    assert runs("c3") != [UNPLANNED]
    assert "in at most 2 runs" in "\n".join(approvals.in_plain_words(study, load_site(folder)))


def test_the_judge_of_updates_scores_one_model_for_each_site(folder, make_study):
    strategy = {"screening": {"judge": "bern", "most_harm": 0.1}, "minimum_sites": 1}
    study = make_study("ehr", strategy=strategy)
    approvals.approve(study, load_site(folder))
    one = instruction_for(study, 1, split="tuning", shared=True)
    for by in range(5):
        weights = other_weights(one, by / 10)
        judged = instruction_for(study, 1, split="tuning", shared=True, weights=weights)
        assert AtTheDoor(folder).ask(EVALUATE, judged).status == "ok"


def test_a_question_counts_though_its_answer_was_never_given(tmp_path):
    answers = Answers(tmp_path / "answers.sqlite")
    for asked in "abc":
        assert answers.claim(Question("place", asked, 3, EVALUATE)) is None
    with pytest.raises(TakesNoPart, match="more questions"):
        Answers(tmp_path / "answers.sqlite").claim(Question("place", "d", 3, EVALUATE))
    assert answers.claim(Question("elsewhere", "d", 3, EVALUATE)) is None


def test_a_damaged_file_answers_nothing(folder, study):
    AtTheDoor(folder).ask(DESCRIBE, Instruction(study, run="a1"))
    (load_site(folder).state / ANSWERS).write_bytes(b"not a database" * 100)
    reply = AtTheDoor(folder).ask(DESCRIBE, Instruction(study, run="a1"))
    assert reply == Reply("the site's files need attention")
