"""What a hostile site can send a coordinator: again, for another, in a shape of its own making."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from federation.bodies import TrainBody
from federation.compression import CompressionSection, rounded
from federation.flower import NodeInfo, stamp, take_simulated_identity
from federation.messages import Reply
from federation.models.build import build_model
from federation.vocabulary import agreed_vocabulary
from server.course import Course
from server.exchange import Exchange
from server.task import Task

SITES = {"ash": 11, "birch": 12, "cedar": 13}
UNREADABLE = "the reply could not be read"
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
