"""Runs side by side: what they measured, how the later ones differ from the first, and in what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.errors import UserError
from federation.messages import model_digest
from server.finished_run import finished_run
from server.report.documents import Cell, Metric
from server.report.run_folder import RunFolder
from server.report.several import runs_of_tasks
from server.report.spending import reported
from server.report.text import ALL, METRICS, flattened, shown, subgroup_name

SCHEMA = "wardround.compare/1"
MEAN = "Mean of the hospitals"
UNPAIRED = (
    "Differences are unpaired: they are taken as if the runs' patients were others, so where they "
    "are the same the intervals are wider than need be. `wardround simulate --compare-with RUN` "
    "lets the sites score both models at once."
)
PAIRED = "Differences marked paired are of sites that scored both models on the same patients."


@dataclass(frozen=True)
class Row:
    """One metric of one group of patients in every run.

    Args:
        group: all hospitals, a hospital or a subgroup.
        metric: its name in metrics.json.
        values: of each run.
        differences: of each run after the first, less the first.
        paired: of each run after the first, whether both scored the same patients at once.
    """

    group: str
    metric: str
    values: Sequence[Metric]
    differences: Sequence[Metric]
    paired: Sequence[bool]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        names: of the runs, as they were given.
        facts: of each run: study, seed, patients, privacy.
        settings: keys of the studies that differ, with each run's value.
        rows: the metrics.
    """

    names: Sequence[str]
    facts: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Sequence[str]]
    rows: Sequence[Row]

    @property
    def note(self) -> str:
        """How the differences are to be read."""
        return PAIRED if any(any(row.paired) for row in self.rows) else UNPAIRED

    def to_json(self) -> dict[str, Any]:
        """The whole comparison for programs."""
        return {
            "schema": SCHEMA,
            "runs": [{"run": n, **f} for n, f in zip(self.names, self.facts, strict=True)],
            "settings": {key: list(values) for key, values in self.settings.items()},
            "metrics": [
                {
                    "group": row.group,
                    "metric": row.metric,
                    "values": [one.model_dump() for one in row.values],
                    "differences": [
                        {**one.model_dump(), "paired": paired}
                        for one, paired in zip(row.differences, row.paired, strict=True)
                    ],
                }
                for row in self.rows
            ],
            "note": self.note,
        }


def comparison(runs: Mapping[str, RunFolder]) -> Comparison:
    """Put runs side by side.

    Args:
        runs: by name, the one to compare with first.

    Raises:
        UserError: if they predict different outcomes.
    """
    first, *later = runs.values()
    for name, run in runs.items():
        if _outcome(run) != _outcome(first):
            raise UserError(
                name,
                f"it predicts another outcome than {next(iter(runs))}, so they are not comparable",
                field="task (study.toml)",
            )
    paired = [_paired(run, first) for run in later]
    rows = [*_mean_rows(paired), *_rows(list(runs.values()), paired)]
    return Comparison(list(runs), [_facts(run) for run in runs.values()], _settings(runs), rows)


def difference(before: Metric | None, after: Metric | None) -> Metric:
    """The later less the earlier, with an interval from the two intervals (MOVER).

    The two are taken as independent.

    Source: Zou and Donner, Statistics in Medicine 2008.

    >>> a, b = Metric(value=0.7, low=0.67, high=0.73), Metric(value=0.8, low=0.76, high=0.84)
    >>> found = difference(a, b)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.1, 0.05, 0.15)
    """
    if before is None or after is None or before.value is None or after.value is None:
        return Metric(reason="not known in both runs")
    gap = after.value - before.value
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return Metric(value=gap, reason="no interval: one of the two has none")
    low = gap - math.hypot(after.value - after.low, before.high - before.value)
    high = gap + math.hypot(after.high - after.value, before.value - before.low)
    return Metric(value=gap, low=low, high=high)


def _rows(runs: Sequence[RunFolder], paired: Sequence[Mapping[str, Metric]]) -> Iterator[Row]:
    groups = [_groups(run) for run in runs]
    for group in dict.fromkeys(name for one in groups for name in one):
        for metric in METRICS:
            values = [_metric(one.get(group), metric) for one in groups]
            if all(one.value is None for one in values):
                continue
            told = [by_site.get(group) if metric == "auroc" else None for by_site in paired]
            differences = [
                known or difference(values[0], value)
                for known, value in zip(told, values[1:], strict=True)
            ]
            yield Row(group, metric, values, differences, [one is not None for one in told])


def _mean_rows(paired: Sequence[Mapping[str, Metric]]) -> Iterator[Row]:
    """The paired difference over all hospitals, which has no values of its own."""
    told = [by_site.get(MEAN) for by_site in paired]
    if any(told):
        unknown = Metric(reason="not scored together")
        nothing = [Metric(reason="differences only")] * (len(told) + 1)
        found = [one or unknown for one in told]
        yield Row(MEAN, "auroc", nothing, found, [one is not None for one in told])


def _paired(run: RunFolder, first: RunFolder) -> dict[str, Metric]:
    """Differences of AUROC at sites that scored this very pair of models at once, by site."""
    earlier = run.metrics.predecessor
    if earlier is None or earlier.model != model_digest(finished_run(first.path).weights):
        return {}
    found = {
        site: one.difference
        for site, one in earlier.sites.items()
        if one.paired and one.difference is not None
    }
    return {**found, MEAN: earlier.mean} if found else {}


def _groups(run: RunFolder) -> dict[str, Cell]:
    """The cells of all hospitals, of each, and of each subgroup; of several tasks task by task."""
    if each := runs_of_tasks(run):
        return {
            f"{task}: {group}": cell
            for task, one in each.items()
            for group, cell in _groups(one).items()
        }
    model = run.model
    return {
        ALL: model.overall,
        **dict(sorted(model.sites.items())),
        **{subgroup_name(name): cell for name, cell in sorted(model.subgroups.items())},
    }


def _metric(cell: Cell | None, name: str) -> Metric:
    if cell is None or cell.suppressed:
        return Metric(reason="not measured" if cell is None else f"withheld: {cell.suppressed}")
    found: Metric | None = getattr(cell, name)
    return found or Metric(reason="not measured")


def _facts(run: RunFolder) -> dict[str, Any]:
    spent = {site: reported(one)[1] for site, one in run.privacy.sites.items()}
    known = [epsilon for epsilon in spent.values() if epsilon is not None]
    return {
        "study": run.metrics.study,
        "fingerprint": run.metrics.fingerprint,
        "seed": run.metrics.seed,
        "rounds": len(run.rounds),
        "sites": len(run.sites),
        "patients": run.model.overall.n,
        "mechanism": run.privacy.mechanism,
        "largest_epsilon": max(known, default=None),
        "warnings": len(run.warnings),
    }


def _settings(runs: Mapping[str, RunFolder]) -> dict[str, list[str]]:
    studies = [dict(flattened(run.study)) for run in runs.values()]
    keys = dict.fromkeys(key for study in studies for key in study if key != "study.fingerprint")
    told = {
        key: [shown(study[key]) if key in study else "not set" for study in studies]
        for key in sorted(keys)
    }
    return {key: values for key, values in told.items() if len(set(values)) > 1}


def _outcome(run: RunFolder) -> list[tuple[Any, Any]]:
    task = run.study.get("task", {})
    each = [task, *task.get("tasks", {}).values()]
    return [(one.get("label"), one.get("kind")) for one in each]
