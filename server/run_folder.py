"""The run folder: everything that a run leaves behind, written so that a crash loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from federation.errors import UserError
from federation.study import Study, load_study
from federation.vocabulary import Vocabulary
from server.course import Standing
from server.finished_run import FORMULA, NORMALISATION, VOCABULARY, WEIGHTS, read_vocabulary

PACKAGES = (
    "wardround",
    "flwr",
    "ray",
    "torch",
    "opacus",
    "dp-accounting",
    "pydicom",
    "numpy",
    "pandas",
    "pyarrow",
)
STATE = "state.safetensors"
FLAT = "flat"
COHORTS = "cohorts.json"
CUT_SHORT = 2**31
"""The round of a line that a crash cut short."""


class RunFolder:
    """One run's folder.

    Args:
        path: must not exist, or be empty, unless the run is resumed.
        study: the resolved study.
        resume: continue the run of the same study that is there.

    Attributes:
        run_id: drawn for a new run, and kept with it.

    Raises:
        UserError: if there is another run, or none of this study to resume.
    """

    def __init__(self, path: Path, study: Study, resume: bool = False):
        self.path, self.study, self.resumed = path, study, resume
        self.run_id = secrets.token_hex(16)
        if resume:
            self._check_same_study()
            self.run_id = self._read_run_id()
            self._check_checkpoints()
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            resumable = (path / "checkpoints").is_dir()
            raise UserError(
                path,
                "already exists and is not empty" if path.is_dir() else "is not a folder",
                remedy="Give another --out"
                + (", or continue this run with --resume." if resumable else "."),
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(path, f"cannot be made: {error.strerror}") from None

    def write_study(self) -> None:
        """Keep the resolved study with its fingerprint."""
        self._write("study.toml", self.study.to_toml())

    def write_json(self, name: str, document: Any) -> None:
        """Write one JSON document; numbers that are not finite are a bug and raise."""
        self._write(name, json.dumps(document, indent=1, allow_nan=False) + "\n")

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Add one line to rounds.jsonl."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rounds so far, without a line that a crash cut short."""
        file = self.path / "rounds.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines() if _round_of(line) < CUT_SHORT]

    def sites(self) -> set[str]:
        """Return the sites that the run was begun with, as far as they are known."""
        file = self.path / "sites.json"
        return set(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else set()

    def cohorts(self) -> dict[str, str]:
        """Return by what each site's cohort is known again, of a simulation that was begun."""
        file = self.path / COHORTS
        found: dict[str, str] = {}
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        return found

    def keep_cohorts(self, cohorts: Mapping[str, str]) -> None:
        """Keep by what each site's cohort is known again."""
        self.write_json(COHORTS, dict(sorted(cohorts.items())))

    def leave_nothing(self, *folders: str) -> None:
        """Remove what a run left that was refused before it began, so that it can be run again."""
        if self.resumed or (self.path / "study.toml").exists():
            return
        for name in folders:
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / COHORTS).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()

    def keep_rounds(self, last: int) -> None:
        """Drop the lines of rounds after ``last``, which a resumed run will run again."""
        file = self.path / "rounds.jsonl"
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _round_of(line) <= last]
            self._write("rounds.jsonl", "".join(kept))

    def write_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Keep the codes and their scaling in the two files that a later user needs."""
        places = {"codes": list(vocabulary.codes), "buckets": vocabulary.buckets}
        scales = {code: [s.center, s.width] for code, s in sorted(vocabulary.scales.items())}
        self.write_json(VOCABULARY, places)
        self.write_json(NORMALISATION, {FORMULA: scales})

    def read_vocabulary(self) -> Vocabulary | None:
        """Return what ``write_vocabulary`` kept, as ``server.finished_run.read_vocabulary``."""
        return read_vocabulary(self.path)

    def write_environment(self, details: Mapping[str, Any]) -> None:
        """Keep versions, machine and git commit with what the caller knows."""
        versions = {name: found for name in PACKAGES if (found := _version(name))}
        self.write_json(
            "environment.json",
            {
                **versions,
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}",
                "git commit": _git_commit(),
                "run": self.run_id,
                **details,
            },
        )

    def write_checkpoint(self, round_: int, standing: Standing) -> None:
        """Keep how things stand after a round; what is half written never has the final name."""
        folder = self.path / "checkpoints" / f"round-{round_:04d}"
        draft = folder.with_name(f".{folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file({FLAT: standing.weights}, draft / WEIGHTS)
        save_file(dict(standing.state), draft / STATE)
        told = {"round": round_, "clip": standing.clip}
        (draft / "state.json").write_text(json.dumps(told) + "\n")
        for file in (*draft.iterdir(), draft):
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        _sync(folder.parent)

    def last_checkpoint(self) -> tuple[int, Standing] | None:
        """Return the newest checkpoint's round, and how things stood; None if there is none.

        Raises:
            UserError: if it is damaged.
        """
        folders = (self.path / "checkpoints").glob("round-*")
        newest = max(folders, key=lambda folder: int(folder.name[6:]), default=None)
        if newest is None:
            return None
        try:
            told = json.loads((newest / "state.json").read_text())
            weights, state = load_file(newest / WEIGHTS)[FLAT], load_file(newest / STATE)
            return int(told["round"]), Standing(weights, state, told["clip"])
        except Exception:
            raise UserError(
                newest,
                "the checkpoint is damaged",
                remedy="Remove it to continue from the one before.",
            ) from None

    def write_model(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Write the final weights under their parameters' names."""
        draft = self.path / f".{WEIGHTS}"
        save_file(dict(arrays), draft, metadata={"fingerprint": self.study.fingerprint})
        draft.replace(self.path / WEIGHTS)

    def _check_checkpoints(self) -> None:
        needed = self.study.strategy.minimum_sites
        counted = any(len(record["answered"]) >= needed for record in self.rounds())
        if counted and self.last_checkpoint() is None:
            raise UserError(
                self.path,
                "its checkpoints are gone, so it cannot be continued",
                remedy="Run the study anew, into another folder.",
            )

    def _check_same_study(self) -> None:
        file = self.path / "study.toml"
        if not file.is_file():
            raise UserError(self.path, "there is no run to resume: study.toml is missing")
        if load_study(file).fingerprint != self.study.fingerprint:
            raise UserError(
                file,
                "the run belongs to another study",
                remedy="A run is resumed with the study it was started with, unchanged.",
            )

    def _read_run_id(self) -> str:
        """Return the id that the run was given, by which the sites' ledgers know it."""
        file = self.path / "environment.json"
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                file,
                "the id of the run is missing or damaged",
                remedy="Without it the sites would count the resumed run as another one.",
            ) from None

    def _write(self, name: str, text: str) -> None:
        draft = self.path / f".{name}"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path / name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _round_of(line: str) -> int:
    try:
        return int(json.loads(line)["round"])
    except (ValueError, KeyError, TypeError):
        return CUT_SHORT


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Return the commit of the source tree that this code runs from; empty for an installation."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
