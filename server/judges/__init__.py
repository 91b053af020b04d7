"""How a model is judged from what sites sent of it, by the kind of the study's task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from federation.study import Study
from federation.tasks import BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask, Task
from server.judges.base import Judge
from server.judges.binary import BinaryJudge
from server.judges.outcomes import OutcomesJudge
from server.judges.survival import SurvivalJudge

__all__ = ["JUDGES", "Judge", "judge_of"]

JUDGES: Mapping[type[Task], Callable[[Study], Judge[Any]]] = {
    BinaryTask: BinaryJudge,
    MulticlassTask: OutcomesJudge,
    MultilabelTask: OutcomesJudge,
    SurvivalTask: SurvivalJudge,
}


def judge_of(study: Study) -> Judge[Any]:
    """Return the judge of a study's models."""
    return JUDGES[type(study.task)](study)
