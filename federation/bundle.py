"""The Flower app bundle that submits a study: a name and two references, no code.

Flower sends a bundle to the SuperLink and from there to every SuperNode. Ours holds nothing but a
``pyproject.toml``, so the components it names resolve to the wardround that each party has
installed. A site unpacks none (``clients.clientapp``); it knows this one by its digest and answers
any other, one of another version of wardround too, with a refusal.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from federation.flower import bundle_of

# Flower checks these before it submits, by reading the source: each must be a plain assignment
# `app = ...` at module level. It does not find an annotated one (`app: ClientApp = ...`).
SERVER_APP = "server.app:app"
CLIENT_APP = "clients.app:app"


def write_bundle(folder: Path) -> Path:
    """Write the bundle project that ``flwr run`` submits.

    The coordinator passes the study and the run folder with
    ``--run-config 'study="/abs/study.toml" out="/abs/run"'``: Flower refuses a key that the
    bundle does not declare, so both are declared here, empty.

    Args:
        folder: where to write; created if missing. Flower bundles every source, TOML and Markdown
            file below it, so it must hold nothing else.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder already holds something else, which would travel to every site.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(path.name for path in folder.iterdir() if path.name != "pyproject.toml")
    if others:
        raise ValueError(f"{folder} holds {', '.join(others)}; give an empty folder")
    (folder / "pyproject.toml").write_bytes(_pyproject())
    return folder


def bundle_digest() -> str:
    """Return the SHA-256 of the bundle that this version of wardround submits."""
    return hashlib.sha256(bundle_of(_pyproject())).hexdigest()


def _pyproject() -> bytes:
    return tomli_w.dumps(_project()).encode()


def _project() -> dict[str, Any]:
    return {
        "project": {
            "name": "wardround",
            "version": version("wardround"),
            "description": "Runs a Wardround study with the wardround installed at each party",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "wardround",
                    "components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
                    "config": {"study": "", "out": "", "resume": False},
                }
            }
        },
    }
