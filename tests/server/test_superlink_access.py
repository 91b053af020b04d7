"""From another machine a SuperLink answers sites only."""

import asyncio

import pytest

from server import superlink
from server.superlink import MOST_OF_A_LIST, MOST_OF_A_PART, MOST_OF_OURS, LocalOnly


async def _inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status(path: str, client: str | None, length: int = 0) -> int:
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "client": None if client is None else (client, 40000),
        "headers": [(b"content-length", str(length).encode())],
    }
    asyncio.run(LocalOnly(_inner, metrics=lambda online: "")(scope, receive, send))
    return sent[0]["status"]


OTHERS = ["control/register-node", "runtime/pull", "fleet", "fleetx/"]


@pytest.mark.parametrize("path", ["/health", "/docs", *(f"/v1/{path}" for path in OTHERS)])
def test_what_is_not_for_sites_is_refused_to_others(path):
    assert status(path, "192.0.2.7") == 403
    assert status(path, "2001:db8::7") == 403
    assert status(path, None) == 403
    assert status(path, "127.0.0.1") == status(path, "::1") == 200


def test_sites_are_let_in_from_anywhere():
    assert status("/v1/fleet/pull-messages", "192.0.2.7") == 200


@pytest.mark.parametrize(
    ("path", "client", "most"),
    [
        ("/v1/fleet/push-object", "192.0.2.7", MOST_OF_A_PART),
        ("/v1/fleet/push-messages", "192.0.2.7", MOST_OF_A_LIST),
        ("/v1/fleet/push-messages", "127.0.0.1", MOST_OF_A_LIST),
        ("/v1/runtime/push-messages", "127.0.0.1", MOST_OF_OURS),
    ],
)
def test_a_request_that_announces_more_than_it_may_hold_is_not_read(path, client, most):
    assert status(path, client, most) == 200
    assert status(path, client, most + 1) == 413
    assert status(path, client, 10 * 10**9) == 413


def test_a_request_that_goes_on_without_end_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(superlink, "MOST_OF_A_PART", 100)
    read = []

    async def reading(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            read.append(len(message["body"]))
        read.append(message["type"])

    async def endless():
        return {"type": "http.request", "body": b"x" * 30, "more_body": True}

    scope = {
        "type": "http",
        "path": "/v1/fleet/push-object",
        "client": ("192.0.2.7", 1),
        "headers": [],
    }
    asyncio.run(LocalOnly(reading, metrics=lambda online: "")(scope, endless, None))
    assert read == [30, 30, 30, "http.disconnect"]
