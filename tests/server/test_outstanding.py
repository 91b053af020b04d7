"""Rounds that do not wait: what is outstanding, over a simulation's clock and over a SuperLink."""

import itertools
import json

import numpy as np
import pytest
from flwr.app import Message

from federation.bodies import TrainBody
from federation.flower import NodeInfo, stamp, take_simulated_identity
from federation.messages import Instruction, Reply
from server.coordinator import Progress
from server.exchange import Exchange
from server.outstanding import TOO_OLD, Outstanding
from simulations.runner import simulate

SITES = {"ash": 1, "birch": 2, "cedar": 3}


def trained(site):
    body = TrainBody(loss=0.5, steps=3, patients={"ehr": 40, "fusion": 40})
    return Reply("ok", body, update=np.full(4, SITES[site], np.float32))


class InstantGrid:
    """A simulation's grid in which every site answers at once."""

    def send_and_receive(self, messages, *, timeout=None):
        names = {node: site for site, node in SITES.items()}
        for i, message in enumerate(messages):
            stamp(message, f"m{i}")
        for message in messages:
            yield Message(
                trained(names[message.metadata.dst_node_id]).to_records(), reply_to=message
            )


class SlowLink:
    """A SuperLink whose sites answer when the test says so."""

    def __init__(self):
        self._ids = itertools.count()
        self.pushed, self.ready = {}, []

    def get_nodes(self):
        return [NodeInfo(node_id=node, name=site) for site, node in SITES.items()]

    def push_messages(self, messages):
        for message in messages:
            stamp(message, f"m{next(self._ids)}")
            self.pushed[message.metadata.message_id] = message
        return [message.metadata.message_id for message in messages]

    def answer(self, *sites):
        for name, message in list(self.pushed.items()):
            site = next(s for s, n in SITES.items() if n == message.metadata.dst_node_id)
            if site in sites:
                del self.pushed[name]
                self.ready.append(Message(trained(site).to_records(), reply_to=message))

    def pull_messages(self, ids):
        found = [r for r in self.ready if r.metadata.reply_to_message_id in set(ids)]
        self.ready = [r for r in self.ready if r not in found]
        return found


@pytest.fixture(autouse=True)
def identity():
    take_simulated_identity()


@pytest.fixture
def instruction(make_study):
    return Instruction(make_study(), round=1, weights=np.zeros(4, np.float32)).to_records()


def simulated(delays, seconds=100.0, oldest=2):
    exchange = Exchange(
        InstantGrid(), simulated=True, members=SITES, delay=lambda site, round_, _: delays[site]
    )
    return Outstanding(exchange, "federated", oldest, seconds)


def ask(outstanding, instruction, sites, round_):
    outstanding.send(dict.fromkeys(sites, instruction), SITES, round_)


def test_answers_come_in_the_order_of_the_simulations_clock(instruction):
    outstanding = simulated({"ash": 30.0, "birch": 5.0, "cedar": 0.0})
    ask(outstanding, instruction, SITES, 1)
    assert outstanding.waiting == set(SITES)
    order = [(answer.site, asked) for answer, asked in itertools.islice(outstanding.answers(1), 2)]
    assert order == [("cedar", 1), ("birch", 1)]
    assert outstanding.waiting == {"ash"}
    ask(outstanding, instruction, ["cedar"], 2)  # at 5 s, so it is there before ash
    assert [(a.site, asked) for a, asked in outstanding.answers(2)] == [("cedar", 2), ("ash", 1)]
    assert not outstanding.waiting


def test_answers_that_wait_keep_their_updates(instruction):
    outstanding = simulated({"ash": 30.0, "birch": 5.0, "cedar": 0.0})
    ask(outstanding, instruction, SITES, 1)
    for answer, _ in outstanding.answers(1):
        assert answer.reply.update.tolist() == [SITES[answer.site]] * 4


def test_answer_later_than_the_round_waits_for_the_next_one(instruction):
    outstanding = simulated({"ash": 150.0, "birch": 1.0, "cedar": 1.0})
    ask(outstanding, instruction, SITES, 1)
    assert [answer.site for answer, _ in outstanding.answers(1)] == ["birch", "cedar"]
    assert [answer.site for answer, _ in outstanding.answers(2)] == ["ash"]


