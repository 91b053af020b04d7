"""How a model is judged from what sites sent of it, by the kind of the study's task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from federation.study import EvaluationSection, Study
from federation.tasks import SeveralTask, Task
from server.judges.base import Judge
from server.judges.several import SeveralJudge
from server.judges.single import SINGLE

__all__ = ["JUDGES", "Judge", "judge_of"]

JUDGES: Mapping[type[Task], Callable[[Task, EvaluationSection], Judge[Any]]] = {
    **SINGLE,
    SeveralTask: SeveralJudge,
}


def judge_of(study: Study) -> Judge[Any]:
    """Return the judge of a study's models."""
    return JUDGES[type(study.task)](study.task, study.evaluation)
