"""Judging several tasks of the same patients: each as if it were the only one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from federation.metrics.several import SeveralSummary
from federation.study import EvaluationSection
from federation.tasks import SeveralTask, Task
from federation.tasks.several import MEAN
from server.cells import Cell
from server.judges.base import BySite, Document, Headline, Judge
from server.judges.joined import (
    TABLES,
    cells_apart,
    joined_cells,
    joined_marks,
    joined_tables,
    mean_of,
)
from server.judges.single import SINGLE
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation

TOGETHER = "no interval: tasks of the same patients hang together in a way that is not told"
BY_TASK = "by_task"

Sent = Sequence[SiteEvaluation[SeveralSummary]]


class SeveralJudge(Judge[SeveralSummary]):
    """See `Judge`; what is said of a task is what its own judge says."""

    def __init__(self, task: Task, evaluation: EvaluationSection):
        super().__init__(task, evaluation)
        assert isinstance(task, SeveralTask)
        self._judges: Mapping[str, Judge[Any]] = {
            name: SINGLE[type(one)](one, evaluation) for name, one in task.tasks.items()
        }

    def headline(self, summaries: Sequence[SeveralSummary], own: bool = False) -> Headline:
        """Each task's metrics, ``death.auroc``, and the mean of the first ones.

        The mean is of the tasks that any site tells of. There is none if one of those could not be
        computed, for it would be a mean of other tasks than in another round.
        """
        told: Headline = {}
        firsts = []
        for name, judge in self._judges.items():
            known = [one.tasks[name] for one in summaries if name in one.tasks]
            found = judge.headline(known, own) if known else {}
            if known:
                firsts.append(found[judge.task.metrics[0]])
            told |= {f"{name}.{metric}": found.get(metric) for metric in judge.task.metrics}
        return {MEAN: None if None in firsts else mean_of(firsts), **told}

    def model(self, tested: Scored) -> Document:
        """See `Judge`."""
        held_out, tuning = cast(Sent, tested.held_out), cast(Sent, tested.tuning)
        return self._joined(
            {
                name: judge.model(
                    replace(tested, held_out=of(held_out, name), tuning=of(tuning, name))
                )
                for name, judge in self._judges.items()
            }
        )

    def own_models(self, tested: Sent, tuning: BySite[SeveralSummary]) -> Document:
        """See `Judge`."""
        return self._joined(
            {
                name: judge.own_models(of(tested, name), _of_each(tuning, name))
                for name, judge in self._judges.items()
            }
        )

    def local_models(
        self, tested: BySite[SeveralSummary], tuning: BySite[SeveralSummary]
    ) -> tuple[Document, Document]:
        """See `Judge`."""
        each = {
            name: judge.local_models(_of_each(tested, name), _of_each(tuning, name))
            for name, judge in self._judges.items()
        }
        crossed = {name: crossed for name, (_, crossed) in each.items()}
        models = self._joined({name: model for name, (model, _) in each.items()})
        return models, joined_cells(crossed, self._cell)

    def joining(self, federated: Sent, local: BySite[SeveralSummary], together: Sent) -> Document:
        """By task; unpaired, for sites score both models at once of one outcome alone."""
        return {
            "tasks": {
                name: judge.joining(of(federated, name), _of_each(local, name), [])
                for name, judge in self._judges.items()
            }
        }

    def doubt(self, model: Document) -> str:
        """See `Judge`."""
        doubts = {
            name: judge.doubt(model_of_task(model, name)) for name, judge in self._judges.items()
        }
        return " ".join(f"{name}: {doubt}" for name, doubt in doubts.items() if doubt)

    def _joined(self, each: Mapping[str, Document]) -> Document:
        """One entry of the entries of all tasks."""
        by_task = {
            name: {key: told for key, told in model.items() if key not in TABLES}
            for name, model in each.items()
        }
        return {**joined_tables(each, self._cell), BY_TASK: by_task}

    def _cell(self, each: Mapping[str, Cell]) -> Cell:
        """The cells of all tasks as one; withheld if all are, for one reason."""
        marks = joined_marks(each)
        if "suppressed" in marks:
            return marks
        firsts = {
            name: (first_metric(cell, self._judges[name].task) or {}).get("value")
            for name, cell in each.items()
        }
        mean = mean_of(list(firsts.values()))
        return {
            "n": max(cell.get("n", 0) for cell in each.values()),
            "tasks": dict(each),
            MEAN: {
                "value": None if mean is None else round(mean, 6),
                "low": None,
                "high": None,
                "reason": "no task has its first metric" if mean is None else TOGETHER,
                "of": sum(value is not None for value in firsts.values()),
            },
            **marks,
        }


def of(sent: Sent, name: str) -> list[SiteEvaluation[Any]]:
    """What sites sent of one task."""
    found = []
    for one in sent:
        cells = {cell: told.tasks[name] for cell, told in one.cells.items() if name in told.tasks}
        withheld = {
            cell: told.withheld[name] for cell, told in one.cells.items() if name in told.withheld
        }
        found.append(SiteEvaluation(one.site, cells, {**one.withheld, **withheld}))
    return found


def first_metric(cell: Cell, task: Task) -> Cell | None:
    """A cell's first metric, with its interval; of several outcomes the mean."""
    found: Cell | None = cell.get("macro", cell).get(task.metrics[0])
    return found


def model_of_task(model: Mapping[str, Any], name: str) -> Document:
    """One task's part of a model's entry, as it would be if it were alone."""
    tables = cells_apart({table: model[table] for table in TABLES}, lambda cell: _taken(cell, name))
    return {**tables, **model[BY_TASK][name]}


def cross_site_of_task(found: Mapping[str, Any], name: str) -> Document:
    """Likewise of ``cross_site``."""
    return cells_apart(found, lambda cell: _taken(cell, name))


def _taken(cell: Cell, name: str) -> Cell | None:
    return cell if "suppressed" in cell else cell["tasks"].get(name)


def _of_each(by_site: BySite[SeveralSummary], name: str) -> dict[str, list[SiteEvaluation[Any]]]:
    return {site: of(sent, name) for site, sent in by_site.items()}
