"""Flower's SuperLink, whose interfaces other than the sites' own answer to this machine alone.

One port serves the sites (Fleet), the coordinator (Control) and the executor (Runtime). Flower's
open version does not ask who uses the Control interface: whoever could reach it could register
sites and submit runs. So a request from another machine passes here only if it is a site's.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from federation.flower import online_nodes, superlink_behind
from server.control import KIT, load_kit
from server.metrics import CONTENT_TYPE, exposition

FLEET, METRICS = "/v1/fleet/", "/metrics"
PARTS = f"{FLEET}push-object"
MOST_OF_A_PART = 2**26
"""Bytes of a request that brings a part of a message; arrays come in parts of 5 MiB."""
MOST_OF_A_LIST = 2**17
"""Of any other of a site's: the longest lists the parts of a message, 70 bytes for each."""
MOST_OF_OURS = 2**31
"""Of a request from this machine."""


class LocalOnly:
    """Answers 403 to a request that comes from elsewhere and is not for the Fleet interface.

    Args:
        app: Flower's.
        metrics: what the service tells Prometheus, given the ids of the nodes that are online.
    """

    def __init__(self, app: ASGIApp, metrics: Callable[[set[str]], str]):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):  # the application's own start and end
            await self._app(scope, receive, send)
        elif not _may_pass(scope):
            await PlainTextResponse("not from here\n", 403)(scope, receive, send)
        elif _announced(scope) > _most(scope):
            await PlainTextResponse("too large\n", 413)(scope, receive, send)
        elif scope["path"] == METRICS:
            text = await run_in_threadpool(lambda: self._metrics(online_nodes(scope["app"])))
            await Response(text, media_type=CONTENT_TYPE)(scope, receive, send)
        else:
            await self._app(scope, _bounded(receive, _most(scope)), send)


def main() -> None:
    """Run ``flower-superlink`` with its own arguments."""
    kit = load_kit(Path(os.environ[KIT]))
    superlink_behind((Middleware(LocalOnly, metrics=lambda on: exposition(kit, on)),))()


def _most(scope: Scope) -> int:
    path = str(scope["path"])
    if not path.startswith(FLEET):
        return MOST_OF_OURS
    return MOST_OF_A_PART if path == PARTS else MOST_OF_A_LIST


def _bounded(receive: Receive, most: int) -> Receive:
    """Hang up on a request that is longer than it may be, whatever it announced."""
    read = 0

    async def receiving() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        return message if read <= most else {"type": "http.disconnect"}

    return receiving


def _may_pass(scope: Scope) -> bool:
    return str(scope["path"]).startswith(FLEET) or _is_local(scope)


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _announced(scope: Scope) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(lengths[0]) if lengths and lengths[0].isdigit() else 0


if __name__ == "__main__":
    main()
