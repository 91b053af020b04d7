"""Everything that touches Flower's internals.

Flower's public message API needs a running SuperLink for two things: the identity of the
current task, and message ids. In simulation both are set here. Nothing else in the project
reads or writes a private name of Flower's.
"""

from __future__ import annotations

import os

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
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

__all__ = ["NodeInfo", "Run", "stamp", "take_simulated_identity"]

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
