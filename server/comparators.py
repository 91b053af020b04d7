"""What the federated model is compared with, trained in the same simulation.

``local``: each site alone. ``pooled``: all patients in one place. ``single_modality``: the same
federation with one modality. ``leave_one_out``: the same federation without each site in turn.
``logistic_regression``: the same federation of the simplest model. On real sites each of these
would cost privacy; none is run there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from federation.bodies import TrainBody
from federation.errors import UserError
from federation.messages import TRAIN
from federation.modalities import Modality
from federation.models.build import Vector
from federation.reduce import UpdateRejected, screen
from server.exchange import Answer
from server.rounds import RoundsResult, run_rounds
from server.scoring import Scored, evaluate, evaluate_each, scored_finished
from server.site_evaluation import SiteEvaluation
from server.task import Heard, Task


@dataclass(frozen=True)
class Comparators:
    """Models trained beside the federated one, each tested at every site.

    Attributes:
        models: what the sites sent, by name of the model.
        local: held-out evaluations of the model that each site trained alone, by that site.
        alone: weights of the model that each site trained alone.
        local_tuning: each site's tuning split, scored by its own model.
        left_out: each site's patients, scored by the model of the others, and the others' tuning
            splits.
        failed: why a model is missing, by its name.
        spent: what sites said of their patients' privacy, by model and site.
    """

    models: dict[str, Scored] = field(default_factory=dict)
    local: dict[str, list[SiteEvaluation[Any]]] = field(default_factory=dict)
    alone: dict[str, Vector] = field(default_factory=dict)
    local_tuning: list[SiteEvaluation[Any]] = field(default_factory=list)
    left_out: dict[str, Scored] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    spent: dict[str, dict[str, Any]] = field(default_factory=dict)


def train_comparators(task: Task, tell: Callable[[str], None]) -> Comparators:
    """Train and test what the study's ``evaluation.baselines`` names."""
    found = Comparators()
    wanted = task.study.evaluation.baselines
    if "local" in wanted:
        tell("comparator: each site alone")
        _local(replace(task, study=task.study.plain()), found)
    if "leave_one_out" in wanted:
        _leave_one_out(task, found, tell)
    if "logistic_regression" in wanted and task.study.modalities.ehr is not None:
        tell("comparator: logistic regression")
        _logistic_regression(task, found)
    if "pooled" in wanted:
        tell("comparator: pooled")
        _pooled(task, found)
    if "single_modality" in wanted and len(task.study.modalities.names) > 1:
        for name in task.study.modalities.names:
            tell(f"comparator: {name} alone")
            _single_modality(task, name, found)
    return found


def _pooled(task: Task, found: Comparators) -> None:
    """Train on all sites' patients in one place, for as many rounds."""
    node = task.exchange.pooled_node
    assert node is not None
    sites = max(len(task.nodes()), 1)
    everybody = replace(
        task, study=task.study.plain(), model="pooled", measured=False, patience=float(sites)
    )
    result = run_rounds(replace(everybody, only={"pooled": node}, quorum=1))
    _keep("pooled", everybody, result, found)


def _single_modality(task: Task, name: Modality, found: Comparators) -> None:
    """Train the same federation on one modality; test it on the same patients."""
    alone = replace(
        task,
        model=f"only:{name}",
        study=task.study.only(name),
        vocabulary=task.vocabulary if name == "ehr" else None,
        measured=False,
    )
    try:
        _keep(f"{name}_only", alone, run_rounds(alone), found)
    except UserError as error:  # FedBN, where this modality alone has no normalisation layers
        found.failed[f"{name}_only"] = error.problem


def _logistic_regression(task: Task, found: Comparators) -> None:
    """Train the same federation as a logistic regression on the health records."""
    plain = replace(
        task, model="logistic_regression", study=task.study.logistic_regression(), measured=False
    )
    _keep("logistic_regression", plain, run_rounds(plain), found)


