"""Everything that touches Flower's internals.

Flower's public message API needs a running SuperLink for two things: the identity of the
current task, and message ids. In simulation both are set here. Nothing else in the project
reads or writes a private name of Flower's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment under which neither Flower nor Ray looks for the internet."""

os.environ.update(OFFLINE)

from flwr.app import Message  # noqa: E402  (reads the environment)
from flwr.proto.node_pb2 import NodeInfo  # noqa: E402
from flwr.supercore.constant import TaskType  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

__all__ = [
    "COMMANDS",
    "NodeInfo",
    "Run",
    "bundle_of",
    "online_nodes",
    "stamp",
    "superlink_behind",
    "take_over_clientapp",
    "take_simulated_identity",
]

COMMANDS = tuple(str(task) for task in TaskType)
"""The programs that Flower's executor starts, by name, from PATH."""

SIMULATED_RUN = 1
COORDINATOR = 1
"""Node id under which the simulated coordinator sends."""


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

    Raises:
        RuntimeError: if this version of Flower takes none.
    """
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink

    if not callable(getattr(extensions, "get_middleware", None)):
        raise RuntimeError("this version of Flower takes no middleware")
    extensions.get_middleware = lambda: tuple(middleware)
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

    replaced = {
        "install_from_fab": see_bundle,
        "get_load_client_app_fn": loader,
        "install_app_dependencies": never,
    }
    for name, ours in replaced.items():
        if not callable(getattr(process, name, None)):
            raise RuntimeError(f"this version of Flower has no {name} to replace")
        setattr(process, name, ours)
    return flwr_clientapp
