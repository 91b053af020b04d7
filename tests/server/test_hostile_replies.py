"""What a hostile site can send a coordinator: again, for another, in a shape of its own making."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federation.bodies import EvaluateBody, PrepareBody, SpentBody, TrainBody
from federation.compression import CompressionSection, rounded
from federation.flower import NodeInfo, stamp, take_simulated_identity
from federation.messages import EVALUATE, MOST_TEXT, Reply
from federation.metrics.grid import BINS, SCORES
from federation.metrics.noised import BINS as NOISED_BINS
from federation.metrics.noised import NoisedSummary, together
from federation.metrics.summary import ScoreSummary, merge
from federation.models.build import build_model
from federation.vocabulary import agreed_vocabulary
from server.course import Course
from server.exchange import UNREADABLE, Answer, Exchange
from server.scoring import read_evaluation
from server.task import Task

SITES = {"ash": 11, "birch": 12, "cedar": 13}
INT8 = {"kind": "int8"}


class Hostile:
    """Sites that answer at once; birch answers whatever it is told to, as often as it likes."""

    def __init__(self, answers):
        self.answers, self.sent, self.replies = answers, {}, []

    def get_nodes(self):
        return [NodeInfo(node_id=node, name=name) for name, node in SITES.items()]

    def push_messages(self, messages):
        by_node = {node: name for name, node in SITES.items()}
        for number, message in enumerate(messages):
            stamp(message, f"m{number}")
            self.sent[by_node[message.metadata.dst_node_id]] = message
        for site, message in self.sent.items():
            self.replies += self.answers(site, message, self.sent)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids):
        found = [r for r in self.replies if r.metadata.reply_to_message_id in ids]
        self.replies = [r for r in self.replies if r not in found]
        return found


@pytest.fixture
def model(make_study):
    take_simulated_identity()
    study = make_study("ehr", strategy={"compression": INT8})
    return build_model(study, agreed_vocabulary(study.modalities.ehr))


def honest(message, size, value=0.01):
    compression = CompressionSection(**INT8)
    update = rounded(np.full(size, value, np.float32), compression)
    body = TrainBody(loss=0.5, steps=1, patients={"ehr": 20, "fusion": 20})
    reply = Reply("ok", body, update=update, compression=compression)
    return Message(reply.to_records(), reply_to=message)


def train(make_study, model, birch):
    """Return a round's record and the mean update, of sites of which birch is hostile."""
    size = len(model.vector)

    def answers(site, message, sent):
        return birch(message, sent, size) if site == "birch" else [honest(message, size)]

    study = make_study("ehr", strategy={"compression": INT8, "round_deadline_seconds": 1})
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    course = Course(Task(Exchange(Hostile(answers)), study, vocabulary), model)
    found = course.train(SITES, 1)
    return found.record, found.updates.total.mean()


def with_arrays(message, size, arrays):
    reply = honest(message, size)
    reply.content["update"] = ArrayRecord(
        {
            name: Array(values.dtype.name, values.shape, "raw", values.tobytes())
            for name, values in arrays.items()
        }
    )
    return reply


def test_a_site_that_answers_again_counts_once(make_study, model):
    def birch(message, sent, size):
        return [honest(message, size), honest(message, size, 1.0), honest(message, size, 1.0)]

    record, mean = train(make_study, model, birch)
    assert record["answered"] == ["ash", "birch", "cedar"]
    np.testing.assert_allclose(mean, 0.01, atol=1e-3)


def test_an_answer_to_a_message_of_an_earlier_round_is_nobody_s(make_study, model):
    def birch(message, sent, size):
        reply = honest(message, size)
        reply.metadata.__dict__["_reply_to_message_id"] = "of-the-round-before"
        return [reply]

    record, _ = train(make_study, model, birch)
    assert record["answered"] == ["ash", "cedar"]
    assert record["failed"] == {"birch": "no reply before the deadline"}


@pytest.mark.parametrize("patients", [10**9, -1, 0.5, "many"])
def test_a_billion_patients_are_not_believed(make_study, model, patients):
    def birch(message, sent, size):
        reply = honest(message, size)
        told = json.loads(reply.content["reply"]["body"])
        reply.content["reply"]["body"] = json.dumps({**told, "patients": {"ehr": patients}})
        return [reply]

    record, mean = train(make_study, model, birch)
    assert record["failed"] == {"birch": UNREADABLE}
    np.testing.assert_allclose(mean, 0.01, atol=1e-3)


