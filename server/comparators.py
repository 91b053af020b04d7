"""What the federated model is compared with, trained in the same simulation.

``local``: each site alone. ``pooled``: all patients in one place. ``single_modality``: the same
federation with one modality. On real sites each of these would cost privacy; none is run there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from federation.messages import TRAIN
from federation.models.build import Vector, build_model
from federation.reduce import UpdateRejected, screen
from server.evaluator import SiteEvaluation
from server.rounds import Task, evaluate, run_rounds

Evaluations = list[SiteEvaluation]


def pooled(task: Task, tell: Callable[[str], None]) -> Evaluations:
    """Train on all sites' patients in one place, for as many rounds; test at every site."""
    node = task.exchange.pooled_node
    assert node is not None
    tell("comparator: pooled")
    everybody = replace(task, model="pooled", measured=False)
    result = run_rounds(replace(everybody, only={"pooled": node}, quorum=1))
    return evaluate(everybody, result.weights, "held_out")[0]


def single_modality(task: Task, tell: Callable[[str], None]) -> dict[str, Evaluations]:
    """Train the same federation on one modality at a time; test it on the same patients."""
    found = {}
    for name in task.study.modalities.names:
        tell(f"comparator: {name} alone")
        alone = replace(
            task,
            model=f"only:{name}",
            study=task.study.only(name),
            vocabulary=task.vocabulary if name == "ehr" else None,
            measured=False,
        )
        found[f"{name}_only"] = evaluate(alone, run_rounds(alone).weights, "held_out")[0]
    return found


def local(task: Task, tell: Callable[[str], None]) -> dict[str, Evaluations]:
    """Train each site on its own for as many rounds; test each model at every site."""
    tell("comparator: each site alone")
    models = _train_alone(task)
    return {
        site: evaluate(replace(task, model=f"local:{site}"), weights, "held_out")[0]
        for site, weights in models.items()
    }


def _train_alone(task: Task) -> dict[str, Vector]:
    """Train one model per site, all sites in each round at once.

    A site without a usable update in a round drops out: it has no model of its own.
    """
    model = build_model(task.study, task.vocabulary)
    weights = dict.fromkeys(task.nodes(), model.weights())
    for round_ in range(1, task.study.training.rounds + 1):
        nodes = {site: node for site, node in task.nodes().items() if site in weights}
        instructions = {
            site: replace(
                task.instruction(weights[site], round_), model=f"local:{site}", fold=False
            ).to_records()
            for site in nodes
        }
        deadline = task.study.strategy.round_deadline_seconds
        for answer in task.exchange.ask(TRAIN, instructions, nodes, deadline):
            update = answer.reply.update if answer.reply and not answer.failure else None
            try:
                if update is None:
                    raise UpdateRejected("none")
                screen(update, len(weights[answer.site]), None)
                weights[answer.site] = weights[answer.site] + update
            except UpdateRejected:
                del weights[answer.site]
    return weights
