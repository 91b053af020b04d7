"""A whole run at the coordinator: prepare, rounds, comparators, evaluation, run folder.

The same function serves a simulation and a deployment; what differs is the grid it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.errors import NoUsableModel, Refused, UserError
from federation.messages import DESCRIBE, PREPARE, DescribeBody, Instruction, PrepareBody
from federation.models.build import Vector, build_model
from federation.study import Study
from federation.vocabulary import Vocabulary, agreed_vocabulary, fitted_vocabulary
from server import comparators
from server.evaluator import (
    SiteEvaluation,
    evaluate_local_models,
    evaluate_model,
    metrics_document,
)
from server.exchange import Exchange, encode
from server.rounds import RoundRecord, RoundsResult, Task, evaluate, run_rounds
from server.run_folder import RunFolder


@dataclass(frozen=True)
class Progress:
    """Who is told what while a run goes on.

    Attributes:
        tell: one line on what begins.
        round_done: a round's record, and how many rounds there are.
    """

    tell: Callable[[str], None] = lambda text: None
    round_done: Callable[[RoundRecord, int], None] = lambda record, rounds: None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the run folder, complete but for the report.
        warnings: what a reader of the results must know.
    """

    folder: Path
    warnings: tuple[str, ...]


def run_study(
    exchange: Exchange,
    study: Study,
    folder: RunFolder,
    environment: Mapping[str, Any],
    progress: Progress | None = None,
    resume: bool = False,
) -> Outcome:
    """Run a study on the sites of an exchange and leave a complete run folder.

    Raises:
        NoUsableModel: if no round could be aggregated.
        Refused: if that was because the sites' policies refuse the study.
        UserError: if a checkpoint does not fit.
    """
    progress = progress or Progress()
    began = time.perf_counter()
    warnings: list[str] = []
    if resume:
        folder.last_checkpoint(study.fingerprint)  # refuses another study before it overwrites it
    folder.write_study(study)
    folder.write_environment({**environment, "seconds": None})
    _wait(exchange, study, progress)
    vocabulary = _vocabulary(exchange, study, folder, progress, resume, warnings)
    sites = _describe(exchange, study, vocabulary, warnings)
    folder.write_json("sites.json", sites)
    task = Task(exchange, study, vocabulary)
    result = _federate(task, folder, progress, resume)
    if result.lost_quorum:
        warnings.append(f"The run ended early, in {result.lost_quorum}. The last model was kept.")
    model = build_model(study, vocabulary)
    model.load(result.weights)
    folder.write_model(model.named_arrays(), study.fingerprint)
    progress.tell("evaluation on the held-out patients")
    evaluations, failed = evaluate(task, result.weights, "held_out")
    warnings += [f"{site} sent no held-out evaluation: {why}." for site, why in failed.items()]
    _write_results(task, evaluations, folder, progress, warnings)
    privacy = {"mechanism": "none", "sites": {site: {"mechanism": "none"} for site in sites}}
    folder.write_json("privacy.json", privacy)
    folder.write_json("warnings.json", warnings)
    seconds = round(time.perf_counter() - began, 1)
    folder.write_environment({**environment, "seconds": seconds})
    return Outcome(folder.path, tuple(warnings))


def _wait(exchange: Exchange, study: Study, progress: Progress) -> None:
    needed = study.strategy.minimum_sites
    progress.tell(f"waiting for at least {needed} sites")
    connected = exchange.wait_for_sites(needed, study.strategy.round_deadline_seconds)
    if len(connected) < needed:
        raise NoUsableModel(
            f"{len(connected)} sites are connected, {needed} are needed "
            "(strategy.minimum_sites). Nothing was trained."
        )
    progress.tell(f"{len(connected)} sites: {', '.join(connected)}")


def _vocabulary(
    exchange: Exchange,
    study: Study,
    folder: RunFolder,
    progress: Progress,
    resume: bool,
    warnings: list[str],
) -> Vocabulary | None:
    """Return the agreed vocabulary, or fit one from what the sites count."""
    section = study.modalities.ehr
    if section is None:
        return None
    if section.vocabulary != "prepared":
        vocabulary = agreed_vocabulary(section)
    elif resume and (folder.path / "prepared.json").exists():
        return Vocabulary.from_json(folder.read_json("prepared.json")["canonical"])
    else:
        progress.tell("prepare: the sites count codes and values")
        nodes = exchange.sites()
        instructions = encode(Instruction(study), nodes)
        deadline = study.strategy.round_deadline_seconds
        counted: dict[str, Any] = {}
        for answer in exchange.ask(PREPARE, instructions, nodes, deadline):
            if answer.reply is not None and isinstance(answer.reply.body, PrepareBody):
                counted[answer.site] = answer.reply.body.moments()
            else:
                why = answer.failure
                warnings.append(f"The vocabulary was fitted without {answer.site}: {why}.")
        vocabulary = fitted_vocabulary(section, [counted[site] for site in sorted(counted)])
        if not vocabulary.places:
            raise NoUsableModel("prepare: no site has a code that enough patients share.")
        folder.write_json("prepared.json", {"canonical": vocabulary.canonical})
    folder.write_vocabulary(vocabulary)
    return vocabulary


