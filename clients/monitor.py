"""How a finished model does on a site's new patients. Nothing of it leaves the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.evaluation import predict
from clients.inputs import input_levels
from clients.site import load_site
from clients.workbench import Workbench, choose_device
from federation.bodies import Inputs
from federation.errors import UserError
from federation.metrics.summary import ScoreSummary
from federation.models.build import Vector
from federation.study import Study
from federation.subgroups import WINDOW
from federation.vocabulary import Vocabulary
from federation.windows import WindowsSection


@dataclass(frozen=True)
class Period:
    """Which patients are looked at.

    Attributes:
        since: prediction times from this date on, UTC; None looks at the patients of the site's
            held-out split, whom the model was not trained on.
        until: up to this date, itself not included.
        windows: into how many parts of about equal size they are divided, in order of their times.
    """

    since: date | None = None
    until: date | None = None
    windows: int = 1


@dataclass(frozen=True)
class Monitored:
    """What a model did on the patients of a period, by window.

    Attributes:
        site: its name.
        summaries: by window.
        inputs: patients by window, input and level.
        excluded: patients left out of the site's data, by reason.
    """

    site: str
    summaries: Mapping[str, ScoreSummary]
    inputs: Inputs = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)


def monitored(
    file: Path, study: Study, vocabulary: Vocabulary | None, weights: Vector, period: Period
) -> Monitored:
    """Score a period's patients at a site, in windows.

    Where the site's ``score_bins`` is "merged" they are counted as the run counted its patients, so
    that like is compared with like.

    Args:
        file: the site's folder or its site.toml.
        study: the run's.
        vocabulary: the run's.
        weights: of its model.
        period: which patients.

    Raises:
        UserError: if the site's files cannot be read, or nobody lies in the period.
    """
    site, workbench = load_site(file), Workbench()
    cohort = workbench.cohort(str(site.file), study, vocabulary)
    rows = _rows(cohort.patients.times, cohort.patients.splits["held_out"], period)
    if not len(rows):
        raise UserError(
            site.file,
            "no patient lies in the period",
            field="--since and --until" if period.since or period.until else "split",
            remedy="Give another --since, or bring the site's data up to date.",
        )
    model = workbench.model(study, vocabulary, choose_device(site))
    model.load(weights)
    scores = predict(model, cohort, rows, study.task)
    labels = cohort.patients.labels[rows]
    window = np.ones(len(rows), np.int64)
    if period.windows > 1:
        window = WindowsSection(number=period.windows).of(cohort.patients.times[rows])
    summaries: dict[str, ScoreSummary] = {}
    inputs: Inputs = {}
    for number in np.unique(window):
        inside = window == number
        summary = ScoreSummary.from_scores(scores[inside], labels[inside])
        if site.policy.score_bins == "merged" and summary.n >= site.policy.minimum_cell:
            summary = summary.merged(site.policy.minimum_cell)
        name = f"{WINDOW}={number}"
        summaries[name] = summary
        inputs[name] = {
            feature: dict(levels)
            for feature, levels in input_levels(cohort, study, vocabulary, rows[inside]).items()
        }
    return Monitored(site.name, summaries, inputs, cohort.patients.excluded)


def _rows(
    times: NDArray[np.int64], held_out: NDArray[np.int64], period: Period
) -> NDArray[np.int64]:
    chosen = np.ones(len(times), bool)
    if period.since is None:
        chosen[:] = False
        chosen[held_out] = True
    else:
        chosen &= times >= _seconds(period.since)
    if period.until is not None:
        chosen &= times < _seconds(period.until)
    return np.flatnonzero(chosen)


def _seconds(day: date) -> int:
    return int(np.datetime64(day, "s").astype(np.int64))
