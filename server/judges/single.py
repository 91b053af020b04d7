"""The judge of each kind of a single task: a line for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from federation.study import EvaluationSection
from federation.tasks import BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask, Task
from server.judges.base import Judge
from server.judges.binary import BinaryJudge
from server.judges.outcomes import OutcomesJudge
from server.judges.survival import SurvivalJudge

SINGLE: Mapping[type[Task], Callable[[Task, EvaluationSection], Judge[Any]]] = {
    BinaryTask: BinaryJudge,
    MulticlassTask: OutcomesJudge,
    MultilabelTask: OutcomesJudge,
    SurvivalTask: SurvivalJudge,
}
