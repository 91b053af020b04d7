"""Everything that touches Flower's internals.

Flower's public message API needs a running SuperLink for two things: the identity of the
current task, and message ids. In simulation both are set here. Nothing else in the project
reads or writes a private name of Flower's.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment under which neither Flower nor Ray looks for the internet."""

os.environ.update(OFFLINE)

from flwr.app import Array, Message, RecordDict  # noqa: E402  (reads the environment)
from flwr.app.message.arraychunk import ArrayChunk  # noqa: E402
from flwr.common.constant import ErrorCode  # noqa: E402
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse  # noqa: E402
from flwr.proto.node_pb2 import NodeInfo  # noqa: E402
from flwr.supercore.constant import PULL_MAX_TIME, TaskType  # noqa: E402
from flwr.supercore.inflatable import inflatable_utils  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_object_body,
    get_object_children_ids_from_object_content,
)
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

__all__ = [
    "COMMANDS",
    "MOST_BYTES",
    "NodeInfo",
    "Run",
    "Unreadable",
    "bound_messages",
    "bundle_of",
    "came_too_late",
    "online_nodes",
    "stamp",
    "superlink_behind",
    "take_over_clientapp",
    "take_simulated_identity",
    "within",
]

COMMANDS = tuple(str(task) for task in TaskType)
"""The programs that Flower's executor starts, by name, from PATH."""

SIMULATED_RUN = 1
COORDINATOR = 1
"""Node id under which the simulated coordinator sends."""

MOST_BYTES = 2**31
"""Of one message with all its arrays."""
AT_ONCE = 2
"""Parts of a message that are sent at a time; each may be 5 MiB."""
MOST_OPEN = 1024
"""Messages that sites are sending, of which a SuperLink counts the bytes."""

PATIENCE = {"max_tries_per_object": None, "initial_backoff": 0.1, "backoff_cap": 1.0}
"""How often a part is asked for that has not come yet; Flower's own begins with a second."""

_patience: ContextVar[float] = ContextVar("patience", default=float(PULL_MAX_TIME))


class Unreadable(Exception):
    """A message that is none of Flower's, or of more than ``MOST_BYTES``."""


def take_simulated_identity() -> None:
    """Let this process build Flower messages without a SuperLink."""
    TaskIdentity.run_id = SIMULATED_RUN
    TaskIdentity.node_id = COORDINATOR
    TaskIdentity.task_id = 1


def stamp(message: Message, message_id: str) -> None:
    """Give a message the id that a SuperLink would give it."""
    message.metadata.__dict__["_message_id"] = message_id


def bundle_of(pyproject: bytes) -> bytes:
    """Return the app bundle that Flower makes of a project of nothing but a ``pyproject.toml``."""
    from flwr.cli.build import build_fab_from_files

    return build_fab_from_files({"pyproject.toml": pyproject})[0]


def superlink_behind(middleware: Sequence[Any]) -> Callable[[], None]:
    """Return Flower's ``flower-superlink``, its HTTP application behind Starlette's middleware.

    Of a site's message it stores at most ``MOST_BYTES``, in however many parts they come.

    Raises:
        RuntimeError: if this version of Flower does not have what is replaced.
    """
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from flwr.superlink.servicer.fleet import fleet_handlers

    _replace(extensions, "get_middleware", lambda _: lambda: tuple(middleware))
    _replace(fleet_handlers, "push_object", BoundedStore)
    return flower_superlink


def online_nodes(superlink: Any) -> set[str]:
    """Return the ids of the nodes that are connected to a SuperLink.

    Args:
        superlink: its HTTP application.
    """
    state = superlink.state.linkstate_factory.state()
    return {str(node.node_id) for node in state.get_node_info(statuses=["online"])}


def take_over_clientapp(
    see_bundle: Callable[..., None], loader: Callable[..., Any]
) -> Callable[[], None]:
    """Return Flower's ``flwr-clientapp``, so changed that it takes no code from a bundle.

    Args:
        see_bundle: called with a bundle's bytes where Flower would unpack it.
        loader: called where Flower would look for the bundle's app; returns what loads the app.

    Raises:
        RuntimeError: if this version of Flower does not have what is replaced.
    """
    from flwr.supernode.cli import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp as process

    def never(*_: Any, **__: Any) -> None:
        raise RuntimeError("a site installs nothing for a coordinator")

    _replace(process, "install_from_fab", lambda _: see_bundle)
    _replace(process, "get_load_client_app_fn", lambda _: loader)
    _replace(process, "install_app_dependencies", lambda _: never)
    return flwr_clientapp