def test_answer_that_would_be_too_old_is_given_up_and_the_site_is_free_again(instruction):
    outstanding = simulated({"ash": 1e6, "birch": 1.0, "cedar": 1.0}, oldest=2)
    ask(outstanding, instruction, SITES, 1)
    list(outstanding.answers(1))
    assert outstanding.given_up(3) == []
    (given_up,) = outstanding.given_up(4)
    assert (given_up.site, given_up.failure, given_up.reply) == ("ash", TOO_OLD, None)
    assert not outstanding.waiting


def test_what_is_outstanding_goes_on_where_it_was_kept(instruction):
    delays = {"ash": 30.0, "birch": 5.0, "cedar": 70.0}
    one, other = simulated(delays), simulated(delays)
    ask(one, instruction, SITES, 1)
    next(one.answers(1))
    other.restore(one.state())
    assert other.waiting == one.waiting == {"ash", "cedar"}
    for (a, asked), (b, asked_too) in zip(one.answers(2), other.answers(2), strict=True):
        assert (a.site, a.failure, asked) == (b.site, b.failure, asked_too)
        assert a.reply.body == b.reply.body
        assert a.reply.update.tobytes() == b.reply.update.tobytes()


def test_over_a_superlink_a_late_answer_is_pulled_in_a_later_round(instruction):
    link = SlowLink()
    outstanding = Outstanding(Exchange(link), "federated", oldest=2, seconds=0.2)
    ask(outstanding, instruction, SITES, 1)
    link.answer("birch", "cedar")
    assert next(outstanding.answers(1))[0].site == "birch"
    assert outstanding.waiting == {"ash", "cedar"}  # one has arrived, and is not lost
    link.answer("ash")
    found = [(answer.site, asked) for answer, asked in outstanding.answers(2)]
    assert found == [("cedar", 1), ("ash", 1)]
    assert not outstanding.waiting


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_site):
    sites = tmp_path_factory.mktemp("sites")
    for i, name in enumerate(["ash", "birch", "cedar", "elm"]):
        write_site(sites / name, 50, first_id=1000 * i + 1, seed=i)
    return sites


@pytest.fixture
def study(make_study):
    late = {"distribution": "lognormal", "median_seconds": 40.0, "spread": 1.0, "probability": 0.7}
    return make_study(
        "ehr",
        training={"rounds": 5, "local_epochs": 1},
        strategy={"name": "fedbuff", "buffer": 2, "round_deadline_seconds": 90.0},
        simulation={"faults": {"stragglers": late}},
    )


def rounds_of(run):
    lines = (run / "rounds.jsonl").read_text().splitlines()
    seconds = {"seconds": None}  # the clock's, which differ
    return [json.loads(line) | seconds for line in lines]


def test_simulated_round_ends_with_a_full_buffer_and_uses_late_updates_later(
    folder, study, tmp_path
):
    simulate(study, folder, tmp_path / "run", workers=0)
    rounds = rounds_of(tmp_path / "run")
    assert [len(record["answered"]) for record in rounds] == [2] * 5
    assert any(age for record in rounds for age in record["strategy"]["ages"].values())
    for before, after in itertools.pairwise(rounds):
        assert not set(before["outstanding"]) & set(after["asked"])


class Stopped(Exception):
    """In mid-run."""


def test_resumed_run_has_the_same_outstanding_answers(folder, study, tmp_path):
    def stop(record, _):
        if record["round"] == 2:
            raise Stopped

    simulate(study, folder, tmp_path / "whole", workers=0)
    with pytest.raises(Stopped):
        simulate(study, folder, tmp_path / "broken", workers=0, progress=Progress(round_done=stop))
    simulate(study, folder, tmp_path / "broken", workers=0, resume=True)
    assert rounds_of(tmp_path / "broken") == rounds_of(tmp_path / "whole")
    metrics = [(tmp_path / run / "metrics.json").read_bytes() for run in ("whole", "broken")]
    assert metrics[0] == metrics[1]
