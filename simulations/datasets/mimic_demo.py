"""MIMIC-IV demo in MEDS: one hospital, 100 patients, in-hospital death at 24 hours after admission.

Van de Water, McDermott et al.: MIMIC-IV demo data in the Medical Event Data Standard. PhysioNet
2025, ``mimic-iv-demo-meds`` 0.0.1, ODbL 1.0; of Johnson et al., MIMIC-IV Clinical Database Demo.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from clients.labels import labels_by_rule
from clients.sources import meds
from clients.sources.settings import LabelRule
from simulations.datasets import ConversionReport, SiteReport
from simulations.datasets.folders import (
    require_empty,
    require_files,
    write_meds_labels,
    write_patient_key,
    written_to,
)

SITE = "mimic-demo"
SPLITS = "metadata/subject_splits.parquet"
RULE = LabelRule(
    index=("HOSPITAL_ADMISSION",),
    predict_after_hours=24,
    outcome=("HOSPITAL_DISCHARGE//DIED", "MEDS_DEATH"),
    until=("HOSPITAL_DISCHARGE",),
)
"""A patient's first admission of over 24 hours. A death is in hospital if it comes by discharge."""


def convert(source: Path, out: Path) -> ConversionReport:
    """Write the site folder ``mimic-demo``: the publisher's events and splits, and labels.

    Args:
        source: folder with ``data/{train,tuning,held_out}/0.parquet`` and ``metadata/``.
        out: folder to write to; new or empty.

    Returns:
        Events read, patients, deaths.

    Raises:
        UserError: if a file is missing or unreadable, or ``out`` is not empty.
    """
    shards = [f"data/{split}/0.parquet" for split in ("train", "tuning", "held_out")]
    remedy = "Give the folder of PhysioNet's mimic-iv-demo-meds."
    require_files(source, [*shards, SPLITS], remedy)
    require_empty(out)
    given = meds.read_splits(source)
    counted = Counted()
    labels, without = labels_by_rule(RULE, counted.of(source))
    folder = out / SITE
    with written_to(folder):
        for name in [*shards, SPLITS, "metadata/codes.parquet", "metadata/dataset.json"]:
            if (source / name).is_file():
                target = folder / "data" / "meds" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target)
        write_meds_labels(
            folder / "data" / "labels.parquet",
            pa.array(labels["subject_id"]),
            pa.array(labels["prediction_time"]).cast(pa.timestamp("us")),
            pa.array(labels["label"] == 1),
        )
        write_patient_key(folder / "state", SITE)
        (folder / "site.toml").write_text(_SITE_FILE, encoding="utf-8")
    report = SiteReport(
        site=SITE,
        rows=counted.events,
        patients=len(labels),
        positives=int((labels["label"] == 1).sum()),
        excluded={
            **{reason: len(whom) for reason, whom in without.items()},
            **_without_split(labels["subject_id"].tolist(), given),
        },
        missing={},
        coded_missing={},
        duplicates=0,
    )
    return ConversionReport(SITE, (report,))


class Counted:
    """Counts events while they are read once for the labels."""

    def __init__(self) -> None:
        self.events = 0

    def of(self, source: Path) -> Iterator[pa.RecordBatch]:
        """Yield the events of a MEDS dataset."""
        for batch in meds.batches(source):
            self.events += len(batch)
            yield batch


def _without_split(subjects: list[int], given: dict[int, str]) -> dict[str, int]:
    count = sum(subject not in given for subject in subjects)
    return {"no split given": count} if count else {}


_SITE_FILE = """\
# MIMIC-IV demo in MEDS (PhysioNet mimic-iv-demo-meds 0.0.1, ODbL 1.0; van de Water, McDermott et
# al.; Johnson et al.). Written by `wardround dataset mimic-demo`.
# Labels: in-hospital death, 24 hours after the first admission of over 24 hours.

[site]
name = "mimic-demo"
device = "cpu"
state = "state"

[data]
events = { format = "meds", path = "data/meds" }
labels = "data/labels.parquet"
label = "in_hospital_death"
subgroups = ["sex", "age_band"]

[policy]
minimum_cell = 2                # 100 patients of public data; a hospital's own file says 10
score_bins = "fine"
"""
