"""Letting sites score a model on a split of their patients."""

from __future__ import annotations

from dataclasses import replace

from federation.bodies import EvaluateBody
from federation.messages import EVALUATE
from federation.models.build import Vector
from federation.study import Split
from server.evaluator import SiteEvaluation
from server.exchange import UNREADABLE, Answer, encode
from server.task import Task


def evaluate(
    task: Task, weights: Vector, split: Split, round_: int = 0, shared: bool = False
) -> tuple[list[SiteEvaluation], dict[str, str]]:
    """Let the sites score a split.

    Args:
        task: the model.
        weights: the coordinator's, after some round.
        split: which patients.
        round_: the round; 0 outside of rounds.
        shared: whether to score these very weights where sites use models of their own.

    Returns:
        What each site sent, by site; and why the others sent nothing.
    """
    nodes = task.nodes()
    instruction = replace(task.instruction(weights, round_, split), shared=shared)
    instructions = encode(instruction, nodes)
    evaluations, failed = [], {}
    for answer in task.exchange.ask(EVALUATE, instructions, nodes, task.deadline, str(round_)):
        try:
            evaluations.append(read_evaluation(answer))
        except ValueError as error:
            failed[answer.site] = str(error)
    return sorted(evaluations, key=lambda e: e.site), dict(sorted(failed.items()))


def read_evaluation(answer: Answer) -> SiteEvaluation:
    """Read a site's summaries, which are not trusted.

    Raises:
        ValueError: with the reason why there are none.
    """
    if answer.failure or answer.reply is None:
        raise ValueError(answer.failure)
    assert isinstance(answer.reply.body, EvaluateBody)
    body = answer.reply.body
    try:
        return SiteEvaluation(answer.site, body.summaries(), dict(body.withheld))
    except ValueError:
        raise ValueError(UNREADABLE) from None
