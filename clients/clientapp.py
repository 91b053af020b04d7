"""The process that answers one message: what ``flwr-clientapp`` is at a site of ours.

Flower's own unpacks the app bundle that the coordinator sent and puts its folder first on
``sys.path``, where any file of it would be run inside the hospital. This one looks at no more of
the bundle than its SHA-256, and runs the ClientApp of the wardround installed here, behind the
site's door.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from flwr.app import Context, Message

from federation.bundle import bundle_digest
from federation.flower import bound_messages, take_over_clientapp


def main() -> None:
    """Answer the message for which Flower's executor started this process."""
    logger = logging.getLogger("wardround")  # not the root: Flower logs by itself
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    bound_messages()
    run = take_over_clientapp(_see_bundle, _loader)
    run()


_seen: list[str] = []
"""SHA-256 of the bundle that came with the message; this process answers one."""


def _see_bundle(content: bytes, *_: Any, **__: Any) -> None:
    _seen.append(hashlib.sha256(content).hexdigest())


def _loader(*_: Any, **__: Any) -> Callable[..., Callable[[Message, Context], Message]]:
    try:
        from clients.app import app
        from clients.door import answer_at_the_door

        expected = _seen == [bundle_digest()]
    except Exception:
        logging.getLogger("wardround.site").exception("the site failed")
        raise RuntimeError("the site failed") from None  # Flower sends the text of what is raised

    def load(*_: Any, **__: Any) -> Callable[[Message, Context], Message]:
        return partial(answer_at_the_door, app=app, expected_bundle=expected)

    return load


if __name__ == "__main__":
    main()
