"""A site of tables, FHIR, OMOP or labels by a rule as a MEDS site, which shifts can be applied to.

A study reads the same patients from both, to the last bit: their identifiers, splits, labels and
events are those that the site's own reader makes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from clients.label_values import value_columns
from clients.patient_labels import labels_of_patients
from clients.site import Site, load_site
from clients.sources.registry import site_events
from clients.sources.schema import EVENT_SCHEMA, TIME, Told
from clients.sources.subjects import SubjectIds
from federation.errors import UserError
from federation.tasks import BinaryTask, MultilabelTask, SurvivalTask, Task
from federation.tasks.multilabel import UNCERTAIN
from federation.validation import read_toml
from simulations.shifts.outcomes import YES_OR_NO

EVENTS, LABELS = "data/meds", "data/labels.parquet"
JUST_BEFORE = np.timedelta64(1, "us")


def is_meds(site: Site) -> bool:
    """Whether a site holds MEDS events and a parquet file of labels."""
    labels = site.labels
    meds = site.settings.data.events.format == "meds"
    return meds and labels is not None and labels.suffix == ".parquet"


def as_meds(site: Site, task: Task, folder: Path) -> tuple[Site, str]:
    """Write a site's events and labels as MEDS; images and state stay where they are.

    Of a site that has several labels by name, those of the task are written.

    Args:
        site: of any format.
        task: says how labels are read.
        folder: to make.

    Returns:
        The site, and what was left out on the way.

    Raises:
        UserError: if a file cannot be read as the site file says, or is of another kind of label.
    """
    subjects, told = SubjectIds(site.patient_key), Told()
    found = labels_of_patients(site, _of_site(task, site), subjects)
    times = found.rows["prediction_time"]
    labels = {
        "subject_id": pa.array(found.rows["subject_id"], pa.int64()),
        # Of a rule's labels, events at the prediction time itself are not used.
        "prediction_time": pa.array(times - JUST_BEFORE if found.by_rule else times, TIME),
        **_values(found.rows, task),
    }
    (folder / EVENTS / "data").mkdir(parents=True)
    with pq.ParquetWriter(folder / EVENTS / "data/0.parquet", EVENT_SCHEMA) as writer:
        for batch in site_events(site, subjects, told):
            writer.write_batch(batch)
    pq.write_table(pa.table(labels), folder / LABELS)
    if (site.events / "metadata").is_dir():  # splits that are given, and what codes mean
        shutil.copytree(site.events / "metadata", folder / EVENTS / "metadata")
    document = read_toml(site.file)
    document["site"]["state"] = str(site.state)
    document["data"]["events"] = {"format": "meds", "path": EVENTS}
    if isinstance(site.settings.data.labels, dict):
        document["data"]["label"] = task.label
    document["data"]["labels"] = LABELS
    if site.images is not None:
        document["data"]["images"]["path"] = str(site.images)
    (folder / "site.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    counts = {reason: len(whom) for reason, whom in found.without.items()} | told.rows
    return load_site(folder), "; ".join(f"{reason}: {n}" for reason, n in counts.items())


def _of_site(task: Task, site: Site) -> Task:
    """The task by the site's name of it, where no study has given one."""
    data = site.settings.data
    if task is not YES_OR_NO:
        return task
    if isinstance(data.labels, dict):
        raise UserError(
            site.file,
            f"there are several labels: {', '.join(data.labels)}",
            field="data.labels",
            remedy="Give reshape the --study that says which.",
        )
    return BinaryTask(label=data.label or task.label)


def _values(rows: pd.DataFrame, task: Task) -> dict[str, pa.Array]:
    """Columns from which a study of the task reads the same labels."""
    values = {name: rows[name].to_numpy(np.float64) for name in value_columns(task)}
    if isinstance(task, MultilabelTask):
        unknown = UNCERTAIN if task.uncertain == "ignore" else None
        return {
            name: pa.array([unknown if np.isnan(v) else int(v) for v in column], pa.int64())
            for name, column in zip(task.labels, values.values(), strict=True)
        }
    if isinstance(task, SurvivalTask):
        days, event = values.values()
        return {"float_value": pa.array(days), "boolean_value": pa.array(event == 1)}
    (label,) = values.values()
    if isinstance(task, BinaryTask):
        return {"boolean_value": pa.array(label == 1)}
    return {"integer_value": pa.array(label, pa.int64())}