CRAFTED = {
    "a vast top_k": (
        {
            "places": np.zeros(1, np.uint32),
            "values": np.zeros(1, np.float32),
            "size": np.array([2**50]),
        },
        "failed",
        UNREADABLE,
    ),
    "scales of another size": (
        {"int8": np.zeros(3000, np.int8), "exponents": np.zeros(1, np.int8)},
        "failed",
        UNREADABLE,
    ),
    "text for numbers": ({"flat": np.array(["jane-doe"])}, "failed", UNREADABLE),
    "another model's": ({"fp16": np.zeros(7, np.float16)}, "rejected", "wrong shape"),
    "infinite scales": (
        {"int8": np.ones(10, np.int8), "exponents": np.full(1, 127, np.int8)},
        "rejected",
        "wrong shape",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_an_update_of_the_site_s_own_making_is_refused_and_the_round_goes_on(
    make_study, model, name
):
    arrays, where, why = CRAFTED[name]

    def birch(message, sent, size):
        return [with_arrays(message, size, arrays)]

    record, mean = train(make_study, model, birch)
    assert record["answered"] == ["ash", "cedar"]
    assert record[where] == {"birch": why}
    np.testing.assert_allclose(mean, 0.01, atol=1e-3)


@pytest.mark.parametrize(
    ("exponent", "why"), [(127, "not finite"), (120, "out of range"), (-126, "")]
)
def test_crafted_scales_are_screened_as_any_update(make_study, model, exponent, why):
    def birch(message, sent, size):
        blocks = -(-size // 1024)
        arrays = {"int8": np.ones(size, np.int8), "exponents": np.full(blocks, exponent, np.int8)}
        return [with_arrays(message, size, arrays)]

    record, _ = train(make_study, model, birch)
    assert record["rejected"] == ({"birch": why} if why else {})


def scores(patients):
    return ScoreSummary.from_scores(np.linspace(0.1, 0.9, patients), np.arange(patients) % 2)


def evaluated(cells, **more):
    return {"cells": cells, "withheld": {}, **more}


def with_counts(number):
    """A summary of so many patients in one bin, all its sums in order."""
    table, middle = np.zeros((2, BINS), np.int64), float(SCORES[7])
    table[0, 7] = number
    return ScoreSummary(table, number * middle, number * middle**2, 0.0).to_json()


HONEST = scores(40).to_json()
NOISE = {"scale": 2.0, "wanted_scale": 2.0, "counts": 1, "evaluations": 1, "patients": 40}


def noised(number):
    table = np.zeros((2, NOISED_BINS), np.int64)
    table[0, 3] = number
    cells = {"": NoisedSummary(table, 4.0).to_json()}
    return evaluated(cells, noise={**NOISE, "seeded": False})


EVALUATIONS = {
    "a billion patients": evaluated({"": with_counts(10**9)}),
    "a window of nobody": evaluated({"": HONEST, "window=1": ScoreSummary.empty().to_json()}),
    "windows that nobody asked for": evaluated({"": HONEST, "window=1": HONEST}),
    "text for an input": evaluated(
        {"": HONEST, "window=1": HONEST},
        inputs={"window=1": {"Jane Doe": {"below": 20, "within": 20}}},
    ),
    "noise that nobody asked for": noised(40),
    "no number": evaluated({"": {**HONEST, "score_sum": float("nan")}}),
    "sums that use up what rounding may add": evaluated(
        {"": {**HONEST, "score_square_sum": HONEST["score_sum"] + 3e-5}}
    ),
    "depth without end": evaluated({"": json.loads("[" * 150 + "]" * 150)}),
}


def read(document, study):
    records = RecordDict({"reply": ConfigRecord({"status": "ok", "rejected": ""})})
    records["reply"]["body"] = json.dumps(document)
    try:
        reply = Reply.from_records(records, EVALUATE)
    except ValueError:
        return UNREADABLE
    try:
        read_evaluation(Answer("birch", reply, ""), study)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_of_the_site_s_own_making_is_not_read(make_study, name):
    study = make_study("ehr")
    assert read(evaluated({"": HONEST}), study) == ""
    assert read(EVALUATIONS[name], study) == UNREADABLE


def test_counts_that_noise_cannot_explain_are_not_read(make_study):
    private = {"mechanism": "dp_sgd", "epsilon": 2.0}
    evaluation = {"noise": {"epsilon": 1.0}, "every": 0}
    ehr = {"modalities": {"ehr": {"width": 8, "reference_ranges": {"LAB//CRP": [0, 10]}}}}
    study = make_study("ehr", privacy=private, evaluation=evaluation, **ehr)
    assert read(noised(40), study) == ""
    assert read(noised(2**31 - 1), study) == UNREADABLE


def test_sums_of_what_sites_may_send_can_always_be_made():
    """However many of them go to the edge of what is accepted."""
    most = NoisedSummary(np.full((2, NOISED_BINS), 2**31 - 1), 9e11)
    assert together([most] * 3).n == 3 * most.n
    edge = {**HONEST, "score_square_sum": HONEST["score_sum"] + 4e-8}
    assert merge([ScoreSummary.from_json(edge)] * 20).n == 800


def test_a_reply_longer_than_any_is_not_parsed(monkeypatch):
    def parsed(*_):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(EvaluateBody, "model_validate_json", parsed)
    told = {"status": "ok", "rejected": "", "body": " " * (MOST_TEXT + 1)}
    with pytest.raises(ValueError, match="too long"):
        Reply.from_records(RecordDict({"reply": ConfigRecord(told)}), EVALUATE)


def test_a_ledger_of_a_million_different_terms_is_not_composed():
    one = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, "rounds": 1}
    terms = [{**one, "noise_multiplier": 1 + n / 1e6} for n in range(2000)]
    told = {"wanted_noise": 1.0, "seeded": False, "ledger": {"length": 1, "hash": "0" * 64}}
    assert SpentBody.model_validate({**told, "segments": terms[:1000]})
    with pytest.raises(ValueError, match="at most"):
        SpentBody.model_validate({**told, "segments": terms})


def test_text_is_no_code_of_a_vocabulary():
    for code in ("Jane Doe, born 3 May", "LAB//A\n", "x" * 121, "<script>"):
        with pytest.raises(ValueError, match="pattern"):
            PrepareBody(codes={code: (20, 0, 0.0, 0.0)})
