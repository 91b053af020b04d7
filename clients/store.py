"""Prepared cohorts on disk, opened memory-mapped.

Each is made once, by whichever process first needs it, and read by all processes of a machine: what
they share is the operating system's page cache, so that cohorts may be larger than memory together.
A site keeps its own between messages and studies; a simulation keeps those of all its sites, so
that a site can be played by any process at no cost.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clients.cohort import Patients
from clients.features import ModalityTensor
from federation.errors import UserError

Key = tuple[Any, ...]


TEMPORARY = "Make room, or name a folder on a larger disk in the environment variable TMPDIR."


def no_room(folder: Path, error: Exception, remedy: str = TEMPORARY) -> UserError:
    """Say that a folder for what is prepared cannot be written to."""
    return UserError(folder, f"prepared cohorts cannot be kept here: {error}", remedy=remedy)


class CohortStore:
    """A folder of cohorts' parts, each under what it follows from.

    Args:
        folder: made when it is first written to.
        remedy: what to do when it cannot be.
    """

    def __init__(self, folder: Path, remedy: str = TEMPORARY):
        self.folder = folder
        self._remedy = remedy

    def patients(self, key: Key) -> Patients | None:
        """Return patients without their events; None if they are not there."""
        found = self._read(key)
        if found is None:
            return None
        arrays, notes = found
        rows = {name: arrays[name].numpy() for name in arrays}
        return Patients(
            subject_ids=rows["subject_ids"],
            labels=rows["labels"],
            events=pd.DataFrame(),
            splits={name: rows[f"split.{name}"] for name in notes["splits"]},
            subgroups={
                name: np.array(levels)[rows[f"subgroup.{name}"]]
                for name, levels in notes["levels"].items()
            },
            excluded=notes["excluded"],
            notices=notes["notices"],
            arrival=rows["arrival"],
            times=rows["times"],
        )

    def keep_patients(self, key: Key, patients: Patients) -> None:
        """Keep patients without their events.

        Raises:
            UserError: if the folder cannot be written to.
        """
        coded = {
            name: np.unique(values, return_inverse=True)
            for name, values in patients.subgroups.items()
        }
        arrays = {
            "subject_ids": patients.subject_ids,
            "labels": patients.labels,
            "arrival": patients.arrival,
            "times": patients.times,
            **{f"split.{name}": rows for name, rows in patients.splits.items()},
            **{f"subgroup.{name}": codes for name, (_, codes) in coded.items()},
        }
        notes = {
            "splits": list(patients.splits),
            "levels": {name: levels.tolist() for name, (levels, _) in coded.items()},
            "excluded": dict(patients.excluded),
            "notices": dict(patients.notices),
        }
        self._write(key, {name: torch.from_numpy(a) for name, a in arrays.items()}, notes)

    def tensor(self, key: Key) -> ModalityTensor | None:
        """Return one modality of all patients; None if it is not there."""
        found = self._read(key)
        if found is None:
            return None
        arrays, notes = found
        return ModalityTensor(arrays["values"], arrays["present"], notes["unusable"])

    def keep_tensor(self, key: Key, tensor: ModalityTensor) -> None:
        """Keep one modality of all patients.

        Raises:
            UserError: if the folder cannot be written to.
        """
        arrays = {"values": tensor.values, "present": tensor.present}
        self._write(key, arrays, {"unusable": dict(tensor.unusable)})

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of zeros on the disk, gone when it is no longer used.

        A site's volumes may be larger than its memory.

        Raises:
            UserError: if the folder cannot be written to.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                return np.memmap(file, np.float32, "w+", shape=shape)
        except OSError as error:
            raise no_room(self.folder, error, self._remedy) from None

    def _read(self, key: Key) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return arrays, json.loads(file.metadata()["notes"])
        except SafetensorError:  # cut short by a power failure: it is made anew
            return None

    def _write(self, key: Key, arrays: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        path = self._path(key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=self.folder)
            os.close(handle)
            try:
                save_file(dict(arrays), draft, metadata={"notes": json.dumps(notes)})
                os.replace(draft, path)  # several processes may write the same
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)
        except Exception as error:
            if not isinstance(error, OSError) and "I/O error" not in str(error):
                raise
            raise no_room(self.folder, error, self._remedy) from None

    def _path(self, key: Key) -> Path:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:40]
        return self.folder / f"{name}.safetensors"
