"""What the coordinator and a site say to each other: complete, strict and not to be fooled."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from federation.bodies import DescribeBody, EvaluateBody, PrepareBody, Status, TrainBody
from federation.messages import DESCRIBE, EVALUATE, PREPARE, TRAIN, Instruction, Reply
from federation.metrics.summary import ScoreSummary
from federation.reduce import Part, WeightedSum
from federation.vocabulary import CodeMoments, agreed_vocabulary

UPDATE = np.array([0.5, -1.25, 3e-39], np.float32)  # one of them subnormal

BODIES = {
    TRAIN: TrainBody(loss=0.1 + 0.2, steps=3, patients={"ehr": 20, "fusion": 20}),
    EVALUATE: EvaluateBody(
        cells={"": ScoreSummary.from_scores([0.25, 0.75], [0, 1]).to_json()},
        withheld={"sex=female": "withheld to protect fewer than 10 patients"},
    ),
    DESCRIBE: DescribeBody(
        patients={"train": 30, "tuning": "suppressed", "held_out": 0},
        modalities={"ehr": 30},
        excluded={"no label": "suppressed"},
        notices={},
        minimum_cell=10,
        score_bins="merged",
    ),
    PREPARE: PrepareBody(codes={"LAB//CRP": (20, 60, 0.1, 1 / 3)}),
}


def records_of(kind):
    update = UPDATE if kind == TRAIN else None
    return Reply("ok", BODIES[kind], update=update).to_records()


def with_body(kind, **changed):
    records = records_of(kind)
    body = {**json.loads(records["reply"]["body"]), **changed}
    records["reply"]["body"] = json.dumps(body)
    return records


def test_instruction_survives_the_journey(make_study):
    study = make_study("ehr", "text")
    for instruction in (
        Instruction(study),
        Instruction(study, "local:bern", 7, fold=True),
        Instruction(study, split="held_out", weights=UPDATE),
        Instruction(study, vocabulary=agreed_vocabulary(study.modalities.ehr)),
    ):
        again = Instruction.from_records(instruction.to_records())
        for field in dataclasses.fields(Instruction):
            sent, got = getattr(instruction, field.name), getattr(again, field.name)
            if field.name == "weights" and sent is not None:
                assert got.dtype == np.float32
                assert got.tobytes() == sent.tobytes()
            else:
                assert got == sent


@pytest.mark.parametrize("kind", BODIES)
def test_reply_survives_the_journey(kind):
    reply = Reply.from_records(records_of(kind), kind)
    assert reply.status == "ok"
    assert reply.body == BODIES[kind]
    assert (reply.update is not None) == (kind == TRAIN)
    if reply.update is not None:
        assert reply.update.tobytes() == UPDATE.tobytes()


def test_moments_survive_the_journey_to_the_last_bit():
    body = Reply.from_records(records_of(PREPARE), PREPARE).body
    assert body.moments() == {"LAB//CRP": CodeMoments(20, 60, 0.1, 1 / 3)}


@pytest.mark.parametrize("status", [s for s in get_args(Status) if s != "ok"])
def test_every_status_travels_without_a_body(status):
    reply = Reply.from_records(Reply(status).to_records(), TRAIN)
    assert (reply.status, reply.body, reply.update) == (status, None, None)


def tampered(study, change):
    records = Instruction(study, weights=UPDATE, split="tuning").to_records()
    change(records)
    return records


def _another_rate(records):
    document = json.loads(records["study"]["json"])
    document["training"]["optimizer"]["lr"] = 0.5
    records["study"]["json"] = json.dumps(document)


TAMPERINGS = {
    "another study under the old fingerprint": _another_rate,
    "another fingerprint": lambda r: r["study"].update({"fingerprint": "0" * 64}),
    "no fingerprint": lambda r: r["study"].pop("fingerprint"),
    "no study": lambda r: r.pop("study"),
    "study not JSON": lambda r: r["study"].update({"json": "{"}),
    "study with an unknown key": lambda r: r["study"].update({"json": '{"evil": 1}'}),
    "no task": lambda r: r.pop("task"),
    "no round": lambda r: r["task"].pop("round"),
    "round not a number": lambda r: r["task"].update({"round": "x"}),
    "unknown split": lambda r: r["task"].update({"split": "everybody"}),
    "vocabulary not JSON": lambda r: r["task"].update({"vocabulary": "["}),
    "vocabulary without codes": lambda r: r["task"].update({"vocabulary": "{}"}),
    "weights under another name": lambda r: r.update(
        {"weights": ArrayRecord({"other": Array(UPDATE)})}
    ),
    "numbers in place of weights": lambda r: r.update({"weights": MetricRecord({"flat": 1.0})}),
    "empty weights": lambda r: setattr(r["weights"]["flat"], "data", b""),
    "weights cut short": lambda r: setattr(
        r["weights"]["flat"], "data", r["weights"]["flat"].data[:-2]
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampered_instruction_is_refused(make_study, kind):
    with pytest.raises(ValueError):  # noqa: PT011  (any reason; none of another type)
        Instruction.from_records(tampered(make_study(), TAMPERINGS[kind]))


BAD_REPLIES = {
    "unknown status": (TRAIN, lambda: Reply("patient Jane Doe").to_records()),
    "ok without a body": (TRAIN, lambda: Reply("ok").to_records()),
    "ok without an update": (TRAIN, lambda: Reply("ok", BODIES[TRAIN]).to_records()),
    "failure with a body": (TRAIN, lambda: Reply("the site failed", BODIES[TRAIN]).to_records()),
    "body of another type": (EVALUATE, lambda: records_of(TRAIN)),
    "extra field": (TRAIN, lambda: with_body(TRAIN, note="Jane Doe")),
    "missing field": (TRAIN, lambda: with_body(TRAIN, patients=None)),
    "free text for a number": (TRAIN, lambda: with_body(TRAIN, loss="Jane Doe")),
    "free text for a count": (DESCRIBE, lambda: with_body(DESCRIBE, patients={"train": "Jane"})),
    "free text for a moment": (PREPARE, lambda: with_body(PREPARE, codes={"A": [1, 2, "J", 0]})),
    "short moments": (PREPARE, lambda: with_body(PREPARE, codes={"A": [1, 2, 3]})),
    "not a number": (TRAIN, lambda: with_body(TRAIN, loss=float("nan"))),
    "infinite": (PREPARE, lambda: with_body(PREPARE, codes={"A": [1, 2, float("inf"), 0]})),
    "negative steps": (TRAIN, lambda: with_body(TRAIN, steps=-1)),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_bad_reply_is_refused(kind):
    message_type, make = BAD_REPLIES[kind]
    with pytest.raises(ValueError):  # noqa: PT011
        Reply.from_records(make(), message_type)


def _not_a_config(records):
    records["reply"] = MetricRecord({"status": 1.0})


def _array_for_a_config(records):
    records["reply"] = ArrayRecord({"status": Array(UPDATE)})


DAMAGES = {
    "no reply": lambda r: r.pop("reply"),
    "numbers for the reply": _not_a_config,
    "array for the reply": _array_for_a_config,
    "no status": lambda r: r["reply"].pop("status"),
    "body not JSON": lambda r: r["reply"].update({"body": "{"}),
    "body not text": lambda r: r["reply"].update({"body": 3}),
    "body deeply nested": lambda r: r["reply"].update({"body": "[" * 100_000}),
    "numbers for the update": lambda r: r.update({"update": MetricRecord({"flat": 1.0})}),
    "text for the update": lambda r: r.update({"update": ConfigRecord({"flat": "x"})}),
    "empty update": lambda r: setattr(r["update"]["flat"], "data", b""),
    "pickle for the update": lambda r: setattr(r["update"]["flat"], "data", b"\x80\x04K\x01."),
    "update of unknown kind": lambda r: setattr(r["update"]["flat"], "stype", "torch"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_reply_is_refused_and_never_crashes_the_coordinator(kind):
    records = records_of(TRAIN)
    DAMAGES[kind](records)
    with pytest.raises(ValueError):  # noqa: PT011
        Reply.from_records(records, TRAIN)


def partial_of_two():
    total = WeightedSum.zeros((Part("ehr", 0, 2), Part("fusion", 2, 3)))
    for weight in (20, 30):
        total.add(UPDATE, {"ehr": weight, "fusion": weight})
    return total


def test_partial_sum_is_taken_from_a_trusted_host_alone():
    sent = Reply("ok", BODIES[TRAIN], update=UPDATE, partial=partial_of_two(), rejected="norm")
    trusted = Reply.from_records(sent.to_records(), TRAIN, folded=True)
    assert trusted.partial.values.tobytes() == partial_of_two().values.tobytes()
    for name in ("parts", "weights", "members"):
        assert getattr(trusted.partial, name) == getattr(partial_of_two(), name)
    assert trusted.rejected == "norm"
    stranger = Reply.from_records(sent.to_records(), TRAIN)
    assert stranger.partial is None
    assert stranger.rejected == ""


def test_a_partial_sum_cannot_stand_in_for_an_update():
    sent = Reply("ok", BODIES[TRAIN], partial=partial_of_two())
    with pytest.raises(ValueError, match="without an update"):
        Reply.from_records(sent.to_records(), TRAIN)
