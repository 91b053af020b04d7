"""What the coordinator asks of its own SuperLink, through Flower's command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from federation.bundle import write_bundle
from federation.errors import UserError
from federation.supervision import scripts, variables
from federation.validation import Section, read_toml, validate
from server.provision import SETTINGS

CONNECTION = "wardround"
PATIENCE_SECONDS = 120.0
KIT = "WARDROUND_KIT"
"""Environment variable by which the SuperLink knows the server's kit."""
REGISTERED = "registered.json"


class Settings(Section):
    """The server kit's ``server.toml``."""

    consortium: str
    port: int


@dataclass(frozen=True)
class Kit:
    """A server's start kit.

    Attributes:
        folder: of the kit.
        settings: its ``server.toml``.
    """

    folder: Path
    settings: Settings

    @property
    def state(self) -> Path:
        """Where the server writes: database, Flower's files, what was submitted."""
        return self.folder / "state"

    @property
    def runs(self) -> Path:
        """Where run folders are."""
        return self.folder / "runs"

    @property
    def local_address(self) -> str:
        """Where programs of this machine reach the SuperLink."""
        return f"127.0.0.1:{self.settings.port}"


def load_kit(folder: Path) -> Kit:
    """Read a server's kit.

    Raises:
        UserError: if the folder holds none.
    """
    file = folder / SETTINGS
    if not file.is_file():
        raise UserError(
            file,
            "there is no such file: this is not a server's start kit",
            remedy="`wardround provision CONSORTIUM --out DIR` writes one, in DIR/server.",
        )
    folder = folder.absolute()
    for name in ("ca.crt", "server.crt", "server.key"):
        if not (folder / name).is_file():
            raise UserError(folder / name, "there is no such file", remedy="It came with the kit.")
    return Kit(folder, validate(Settings, read_toml(file), file))


def registered(kit: Kit) -> dict[str, dict[str, str]]:
    """Return the registered sites: by name the digest of its ``key`` and its ``node`` id."""
    file = kit.state / REGISTERED
    known: dict[str, dict[str, str]] = {}
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
    return known


class Control:
    """The coordinator's side of a running SuperLink.

    Args:
        kit: the server's.
    """

    def __init__(self, kit: Kit):
        self._kit = kit
        self._home = kit.state / "flwr"

    def nodes(self) -> list[dict[str, Any]]:
        """Return the registered SuperNodes, as Flower tells of them."""
        return list(self._json("supernode", "list", CONNECTION)["nodes"])

    def register(self, public_key: Path, name: str) -> str:
        """Register a site and return its node id."""
        key = str(public_key)
        told = self._json("supernode", "register", key, CONNECTION, "--name", name)
        return str(told["node-id"])

    def unregister(self, node: str) -> None:
        """Register a site no more."""
        self._json("supernode", "unregister", node, CONNECTION)

    def submit(self, study: Path, out: Path, resume: bool) -> str:
        """Submit a run and return its id."""
        bundle = write_bundle(self._kit.state / "bundle")
        config = f"study={json.dumps(str(study))} out={json.dumps(str(out))}"
        config += f" resume={json.dumps(resume)}"
        told = self._json("run", str(bundle), CONNECTION, "--run-config", config)
        return str(told["run-id"])

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs, as Flower tells of them."""
        return list(self._json("list", CONNECTION)["runs"])

    def stop(self, run: str) -> None:
        """Stop a run."""
        self._json("stop", run, CONNECTION)

    def log(self, run: str) -> str:
        """Return what a run's coordinator has logged."""
        return self._flwr("log", run, CONNECTION, "--show")

    def _json(self, *arguments: str) -> dict[str, Any]:
        text = self._flwr(*arguments, "--format", "json")
        try:
            told: dict[str, Any] = json.loads(text)
        except ValueError:
            raise UserError("flwr", f"an unexpected answer: {text.strip()[-300:]}") from None
        if told.get("success") is False:
            raise UserError(self._kit.folder, str(told.get("error-message", "")).strip() or text)
        return told

    def _flwr(self, *arguments: str) -> str:
        self._write_connection()
        result = _run([str(scripts() / "flwr"), *arguments], self._home)
        if result.returncode != 0:
            said = (result.stdout + result.stderr).strip()
            raise UserError(
                self._kit.folder,
                f"the server did not do it: {_last_words(said)}",
                remedy=f"Does it run? `wardround server run {self._kit.folder}`",
            )
        return result.stdout

    def _write_connection(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        file = self._home / "config.toml"
        connection = {
            "address": self._kit.local_address,
            "root-certificates": str(self._kit.folder / "ca.crt"),
        }
        text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _run(command: Sequence[str], home: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=variables(home),
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            "flwr", f"the server did not answer within {PATIENCE_SECONDS:g} seconds"
        ) from None


def _last_words(text: str) -> str:
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    return " ".join(line for line in lines if line)[-300:]
