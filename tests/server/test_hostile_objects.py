"""What a hostile site can put beneath a reply, in the objects of which Flower makes a message."""

import json
import time

import numpy as np
import pytest
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    PullObjectResponse,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from federation import flower
from federation.bodies import TrainBody
from federation.flower import bound_messages, take_simulated_identity
from federation.messages import TRAIN, Instruction, Reply
from server.exchange import NO_REPLY, UNREADABLE, Exchange

SITES = {"ash": 11, "birch": 12}
SIZE = 3000
NOT_THERE = b""


class Runtime:
    """A SuperLink with two sites that answer at once; birch's objects are changed on their way."""

    def __init__(self, change):
        self.change, self.objects, self.replies = change, {}, {}

    def PushMessages(self, request):  # noqa: N802
        trees = request.message_object_trees
        self.asked = [tree.object_id for tree in trees]
        wanted = {name for tree in trees for name in ids(tree)}
        return PushAppMessagesResponse(
            message_ids=self.asked, objects_to_push=wanted, session_id="s"
        )

    def PushObject(self, request):  # noqa: N802
        self.objects[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def PullMessages(self, request):  # noqa: N802
        (asked,) = request.message_ids
        reply = self.replies.setdefault(asked, self.answer(asked))
        if reply is None:
            return PullAppMessagesResponse()
        self.replies[asked] = None
        proto = message_to_proto(remove_content_from_message(reply))
        return PullAppMessagesResponse(
            messages_list=[proto], message_object_trees=[get_object_tree(reply)]
        )

    def PullObject(self, request):  # noqa: N802
        content = self.objects[request.object_id]
        return PullObjectResponse(
            object_found=True, object_available=bool(content), object_content=content
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802
        return ConfirmMessageReceivedResponse()

    def answer(self, asked):
        message = inflate_object_from_contents(asked, dict(self.objects))
        flower.stamp(message, asked)
        update = np.arange(SIZE, dtype=np.float32)
        body = TrainBody(loss=0.5, steps=1, patients={"ehr": 20})
        reply = Message(Reply("ok", body, update=update).to_records(), reply_to=message)
        flower.stamp(reply, reply.object_id)
        hostile = message.metadata.dst_node_id == SITES["birch"]
        for name, one in get_all_nested_objects(reply).items():
            content = one.deflate()
            kind = get_object_head_values_from_object_content(content)[0]
            self.objects[name] = self.change(kind, content) if hostile else content
        return reply


def ids(tree):
    return [tree.object_id, *(name for child in tree.children for name in ids(child))]


@pytest.fixture
def ask(make_study):
    take_simulated_identity()
    bound_messages()

    def asked(change, seconds=20.0):
        grid = HttpGrid(token="t")
        grid._client = Runtime(change)
        grid.set_run(Run.create_empty(1))
        instruction = Instruction(make_study("ehr"), weights=np.zeros(4, np.float32))
        records = dict.fromkeys(SITES, instruction.to_records())
        found = {a.site: a for a in Exchange(grid).ask(TRAIN, records, SITES, seconds)}
        honest = found["ash"]
        assert honest.failure == ""
        assert honest.reply.update.tolist() == list(range(SIZE))
        return found["birch"]

    return asked


def with_body(content: bytes, body: bytes) -> bytes:
    kind, children, _ = get_object_head_values_from_object_content(content)
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def body_of(content: bytes) -> bytes:
    return content.split(b"\0", 1)[1]


def array_with(**changes):
    def change(content):
        return with_body(content, json.dumps({**json.loads(body_of(content)), **changes}).encode())

    return change


CHANGES = {
    "no JSON in a record of arrays": ("ArrayRecord", lambda c: with_body(c, b"{")),
    "a record that names no array": ("ArrayRecord", lambda c: with_body(c, b'{"flat": "x"}')),
    "garbage for a table": ("ConfigRecord", lambda c: with_body(c, b"\xff" * 40)),
    "garbage for records": ("RecordDict", lambda c: with_body(c, b"[]")),
    "garbage for a message": ("Message", lambda c: with_body(c, b"\xff" * 40)),
    "something else for a message": ("Message", lambda c: c.replace(b"Message", b"RecordDict", 1)),
    "an unknown kind": ("ArrayChunk", lambda c: c.replace(b"ArrayChunk", b"Chunk", 1)),
    "no head": ("RecordDict", lambda c: b"x" * 100),
    "a shape of words": ("Array", array_with(shape=["many"])),
    "a chunk that is not there": ("Array", array_with(arraychunk_ids=[7])),
    "no list of chunks": ("Array", array_with(arraychunk_ids=None)),
    "a number for a type": ("Array", array_with(dtype=5)),
    "an array of arrays": ("ArrayChunk", lambda c: with_body(c, b"{}").replace(b"Chunk", b"", 1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_objects_that_make_no_message_are_one_site_s_failure(ask, name):
    kind, change = CHANGES[name]
    answer = ask(lambda found, content: change(content) if found == kind else content)
    assert answer.failure == UNREADABLE


def test_a_chunk_that_stands_a_thousand_times_in_an_array_is_not_joined(ask, monkeypatch):
    monkeypatch.setattr(flower, "MOST_BYTES", 2**20)
    bomb = array_with(arraychunk_ids=[0] * 1000, shape=[SIZE * 1000])
    answer = ask(lambda kind, content: bomb(content) if kind == "Array" else content)
    assert answer.failure == UNREADABLE


def test_a_message_that_is_large_in_small_parts_is_given_up(ask, monkeypatch):
    monkeypatch.setattr(flower, "MOST_BYTES", 10 * SIZE)
    answer = ask(lambda kind, content: content + b" " * 50_000 if kind == "ArrayChunk" else content)
    assert answer.failure == UNREADABLE


def test_a_reply_that_never_comes_whole_is_waited_for_until_the_deadline_alone(ask):
    began = time.monotonic()
    answer = ask(lambda kind, content: NOT_THERE if kind == "ArrayChunk" else content, seconds=1.5)
    assert answer.failure == NO_REPLY
    assert time.monotonic() - began < 10