def _describe(
    exchange: Exchange, study: Study, vocabulary: Vocabulary | None, warnings: list[str]
) -> dict[str, Any]:
    """Ask each site for its suppressed counts: the data characteristics of the report."""
    nodes = exchange.sites()
    instructions = encode(Instruction(study, vocabulary=vocabulary), nodes)
    deadline = study.strategy.round_deadline_seconds
    sites: dict[str, Any] = {}
    for answer in exchange.ask(DESCRIBE, instructions, nodes, deadline):
        body = answer.reply.body if answer.reply else None
        if not isinstance(body, DescribeBody):
            sites[answer.site] = {"failure": answer.failure}
            warnings.append(f"{answer.site} could not describe its patients: {answer.failure}.")
            continue
        sites[answer.site] = body.model_dump(mode="json")
        for split in ("train", "tuning", "held_out"):
            if body.patients.get(split) == 0:
                warnings.append(f"{answer.site} has no patient in the {split} split.")
        train = body.patients.get("train")
        if isinstance(train, int) and 0 < train < study.training.batch_size:
            warnings.append(
                f"{answer.site} has {train} training patients, fewer than a batch of "
                f"{study.training.batch_size}; its batches are smaller."
            )
    merged = sorted(site for site, told in sites.items() if told.get("score_bins") == "merged")
    if merged:
        warnings.append(
            f"{', '.join(merged)} join score bins before they leave (policy.score_bins): AUROC "
            "comes out slightly too low there, by about 0.02 at 60 held-out patients and 0.001 "
            "at 300."
        )
    return dict(sorted(sites.items()))


def _federate(task: Task, folder: RunFolder, progress: Progress, resume: bool) -> RoundsResult:
    study = task.study
    checkpoint = folder.last_checkpoint(study.fingerprint) if resume else None
    done, weights = checkpoint or (0, None)
    folder.keep_rounds(done)

    def on_round(record: RoundRecord, weights: Vector) -> None:
        folder.append_round(record)
        if len(record["answered"]) >= task.minimum:
            folder.write_checkpoint(record["round"], weights, study.fingerprint)
        progress.round_done(record, study.training.rounds)

    if done:
        progress.tell(f"resumed after round {done}")
    result = run_rounds(task, weights, done + 1, on_round)
    if result.rounds == 0:
        if result.refusals:
            raise Refused(
                f"{result.lost_quorum}. Refused by policy at: {', '.join(result.refusals)}."
            )
        raise NoUsableModel(
            f"{result.lost_quorum}. No model was trained; the reasons are in "
            f"{folder.path / 'rounds.jsonl'}."
        )
    return result


def _write_results(
    task: Task,
    evaluations: list[SiteEvaluation],
    folder: RunFolder,
    progress: Progress,
    warnings: list[str],
) -> None:
    """Evaluate the comparators too, and write metrics.json and summaries.json."""
    study, wanted = task.study, set(task.study.evaluation.baselines)
    named: dict[str, list[SiteEvaluation]] = {"federated": evaluations}
    alone: dict[str, list[SiteEvaluation]] = {}
    if wanted and task.exchange.pooled_node is None:
        warnings.append(
            f"Comparators ({', '.join(sorted(wanted))}) run in simulation only and were left out."
        )
        wanted = set()
    if "local" in wanted:
        alone = comparators.local(task, progress.tell)
    if "pooled" in wanted:
        named["pooled"] = comparators.pooled(task, progress.tell)
    if "single_modality" in wanted and len(study.modalities.names) > 1:
        named |= comparators.single_modality(task, progress.tell)
    models = {name: evaluate_model(found) for name, found in named.items()}
    cross_site: Mapping[str, Any] = {}
    if alone:
        models["local"], cross_site = evaluate_local_models(alone)
    document = metrics_document(
        study.study.name, study.fingerprint, study.study.seed, models, cross_site
    )
    folder.write_json("metrics.json", document)
    everything = named | {f"local:{site}": found for site, found in alone.items()}
    folder.write_json(
        "summaries.json",
        {"models": {name: {"sites": _as_json(found)} for name, found in everything.items()}},
    )


def _as_json(evaluations: list[SiteEvaluation]) -> dict[str, Any]:
    return {
        one.site: {
            "cells": {name: cell.to_json() for name, cell in one.cells.items()},
            "withheld": dict(one.withheld),
        }
        for one in evaluations
    }


def require_study(path: str) -> Path:
    """Return the study file that a submission names.

    Raises:
        UserError: if it names none.
    """
    if not path:
        raise UserError("run-config", "study is empty; expected the path of a study file")
    return Path(path)
