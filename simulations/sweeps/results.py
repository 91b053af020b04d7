"""What came of a sweep: one row a trial, and one a setting with intervals over its seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pydantic import ValidationError

from federation.errors import UserError
from federation.tasks import BinaryTask, SurvivalTask
from server.report.documents import Cell, Metrics, Privacy
from server.report.spending import reported
from simulations.sweeps.folder import FAILED, is_finished, trial_folder
from simulations.sweeps.plan import Plan, Trial
from simulations.sweeps.settings import Setting

METRICS: Mapping[str, str] = {
    "auroc": "AUROC, all hospitals",
    "worst_site_auroc": "AUROC, worst hospital",
    "worst_subgroup_auroc": "AUROC, worst subgroup",
    "mean_site_auroc": "AUROC, mean over hospitals",
    "brier": "Brier",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "ece": "ECE",
    "epsilon_spent": "ε spent, largest of any hospital",
}
SITE, SUBGROUP = "site:", "subgroup:"


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        reason: why it failed; empty if it succeeded.
        values: by name of ``METRICS``, and the AUROC of each ``site:`` and ``subgroup:``, or what
            stands in its place (``Results.rank``); None where there is none.
    """

    trial: Trial
    reason: str = ""
    seconds: float | None = None
    worst_site: str = ""
    worst_subgroup: str = ""
    values: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95% t-interval; without one where there are fewer than two."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0


@dataclass(frozen=True)
class Summary:
    """One setting over its seeds.

    Attributes:
        reference: what ``differences`` are from, seed by seed.
        ok: trials that succeeded.
        failed: trials that did not.
    """

    setting: Setting
    reference: Setting
    ok: int
    failed: int
    means: Mapping[str, Mean]
    differences: Mapping[str, Mean]


@dataclass(frozen=True)
class Results:
    """All of a sweep."""

    plan: Plan
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    names: tuple[str, ...]

    @property
    def rank(self) -> str:
        """What stands in the place of AUROC: of several outcomes its mean, of times the c-index."""
        if isinstance(self.plan.task, SurvivalTask):
            return "c-index"
        return "AUROC" if isinstance(self.plan.task, BinaryTask) else "mean AUROC"

    def title(self, name: str) -> str:
        """Return what one of ``METRICS`` is called, for this kind of task."""
        title = METRICS[name].replace("AUROC", self.rank)
        timed = isinstance(self.plan.task, SurvivalTask)
        return title.replace("Brier", "Integrated Brier") if timed else title

    def column(self, name: str) -> str:
        """Return the name of a value in files for programs."""
        if not isinstance(self.plan.task, SurvivalTask):
            return name
        return name.replace("auroc", "c_index").replace("brier", "integrated_brier")

    @property
    def failed(self) -> list[Row]:
        """The trials without a result."""
        return [row for row in self.rows if row.values is None]


def collect(plan: Plan, out: Path) -> Results:
    """Read the trials' run folders.

    Raises:
        UserError: if a file in one of them is damaged.
    """
    rows = tuple(_row(trial, trial_folder(out, trial)) for trial in plan.trials)
    found = {name for row in rows for name in row.values or {}}
    return Results(plan, rows, summarise(plan, rows), (*METRICS, *sorted(found - METRICS.keys())))


def summarise(plan: Plan, rows: Iterable[Row]) -> tuple[Summary, ...]:
    """Average each setting over its seeds, and pair it with its reference."""
    by_setting: dict[str, dict[int, Row]] = {one.slug: {} for one in plan.settings}
    for row in rows:
        by_setting[row.trial.setting.slug][row.trial.seed] = row
    names = dict.fromkeys(
        n for seeds in by_setting.values() for r in seeds.values() for n in r.values or {}
    )
    summaries = []
    for setting in plan.settings:
        mine, reference = by_setting[setting.slug], plan.reference(setting)
        theirs = by_setting[reference.slug]
        ok = sum(row.values is not None for row in mine.values())
        differences = (
            {}
            if reference is setting
            else {
                name: paired_difference(_by_seed(mine, name), _by_seed(theirs, name))
                for name in names
            }
        )
        means = {name: t_interval(list(_by_seed(mine, name).values())) for name in names}
        summaries.append(Summary(setting, reference, ok, len(mine) - ok, means, differences))
    return tuple(summaries)


