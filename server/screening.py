"""Leaving out updates that do not fit the others of their round, or that do harm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from federation.collect import UpdateList
from federation.layout import LOCAL
from federation.messages import EVALUATE
from federation.models.build import Vector
from federation.strategies.base import ScreeningSection
from server.judges import judge_of
from server.robust import screened
from server.scoring import read_evaluation
from server.task import Task

FEWEST = 3
"""Of two, nobody can say which one is odd."""
HARMFUL = "the update makes the model worse where it is judged"
NOT_JUDGED = "the judge did not answer"


def screen_round(
    updates: UpdateList, task: Task, weights: Vector, round_: int
) -> tuple[dict[str, str], str]:
    """Leave updates out of a round.

    Args:
        updates: of the round.
        task: the model, whose study says how updates are screened.
        weights: the model that was sent.
        round_: the round.

    Returns:
        Why, by site; and what kept updates from being judged, or nothing.
    """
    section = task.study.strategy.screening
    if section is None:
        return {}, ""
    found = _compared(updates, section)
    for site in found:
        updates.drop(site)
    harmful, problem = _judged(updates, section, task, weights, round_)
    for site in harmful:
        updates.drop(site)
    return found | harmful, problem


def _compared(updates: UpdateList, section: ScreeningSection) -> dict[str, str]:
    """Compare each part of the model over the sites that moved it.

    So a site without images is not odd for that.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(part.name for part in updates.layout.model if part.name != LOCAL):
        stretches = [slice(p.start, p.stop) for p in updates.layout.model if p.name == name]
        moved = [one for one in updates.updates if one.weights[name]]
        if len(moved) < FEWEST:
            continue
        rows = np.stack([np.concatenate([one.update[s] for s in stretches]) for one in moved])
        odd = screened(
            rows, largest_norm_ratio=section.norm_ratio, least_cosine=section.least_cosine
        )
        for place, why in odd.items():
            found.setdefault(moved[place].site, why)
    return found


def _judged(
    updates: UpdateList, section: ScreeningSection, task: Task, weights: Vector, round_: int
) -> tuple[dict[str, str], str]:
    """Let one trusted site score the model with each update, on its tuning split.

    An update is harmful if the Brier score is larger with it than without, by more than the study
    allows. The judge's own update is not judged.
    """
    if section.judge is None or section.most_harm is None:
        return {}, ""
    node = task.nodes().get(section.judge)
    if node is None:
        return {}, NOT_JUDGED
    parameters = updates.layout.parameters
    models = {
        one.site: weights + one.update[:parameters]
        for one in updates.updates
        if one.site != section.judge
    }
    models[section.judge] = weights
    instructions = {
        site: replace(task.instruction(model, round_, "tuning"), shared=True).to_records()
        for site, model in models.items()
    }
    nodes = dict.fromkeys(models, node)
    scores: dict[str, float] = {}
    for answer in task.exchange.ask(EVALUATE, instructions, nodes, task.deadline, str(round_)):
        try:
            cell = read_evaluation(answer, task.study).cells.get("")
        except ValueError:
            continue
        value = None if cell is None else judge_of(task.study).headline([cell])["brier"]
        if value is not None:
            scores[answer.site] = value
    if section.judge not in scores:
        return {}, NOT_JUDGED
    limit = scores.pop(section.judge) + section.most_harm
    unjudged = NOT_JUDGED if len(scores) < len(models) - 1 else ""
    return {site: HARMFUL for site, score in sorted(scores.items()) if score > limit}, unjudged
