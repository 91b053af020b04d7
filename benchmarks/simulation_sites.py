"""The work of ``simulation_work.py`` as hospitals hold it, and the study that trains on it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from simulation_work import (
    BATCH,
    DISTINCT,
    IMAGE,
    IMAGE_WIDTH,
    LEARNING_RATE,
    PATIENTS,
    VALUES,
    WIDTH,
    Column,
    Kind,
    site_arrays,
)

from federation.study import Study
from simulations.phantom import SCANNERS, write_dicom
from simulations.phantom import Study as Radiograph

MOMENT = datetime(2020, 1, 1)
SCANNER = next(s for s in SCANNERS if s.photometric == "MONOCHROME2" and not s.computed)


def column_study(column: Column, rounds: int) -> Study:
    """Return the study of a column: its model, its schedule, nothing evaluated in a round."""
    study = _mlp_study() if column.model == "mlp" else _cnn_study()
    study["training"]["rounds"] = rounds
    if column.sampled < column.sites:
        study["strategy"] = sampling(column.sampled)
    return Study.model_validate(study)


def sampling(sites: int) -> dict[str, Any]:
    """Return the ``[strategy]`` with which some sites, drawn anew, train in each round."""
    return {"participation": {"kind": "random", "sites": sites}}


def write_sites(folder: Path, kind: Kind, sites: int) -> dict[str, Path]:
    """Write one folder a site in ``sites``, and what they hold beside it, each content once.

    Returns:
        The site files, by name in order.
    """
    contents = [
        _write_content(folder / "contents" / f"{kind}-{site:03d}", kind, site)
        for site in range(min(sites, DISTINCT[kind]))
    ]
    return dict(_write_site(folder / "sites", site, contents) for site in range(sites))


def site_folder(folder: Path) -> Path:
    """Return the folder of sites that ``write_sites`` filled."""
    return folder / "sites"


def _write_site(folder: Path, site: int, contents: list[Path]) -> tuple[str, Path]:
    content = contents[site % len(contents)]
    own = folder / f"site-{site:05d}"
    own.mkdir(parents=True)
    images = content / "images"
    lines = [
        f'[site]\nname = "{own.name}"\ndevice = "cpu"\n[data]',
        f'events = {{ format = "meds", path = "{_from_site(content)}/meds" }}',
        f'labels = "{_from_site(content)}/labels.parquet"',
    ]
    if images.is_dir():
        lines.append(f'images = {{ format = "dicom", path = "{_from_site(images)}" }}')
    file = own / "site.toml"
    file.write_text("\n".join(lines) + "\n")
    return own.name, file


def _from_site(path: Path) -> str:
    """Return a path in ``contents`` as a site file names it."""
    at = path.parts.index("contents")
    return "/".join(("..", "..", *path.parts[at:]))


def _write_content(folder: Path, kind: Kind, site: int) -> Path:
    x, y = site_arrays(kind, site)
    (folder / "meds" / "data").mkdir(parents=True)
    events = _values(x) if kind == "mlp" else _images(x, folder / "images")
    pq.write_table(pa.table(events), folder / "meds" / "data" / "0.parquet")
    labels = {
        "subject_id": np.arange(PATIENTS) + 1,
        "prediction_time": _times(PATIENTS) + np.timedelta64(1, "h"),
        "boolean_value": y,
    }
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    return folder


def _values(x: np.ndarray) -> dict[str, Any]:
    return {
        "subject_id": np.repeat(np.arange(PATIENTS) + 1, VALUES),
        "time": _times(PATIENTS * VALUES),
        "code": [f"V//{k:02d}" for k in range(VALUES)] * PATIENTS,
        "numeric_value": x.reshape(-1),
    }


def _images(x: np.ndarray, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    files = [f"{patient + 1}.dcm" for patient in range(PATIENTS)]
    for file, image in zip(files, x[:, 0], strict=True):
        who = Radiograph(Path(file).stem, "", "O", MOMENT, MOMENT, "", portable=False)
        stored = np.rint(image * (2**SCANNER.bits - 1)).astype(np.uint16)
        write_dicom(folder / file, stored, SCANNER, who)
    return {
        "subject_id": np.arange(PATIENTS) + 1,
        "time": _times(PATIENTS),
        "code": ["IMAGE//DX"] * PATIENTS,
        "numeric_value": pa.nulls(PATIENTS, pa.float32()),
        "text_value": files,
    }


def _times(rows: int) -> np.ndarray:
    return np.full(rows, np.datetime64(MOMENT, "us"))


def _mlp_study() -> dict[str, Any]:
    ehr = {
        "encoder": "mlp",
        "width": WIDTH,
        "vocabulary": "listed",
        "age": False,
        "aggregates": ["last"],
        "reference_ranges": {f"V//{k:02d}": [-1, 1] for k in range(VALUES)},
    }
    return _study({"ehr": ehr})


def _cnn_study() -> dict[str, Any]:
    return _study({"image": {"encoder": "small_cnn", "width": IMAGE_WIDTH, "size": IMAGE}})


def _study(modalities: dict[str, Any]) -> dict[str, Any]:
    return {
        "study": {"name": "simulation-benchmark", "seed": 1},
        "task": {"label": "parity"},
        "split": {"fractions": {"train": 1.0, "tuning": 0.0, "held_out": 0.0}},
        "modalities": modalities,
        "training": {
            "batch_size": BATCH,
            "optimizer": {"name": "sgd", "lr": LEARNING_RATE},
        },
        "evaluation": {"every": 0},
    }