@functools.cache
def bound_messages() -> None:
    """Let messages travel from and to this process in two copies, and none be too large or odd.

    Flower joins the chunks of an array twice, which is a third copy, and makes all parts of a
    message before the first is sent. It believes what comes: a chunk may stand in an array a
    thousand times, and what is malformed is raised in the midst of a run.

    Raises:
        RuntimeError: if this version of Flower does not have what is replaced.
    """
    from flwr.superlink.grid import http_grid

    _replace(Array, "inflate", lambda own: staticmethod(partial(_joined, own)))
    _replace(inflatable_utils, "push_object_contents_from_iterable", lambda _: _push)
    _replace(inflatable_utils, "pull_objects", lambda own: partial(_pull, own))
    _replace(http_grid, "pull_objects", lambda own: partial(_pull, own))
    _replace(http_grid, "inflate_object_from_contents", lambda own: partial(_message, own))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Wait so long, and no longer, for the parts of a message that somebody has begun to send."""
    before = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(before)


def came_too_late(message: Message) -> bool:
    """Whether it stands for one of which not all parts came ``within`` the time."""
    return message.has_error() and message.error.code == ErrorCode.MESSAGE_UNAVAILABLE


class BoundedStore:
    """What a SuperLink stores for sites: of each message no more than ``most`` bytes.

    Args:
        store: Flower's handler of one part of a message.
        most: bytes of all parts of a message together.
    """

    def __init__(self, store: Callable[..., PushObjectResponse], most: int = MOST_BYTES):
        self._store, self._most = store, most
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, request: PushObjectRequest, state: Any) -> PushObjectResponse:
        """Store one part, or say that it was not stored."""
        session, size = request.session_id, len(request.object_content)
        # Without a session Flower would look for one that waits for the part, and not be counted.
        if not session or self._sizes.get(session, 0) + size > self._most:
            return PushObjectResponse(stored=False)
        answer = self._store(request, state)
        if answer.stored:  # a session that nobody opened counts for nothing, and ousts none
            with self._lock:
                self._sizes[session] = self._sizes.pop(session, 0) + size
                if len(self._sizes) > MOST_OPEN:
                    self._sizes.popitem(last=False)
        return answer


def _replace(owner: Any, name: str, ours: Callable[[Any], Any]) -> None:
    """Put what ``ours`` makes of something of Flower's in its place."""
    own = getattr(owner, name, None)
    if not callable(own):
        raise RuntimeError(f"this version of Flower has no {name} to replace")
    setattr(owner, name, ours(own))


def _joined(
    inflate: Callable[..., Array], object_content: bytes, children: Mapping[str, Any] | None = None
) -> Array:
    """Return an array of its chunks, as Flower's ``inflate`` does, in one copy beside them."""
    chunks = children or {}
    hollow = {name: ArrayChunk(memoryview(b"")) for name in chunks}
    array = inflate(object_content, hollow)
    names = get_object_children_ids_from_object_content(object_content)
    places = json.loads(get_object_body(object_content, Array))["arraychunk_ids"]
    parts = [chunks[names[place]].data for place in places]
    if sum(map(len, parts)) > MOST_BYTES:
        raise Unreadable("an array is too large")
    array.data = b"".join(parts)
    return array


def _push(
    object_contents: Iterable[tuple[str, bytes]],
    push_object_fn: Callable[[str, bytes], None],
    **_: Any,
) -> None:
    """Send the parts of a message, each made when there is a hand free to send it."""
    with ThreadPoolExecutor(AT_ONCE) as hands:
        busy: set[Future[None]] = set()
        for name, content in object_contents:
            busy.add(hands.submit(push_object_fn, name, content))
            del content
            if len(busy) == AT_ONCE:
                done, busy = wait(busy, return_when=FIRST_COMPLETED)
                for one in done:
                    one.result()
        for one in busy:
            one.result()


def _pull(
    pull: Callable[..., dict[str, bytes]],
    object_ids: list[str],
    pull_object_fn: Callable[[str], bytes],
    **options: Any,
) -> dict[str, bytes]:
    """Get the parts of a message, as Flower's ``pull_objects`` does, as far as it may be large."""
    sizes: list[int] = []

    def counted(name: str) -> bytes:
        content = pull_object_fn(name)
        sizes.append(len(content))
        if sum(sizes) > MOST_BYTES:
            raise Unreadable("a message is too large")
        return content

    return pull(object_ids, counted, **options | PATIENCE | {"max_time": _patience.get()})


def _message(inflate: Callable[..., Any], *arguments: Any, **options: Any) -> Message:
    """Return the message of its parts, which come from somebody who need not be honest."""
    try:
        message = inflate(*arguments, **options)
    except Exception as error:
        raise Unreadable("not a message") from error
    if not isinstance(message, Message):
        raise Unreadable("not a message")
    if not message.has_error() and not isinstance(message.content, RecordDict):
        raise Unreadable("a message without records")
    return message