def t_interval(values: Sequence[float]) -> Mean:
    """Return the mean with its 95% interval by Student's t.

    >>> round(t_interval([0.7, 0.8, 0.9]).low, 4)
    0.5516
    >>> t_interval([0.7])
    Mean(value=0.7, low=None, high=None, seeds=1)
    """
    from scipy.special import stdtrit  # slow to load

    if not values:
        return Mean()
    mean, n = fmean(values), len(values)
    if n < 2:
        return Mean(mean, seeds=n)
    half = float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def paired_difference(mine: Mapping[int, float], reference: Mapping[int, float]) -> Mean:
    """Return the mean difference over the seeds that both have."""
    return t_interval([mine[seed] - reference[seed] for seed in mine if seed in reference])


def _row(trial: Trial, folder: Path) -> Row:
    if not is_finished(folder, trial.study):
        return Row(trial, _reason(folder / FAILED))
    try:
        metrics = _one_outcome(json.loads((folder / "metrics.json").read_bytes()))
        privacy = Privacy.model_validate_json((folder / "privacy.json").read_bytes())
        seconds = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["seconds"]
    except (OSError, ValueError, KeyError) as error:
        told = "a file is missing or damaged"
        if isinstance(error, ValidationError):
            told = str(error.errors()[0]["msg"])
        raise UserError(
            folder, told, remedy="Remove this folder and run the sweep again."
        ) from None
    model = metrics.models["federated"]
    sites = {name: _value(cell, "auroc") for name, cell in sorted(model.sites.items())}
    groups = {name: _value(cell, "auroc") for name, cell in sorted(model.subgroups.items())}
    known = [value for value in sites.values() if value is not None]
    worst_site, site_auroc = _worst(sites)
    worst_subgroup, subgroup_auroc = _worst(groups)
    values = {
        **{name: _value(model.overall, name) for name in METRICS if name in Cell.model_fields},
        "worst_site_auroc": site_auroc,
        "worst_subgroup_auroc": subgroup_auroc,
        "mean_site_auroc": fmean(known) if known else None,
        "epsilon_spent": epsilon_spent(privacy),
        **{f"{SITE}{name}": value for name, value in sites.items()},
        **{f"{SUBGROUP}{name}": value for name, value in groups.items()},
    }
    return Row(trial, "", seconds, worst_site, worst_subgroup, values)


def _one_outcome(document: dict[str, Any]) -> Metrics:
    """Read metrics.json, with the figures of several outcomes or of times in the one's places."""
    for model in document["models"].values():
        for cells in ({"": model.get("overall", {})}, model["sites"], model["subgroups"]):
            for cell in cells.values():
                cell |= cell.get("macro", {})
                if "c_index" in cell:
                    cell["auroc"] = cell["c_index"]
                    cell["brier"] = cell.get("integrated_brier")
    return Metrics.model_validate(document)


def epsilon_spent(privacy: Privacy) -> float | None:
    """Return the largest epsilon of any site, by the accountant that is reported."""
    found = [reported(site)[1] for site in privacy.sites.values()]
    return max((value for value in found if value is not None), default=None)


def _reason(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError):
        return "it was not run to its end"


def _value(cell: Cell, name: str) -> float | None:
    metric = getattr(cell, name)
    return None if metric is None else metric.value


def _worst(values: Mapping[str, float | None]) -> tuple[str, float | None]:
    known = {name: value for name, value in values.items() if value is not None}
    name = min(known, key=known.__getitem__, default="")
    return name, known.get(name)


def _by_seed(rows: Mapping[int, Row], name: str) -> dict[int, float]:
    values = {seed: (row.values or {}).get(name) for seed, row in sorted(rows.items())}
    return {seed: value for seed, value in values.items() if value is not None}
