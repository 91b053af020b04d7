"""Messages of Flower's that travel in two copies, and what is stored of those of sites."""

import threading
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import flower
from federation.flower import BoundedStore, bound_messages

CHUNK = 5 * 2**20


@pytest.fixture(autouse=True, scope="module")
def bound():
    bound_messages()


def contents_of(array):
    return {name: one.deflate() for name, one in get_all_nested_objects(array).items()}


def array_of(data):
    return Array("uint8", (len(data),), "raw", data)


def test_an_array_comes_back_whole_in_two_copies():
    data = np.random.default_rng(1).bytes(6 * CHUNK + 17)
    contents, name = contents_of(array_of(data)), array_of(data).object_id
    size = len(data)
    del data
    tracemalloc.start()
    whole = inflatable_utils.inflate_object_from_contents(name, contents).data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(whole) == size
    assert peak < 2.1 * size


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=6), st.binary(max_size=5))
def test_arrays_are_those_that_flower_makes(blocks, rest):
    data = b"".join(block * CHUNK for block in blocks[:2]) + rest  # equal chunks travel once
    array = array_of(data)
    back = inflatable_utils.inflate_object_from_contents(array.object_id, contents_of(array))
    assert back == array


def test_no_more_parts_are_made_than_hands_are_free_to_send():
    made, sent, most = [], [], []
    gate = threading.Semaphore(0)

    def parts():
        for number in range(6):
            made.append(number)
            most.append(len(made) - len(sent))
            gate.release()
            yield f"{number}", bytes([number])

    def send(name, content):
        gate.acquire()
        sent.append((name, content))

    inflatable_utils.push_object_contents_from_iterable(parts(), send)
    assert sorted(sent) == [(f"{n}", bytes([n])) for n in range(6)]
    assert max(most) <= flower.AT_ONCE + 1


def test_a_part_that_cannot_be_sent_ends_the_sending():
    sent = []

    def send(name, content):
        sent.append(name)
        raise ConnectionError("the line is cut")

    with pytest.raises(ConnectionError):
        inflatable_utils.push_object_contents_from_iterable(
            ((f"{n}", b"") for n in range(100)), send
        )
    assert len(sent) <= 2 * flower.AT_ONCE


def request(session, size):
    return PushObjectRequest(session_id=session, object_id="x", object_content=b"x" * size)


def test_of_a_site_s_message_no_more_is_stored_than_it_may_be_large():
    kept = []

    def store(request, state):
        stored = request.session_id in state.sessions
        kept.extend([request.session_id] if stored else [])
        return PushObjectResponse(stored=stored)

    state = SimpleNamespace(sessions={"a", "b"})
    bounded = BoundedStore(store, most=100)
    assert [bounded(request("a", 40), state).stored for _ in range(4)] == [True, True, False, False]
    assert bounded(request("b", 100), state).stored, "another message has room of its own"
    assert not bounded(request("", 1), state).stored, "what belongs to no message is not counted"
    for number in range(2 * flower.MOST_OPEN):  # sessions that nobody opened push no count out
        bounded(request(f"made up {number}", 1), state)
    assert not bounded(request("a", 40), state).stored
    assert kept == ["a", "a", "b"]
