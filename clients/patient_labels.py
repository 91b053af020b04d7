"""One label a patient: from the site's files or rules, and of several tasks side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients.label_values import NOT_ALLOWED, value_columns
from clients.labels import labels_by_rule, labels_of_file
from clients.site import Site
from clients.sources.registry import site_events
from clients.sources.schema import Told
from clients.sources.settings import LabelRule
from clients.sources.subjects import SubjectIds
from federation.bodies import Reason
from federation.errors import UserError
from federation.tasks import BinaryTask, SeveralTask, SurvivalTask, Task

Subjects = dict[Reason, set[int]]

LATER: Reason = "later prediction times, not used"
OF_SOME: Reason = "no label of some of the tasks, used for the others"


@dataclass(frozen=True)
class PatientLabels:
    """Who is predicted, when, and the answers.

    Attributes:
        rows: ``subject_id``, ``prediction_time`` and a column for each of ``values``; a row a
            patient, by ascending subject.
        values: names of the columns of labels.
        labelled: subjects of whom the files say anything, ascending.
        without: those who are left out, by reason.
        notices: patients with something that a person should see.
        by_rule: whether a rule on the events gave any of them, so that nobody is unheard of.
    """

    rows: pd.DataFrame
    values: tuple[str, ...]
    labelled: NDArray[np.int64]
    without: Subjects
    notices: Subjects
    by_rule: bool


class Source(NamedTuple):
    """Where labels come from, and the key of the site file that says so."""

    key: str
    of: Path | LabelRule


def labels_of_patients(site: Site, task: Task, subjects: SubjectIds) -> PatientLabels:
    """Read a site's labels for a task.

    Of several tasks a patient is predicted once, at the first of the tasks' prediction times. A
    task that the site has no labels of, or that is asked at a later time, is not known of the
    patient.

    Raises:
        UserError: if a file is missing or malformed, or the site holds other labels.
    """
    if not isinstance(task, SeveralTask):
        return _of_one(site, task, _source(site, task), subjects)
    held = {name: _held(site, one.label, len(task.tasks)) for name, one in task.tasks.items()}
    if not any(held.values()):
        asked = ", ".join(f'"{one.label}"' for one in task.tasks.values())
        raise _other_labels(site, f"the study predicts {asked}", "one of these labels")
    read = {
        name: _of_one(site, task.tasks[name], source, subjects)
        for name, source in held.items()
        if source is not None
    }
    return _side_by_side(task, read)


def _source(site: Site, task: Task) -> Source:
    found = _held(site, task.label, 1)
    if found is None:
        asked = f'the study predicts task.label = "{task.label}"'
        raise _other_labels(site, asked, f'"{task.label}"')
    return found


def _held(site: Site, label: str, tasks: int) -> Source | None:
    """Return where the site has labels of a name; None if it has none.

    A source without a name is of any label, where the study has one task.
    """
    data = site.settings.data
    if isinstance(data.labels, dict):
        key = f"data.labels.{label}"
        rule = data.labels.get(label)
    else:
        key, rule = "data.labels", data.labels
        if data.label is None and tasks > 1:
            raise UserError(
                site.file,
                f"the labels have no name, and the study predicts {tasks} outcomes",
                field="data.labels",
                remedy="Give [data.labels] with a file for each label, or name the one that there "
                'is: data.label = "...".',
            )
        if data.label not in (None, label):
            return None
    if rule is None:
        return None
    return Source(key, rule if isinstance(rule, LabelRule) else site.label_files[key])


def _other_labels(site: Site, told: str, wanted: str) -> UserError:
    data = site.settings.data
    if isinstance(data.labels, dict):
        held, field = ", ".join(f'"{name}"' for name in data.labels), "data.labels"
    else:
        held, field = f'"{data.label}"', "data.label"
    return UserError(
        site.file,
        f"the labels are of {held}, {told}",
        field=field,
        remedy=f"Give in data.labels a file of {wanted}, or take part with another site file that "
        "does.",
    )


def _of_one(site: Site, task: Task, source: Source, subjects: SubjectIds) -> PatientLabels:
    without: Subjects = {}
    by_rule = isinstance(source.of, LabelRule)
    if isinstance(source.of, LabelRule):
        _check_rule(source, site, task)
        rows, without = labels_by_rule(source.of, site_events(site, subjects, Told()))
    else:
        rows = labels_of_file(source.of, subjects, task)
    values, notices = value_columns(task), Subjects()
    labelled = np.unique(rows["subject_id"].to_numpy())
    kept = one_label_each(rows, values, without, notices)
    return PatientLabels(kept, values, labelled, without, notices, by_rule)


def _check_rule(source: Source, site: Site, task: Task) -> None:
    assert isinstance(source.of, LabelRule)
    timed = source.of.time_to_event
    if isinstance(task, SurvivalTask if timed else BinaryTask):
        return
    told = "times to an outcome" if timed else "yes-or-no outcomes"
    remedy = f"Give in {source.key} a file of the labels."
    if isinstance(task, SurvivalTask):
        remedy = "Give time_to_event = true."
    raise UserError(
        site.file,
        f'the rule makes {told}, and the study\'s task.kind is "{task.kind}"',
        field=source.key,
        remedy=remedy,
    )


def one_label_each(
    labels: pd.DataFrame, values: Sequence[str], without: Subjects, notices: Subjects
) -> pd.DataFrame:
    """Keep one label per patient: the unit of everything is a person.

    Of several findings one that is known is enough; a time without its end, or the other way
    round, is none.
    """

    def drop(bad: pd.Series, reason: Reason) -> None:
        nonlocal labels
        if bad.any():
            kept = labels[~bad]
            gone = set(labels.loc[bad, "subject_id"]) - set(kept["subject_id"])
            without.setdefault(reason, set()).update(gone)
            labels = kept

    empty = labels[list(values)].isna()
    drop(empty.any(axis=1) if "event" in values else empty.all(axis=1), "label is empty")
    drop((labels[list(values)] == NOT_ALLOWED).any(axis=1), "label outside the classes")
    drop(labels["prediction_time"].isna(), "no prediction time")
    repeated = labels.duplicated()
    if repeated.any():
        notices["repeated label rows"] = set(labels.loc[repeated, "subject_id"])
        labels = labels[~repeated]
    labels = labels.sort_values(["subject_id", "prediction_time"], kind="stable")
    moment = ["subject_id", "prediction_time"]
    first = labels.groupby("subject_id")["prediction_time"].transform("min")
    at_first = labels["prediction_time"] == first
    unclear = labels["contradictory"] | labels.duplicated(moment, keep=False)
    drop(
        labels["subject_id"].isin(labels.loc[at_first & unclear, "subject_id"]),
        "contradictory labels",
    )
    later = labels.duplicated("subject_id")
    if later.any():
        notices[LATER] = set(labels.loc[later, "subject_id"])
    return labels[~later].reset_index(drop=True)


def _side_by_side(task: SeveralTask, read: Mapping[str, PatientLabels]) -> PatientLabels:
    """Put the labels of several tasks into one row a patient; not a number where one has none."""
    moments = pd.concat([one.rows[["subject_id", "prediction_time"]] for one in read.values()])
    rows = moments.groupby("subject_id", sort=True)["prediction_time"].min().to_frame()
    notices: Subjects = {}
    unknown = np.zeros(len(rows), bool)
    for name, part in task.tasks.items():
        columns = [f"{name}:{column}" for column in value_columns(part)]
        if name not in read:
            rows[columns] = np.nan
            unknown[:] = True
            continue
        own = read[name].rows.set_index("subject_id")
        timely = own["prediction_time"] == rows.loc[own.index, "prediction_time"]
        if not timely.all():
            notices.setdefault(LATER, set()).update(own.index[~timely])
        placed = own.loc[timely, list(read[name].values)].reindex(rows.index)
        rows[columns] = placed.to_numpy(np.float64)
        unknown |= placed.isna().all(axis=1).to_numpy()
        for reason, whom in read[name].notices.items():
            notices.setdefault(reason, set()).update(whom)
    if unknown.any():
        notices[OF_SOME] = set(rows.index[unknown])
    return PatientLabels(
        rows.reset_index(),
        value_columns(task),
        np.unique(np.concatenate([one.labelled for one in read.values()])),
        _nowhere(read.values(), set(rows.index)),
        {reason: whom & set(rows.index) for reason, whom in notices.items()},
        any(one.by_rule for one in read.values()),
    )


def _nowhere(read: Iterable[PatientLabels], kept: set[int]) -> Subjects:
    """Return who has a label of no task, each by the first reason that there is."""
    without: Subjects = {}
    told: set[int] = set()
    for one in read:
        for reason, whom in one.without.items():
            if new := whom - kept - told:
                without.setdefault(reason, set()).update(new)
                told |= new
    return without