def _leave_one_out(task: Task, found: Comparators, tell: Callable[[str], None]) -> None:
    """Train the federation without each site in turn; test it there, at the others' threshold."""
    nodes = task.nodes()
    for site, node in nodes.items():
        others = {other: n for other, n in nodes.items() if other != site}
        model, quorum = f"without:{site}", min(task.minimum, len(others))
        if not others:
            found.failed[model] = "there is no other site"
            continue
        tell(f"comparator: without {site}")
        rest = replace(task, model=model, only=others, quorum=quorum, measured=False)
        result = run_rounds(rest)
        if result.spent:
            found.spent[model] = result.spent
        if result.lost_quorum:
            found.failed[model] = result.lost_quorum
            continue
        # A site that took no part has no model of its own: it is given the shared one.
        left_out = replace(rest, only={site: node})
        tested, _ = evaluate(left_out, result.weights, "held_out", shared=True)
        tuning: list[SiteEvaluation[Any]] = []
        if task.study.evaluation.goes_by_tuning:
            tuning, _ = evaluate(rest, result.weights, "tuning", shared=True)
        found.left_out[site] = Scored(tested, tuning, {})


def _keep(name: str, task: Task, result: RoundsResult, found: Comparators) -> None:
    if result.spent:
        found.spent[name] = result.spent
    if result.lost_quorum:
        found.failed[name] = result.lost_quorum
    else:
        found.models[name] = scored_finished(task, result.weights)


def _local(task: Task, found: Comparators) -> None:
    """Train each site on its own for as many rounds, all sites in each round at once."""
    model = task.initial()
    weights = dict.fromkeys(task.nodes(), model.weights())
    for round_ in range(1, task.study.training.rounds + 1):
        for site, reason in _train_alone(task, weights, round_, found).items():
            found.failed[f"local:{site}"] = f"round {round_}: {reason}"
            del weights[site]
    found.alone.update(weights)
    for site, trained in weights.items():
        alone = replace(task, model=f"local:{site}")
        found.local[site] = evaluate(alone, trained, "held_out")[0]
    if task.study.evaluation.goes_by_tuning:
        at_home = {
            site: replace(task.instruction(trained, 0, "tuning"), model=f"local:{site}")
            for site, trained in weights.items()
        }
        found.local_tuning.extend(evaluate_each(task, at_home)[0])


def _train_alone(
    task: Task, weights: dict[str, Vector], round_: int, found: Comparators
) -> dict[str, str]:
    """Update each site's own model in place; return why some sites have none."""
    nodes = {site: node for site, node in task.nodes().items() if site in weights}
    instructions = task.addressed(
        {
            site: replace(
                task.instruction(weights[site], round_), model=f"local:{site}", fold=False
            ).to_records()
            for site in nodes
        }
    )
    failed = dict.fromkeys(weights.keys() - nodes.keys(), "not connected")
    rounds, asked = task.study.training.rounds, len(nodes)
    answers = task.exchange.ask(TRAIN, instructions, nodes, task.deadline)
    for heard, answer in enumerate(answers, start=1):
        patients, problem = _step_alone(task, weights, answer, found)
        if problem:
            failed[answer.site] = problem
        task.watch(
            Heard(
                f"local:{answer.site}",
                round_,
                rounds,
                heard,
                asked,
                answer.site,
                patients,
                problem,
            )
        )
    return failed


def _step_alone(
    task: Task, weights: dict[str, Vector], answer: Answer, found: Comparators
) -> tuple[int, str]:
    """Update the model of the site that answered; return its training patients, or why not."""
    reply = answer.reply
    if answer.failure or reply is None or reply.update is None:
        return 0, answer.failure or "no update"
    assert isinstance(reply.body, TrainBody)
    if reply.body.spent is not None:
        told = reply.body.spent.model_dump(mode="json")
        found.spent.setdefault("local", {})[answer.site] = told
    if doubt := task.doubts(answer.site, reply.body):
        return 0, doubt
    try:
        screen(reply.update, len(weights[answer.site]), None)
    except UpdateRejected as reason:
        return 0, str(reason)
    weights[answer.site] = weights[answer.site] + reply.update
    return max(reply.body.patients.values()), ""
