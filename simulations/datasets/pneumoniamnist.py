"""PneumoniaMNIST: 28 x 28 chest radiographs of children of one hospital, dealt to five sites.

Yang et al.: MedMNIST v2. Scientific Data 2023; of Kermany et al., Cell 2018. CC BY 4.0. There is
no hospital in the data beyond the one: sites are equal parts, which ``wardround reshape`` can make
differ.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import DataSchema
from numpy.typing import NDArray
from PIL import Image

from federation.errors import UserError
from simulations.datasets import ConversionReport, SiteReport
from simulations.datasets.folders import (
    require_empty,
    require_files,
    write_meds_labels,
    write_patient_key,
    written_to,
)

FILE = "pneumoniamnist.npz"
SITES = ("amber", "birch", "cedar", "delta", "ember")
SPLITS = {"train": "train", "val": "tuning", "test": "held_out"}
TAKEN = datetime(2000, 1, 1)
SIDE = 28


def convert(source: Path, out: Path) -> ConversionReport:
    """Write five site folders of PNG images with the publisher's splits.

    An image that is there twice stands for one patient, in the split that is furthest from
    training; who is in a site follows from the image alone.

    Args:
        source: folder with ``pneumoniamnist.npz``.
        out: folder to write to; new or empty.

    Raises:
        UserError: if the file is missing or holds something else, or ``out`` is not empty.
    """
    require_files(source, [FILE], "Give the folder of MedMNIST's pneumoniamnist.npz.")
    require_empty(out)
    images = _read(source / FILE)
    kept, dropped = _unique(images)
    reports = []
    for number, site in enumerate(SITES):
        mine = [one for one in kept if one.digest[0] % len(SITES) == number]
        gone = sum(one.digest[0] % len(SITES) == number for one in dropped)
        with written_to(out / site):
            _write_site(out / site, mine, (number + 1) * 100_000)
        report = SiteReport(
            site=site,
            rows=len(mine) + gone,
            patients=len(mine),
            positives=sum(one.pneumonia for one in mine),
            excluded={"the same image as another": gone} if gone else {},
            missing={},
            coded_missing={},
            duplicates=0,
        )
        reports.append(report)
    return ConversionReport("pneumoniamnist", tuple(reports))


@dataclass(frozen=True)
class Radiograph:
    """One image: (28, 28) uint8, its finding, the publisher's split, and a hash of its pixels."""

    pixels: NDArray[np.uint8]
    pneumonia: bool
    split: str
    digest: bytes


def _read(file: Path) -> list[Radiograph]:
    found = []
    for split, name in SPLITS.items():
        pixels, labels = _arrays(file, split)
        for image, label in zip(pixels, labels.ravel().tolist(), strict=True):
            found.append(
                Radiograph(image, label == 1, name, hashlib.sha256(image.tobytes()).digest())
            )
    return found


def _arrays(file: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    names = (f"{split}_images", f"{split}_labels")
    try:
        with np.load(file, allow_pickle=False) as archive:
            images, labels = (archive[name] for name in names)
    except KeyError:
        raise UserError(file, f"holds no {' or no '.join(names)}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(file, "is not a readable .npz file") from None
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise UserError(file, f"expected {SIDE} x {SIDE} images of uint8", field=names[0])
    if labels.size != len(images) or not np.isin(labels, (0, 1)).all():
        raise UserError(file, "expected 0 or 1 for each image", field=names[1])
    return images, labels


def _unique(images: list[Radiograph]) -> tuple[list[Radiograph], list[Radiograph]]:
    """Return each image once, of the last split that has it, and the others."""
    last: dict[bytes, Radiograph] = {}
    dropped = []
    for one in images:
        if one.digest in last:
            dropped.append(last[one.digest])
        last[one.digest] = one
    return list(last.values()), dropped


def _write_site(folder: Path, images: list[Radiograph], first: int) -> None:
    places: Mapping[str, Path] = {
        "images": folder / "data" / "images",
        "events": folder / "data" / "meds" / "data",
        "metadata": folder / "data" / "meds" / "metadata",
    }
    for place in places.values():
        place.mkdir(parents=True)
    subjects = list(range(first, first + len(images)))
    events = []
    for subject, one in zip(subjects, images, strict=True):
        Image.fromarray(one.pixels).save(places["images"] / f"{subject}.png")
        text = f"{subject}.png"
        events.append(
            {"subject_id": subject, "time": TAKEN, "code": "IMAGE//DX", "text_value": text}
        )
    pq.write_table(
        pa.Table.from_pylist(events, schema=_events_schema()), places["events"] / "0.parquet"
    )
    splits = {"subject_id": subjects, "split": [one.split for one in images]}
    pq.write_table(pa.table(splits), places["metadata"] / "subject_splits.parquet")
    write_meds_labels(
        folder / "data" / "labels.parquet",
        pa.array(subjects, pa.int64()),
        pa.array([TAKEN] * len(subjects), pa.timestamp("us")),
        pa.array([one.pneumonia for one in images]),
    )
    write_patient_key(folder / "state", f"pneumoniamnist/{folder.name}")
    (folder / "site.toml").write_text(_SITE_FILE.format(name=folder.name), encoding="utf-8")


def _events_schema() -> pa.Schema:
    text = pa.field("text_value", pa.large_string())
    return pa.schema(
        [field for field in DataSchema.schema() if field.name != "text_value"] + [text]
    )


_SITE_FILE = """\
# PneumoniaMNIST (MedMNIST v2, CC BY 4.0): Yang et al. 2023; images of Kermany et al. 2018. Written
# by `wardround dataset pneumoniamnist`. One hospital's images, dealt to five sites.

[site]
name = "{name}"
device = "cpu"
state = "state"

[data]
events = {{ format = "meds", path = "data/meds" }}
images = {{ format = "png", path = "data/images" }}
labels = "data/labels.parquet"
label = "pneumonia"

[policy]
minimum_cell = 10
score_bins = "fine"             # this data is public; a hospital's own site file says "merged"
"""
