"""A coordinator holds the update of one site at a time, however many have answered."""

import gc
import weakref

import numpy as np
import pytest
from flwr.app import Message

from federation.bodies import TrainBody
from federation.flower import stamp, take_simulated_identity
from federation.messages import TRAIN, Instruction, Reply
from federation.models.build import build_model
from federation.vocabulary import agreed_vocabulary
from server.course import Course
from server.exchange import Exchange
from server.task import Task

SITES = {"ash": 11, "birch": 12, "cedar": 13, "elm": 14}


class Deployed:
    """All sites have answered when they are asked; it notes what is still held at each pull."""

    def __init__(self, parameters):
        self.parameters, self.sent, self.given, self.held = parameters, {}, [], []

    def get_nodes(self):
        from federation.flower import NodeInfo

        return [NodeInfo(node_id=node, name=name) for name, node in SITES.items()]

    def push_messages(self, messages):
        for number, message in enumerate(messages):
            stamp(message, f"m{number}")
            self.sent[f"m{number}"] = message
        return list(self.sent)

    def pull_messages(self, ids):
        (asked,) = ids
        gc.collect()
        self.held.append(sum(given() is not None for given in self.given))
        update = np.full(self.parameters, 0.01, np.float32)
        body = TrainBody(loss=0.5, steps=1, patients={"ehr": 20, "fusion": 20})
        reply = Message(Reply("ok", body, update=update).to_records(), reply_to=self.sent[asked])
        self.given.append(weakref.ref(reply.content["update"]["flat"]))
        return [reply]


@pytest.fixture
def study(make_study):
    take_simulated_identity()
    return make_study("ehr")


def test_each_reply_is_let_go_before_the_next_is_fetched(study):
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    model = build_model(study, vocabulary)
    grid = Deployed(len(model.vector))
    course = Course(Task(Exchange(grid), study, vocabulary), model)
    found = course.train(SITES, 1)
    assert found.record["answered"] == sorted(SITES)
    assert grid.held == [0, 0, 0, 0]


def test_answers_are_given_out_one_by_one_too(study):
    grid = Deployed(4)
    instruction = Instruction(study, weights=np.zeros(4, np.float32)).to_records()
    for answer in Exchange(grid).ask(TRAIN, dict.fromkeys(SITES, instruction), SITES, 5.0):
        assert answer.reply.update.tolist() == [np.float32(0.01)] * 4
        del answer
    assert grid.held == [0, 0, 0, 0]
