"""A whole run at the coordinator: prepare, rounds, comparators, evaluation, run folder.

The same function serves a simulation and a deployment; what differs is the grid it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federation.bodies import DescribeBody, PrepareBody
from federation.errors import NoUsableModel, Refused, UserError
from federation.messages import DESCRIBE, EXISTING_SCORE, FEDERATED, PREPARE, Instruction
from federation.metrics.grid import UNCHANGED
from federation.models.build import Vector, build_model
from federation.models.weights import check_weights
from federation.study import Study
from federation.validation import listed
from federation.vocabulary import Vocabulary, agreed_vocabulary, fitted_vocabulary
from server import comparators
from server.course import RoundRecord, Standing
from server.drift import drift, drift_warnings
from server.evaluator import metrics_document
from server.exchange import Exchange, encode
from server.finished_run import RECALIBRATION
from server.joining import against_predecessor, compare_together
from server.judges import judge_of
from server.noised import noise_told
from server.privacy import privacy_document, privacy_warnings
from server.recalibration import Recalibration, line_of, lines_document, unrecalibrated
from server.rounds import RoundsResult, run_rounds
from server.run_folder import RunFolder
from server.scoring import Scored, existing_score, scored_finished
from server.site_evaluation import SiteEvaluation
from server.site_warnings import site_warnings, together
from server.task import Heard, Task
from server.witness import Witness

SHARED = "shared"
"""The coordinator's model, where the sites use models of their own."""


@dataclass(frozen=True)
class Progress:
    """Who is told what while a run goes on.

    Attributes:
        tell: one line on what begins.
        heard: an answer in a training round, of whichever model.
        round_done: a round's record, and how many rounds there are.
    """

    tell: Callable[[str], None] = lambda text: None
    heard: Callable[[Heard], None] = lambda heard: None
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
    folder: RunFolder,
    environment: Mapping[str, Any],
    progress: Progress | None = None,
    warnings: Iterable[str] = (),
    witness: Witness | None = None,
    predecessor: Vector | None = None,
    weights: Path | None = None,
) -> Outcome:
    """Run the folder's study on the sites of an exchange and leave the run folder complete.

    Args:
        exchange: reaches the sites.
        folder: of this study; new, or one to resume.
        environment: what the caller knows of the machine, kept with the run.
        progress: told of rounds as they end.
        warnings: what the caller warns of, kept with the run.
        witness: what is known of the sites' privacy ledgers; None in a simulation whose ledgers
            are those of the run.
        predecessor: weights of the earlier model that the study names.
        weights: folder of the files of weights that the study names.

    Raises:
        NoUsableModel: if no round could be aggregated.
        Refused: if that was because the sites' policies refuse the study.
        UserError: if a checkpoint is damaged, or weights are missing or do not fit.
    """
    study = folder.study
    check_weights(study, weights)
    progress = progress or Progress()
    began = time.perf_counter()
    warnings = list(warnings)
    folder.write_environment({**environment, "seconds": None})  # first: a study.toml resumes
    folder.write_study()
    _wait(exchange, study, progress, warnings)
    vocabulary = _vocabulary(exchange, folder, progress, warnings)
    task = Task(
        exchange,
        study,
        vocabulary,
        run=folder.run_id,
        witness=witness,
        watch=progress.heard,
        weights=weights,
    )
    sites = _describe(task, exchange.sites())
    task = replace(task, sizes=_sizes(sites))
    folder.write_json("sites.json", sites)
    result = _federate(task, folder, progress)
    if result.lost_quorum:
        warnings.append(f"The run ended early, in {result.lost_quorum}. The last model was kept.")
    if result.stopped:
        warnings.append(f"The run ended early, {result.stopped}.")
    if result.kept:
        progress.tell(f"the model of round {result.kept} is kept: it measured best")
    sites |= _describe(task, {s: n for s, n in exchange.sites().items() if s not in sites})
    folder.write_json("sites.json", dict(sorted(sites.items())))
    warnings += site_warnings(sites, study)
    model = build_model(study, vocabulary)
    model.load(result.weights)
    folder.write_model(model.named_arrays())
    progress.tell("evaluation on the held-out patients")
    tested = {FEDERATED: scored_finished(task, result.weights)}
    warnings += together(
        (site, f"sent no held-out evaluation: {why}", f"{site} sent no held-out evaluation: {why}.")
        for site, why in tested[FEDERATED].failed.items()
    )
    if study.personal:
        progress.tell("evaluation of the shared model, without what is each site's own")
        tested[SHARED] = scored_finished(task, result.weights, shared=True)
    if study.evaluation.existing_score is not None:
        progress.tell("evaluation of the score that the sites hold already")
        tested[EXISTING_SCORE] = existing_score(task)
    earlier = _compared(task, result, predecessor, progress, warnings)
    found = _write_results(task, result, tested, earlier, folder, progress, warnings)
    progress.tell("privacy")
    noise = [noise_told(part) for part in (tested[FEDERATED].tuning, tested[FEDERATED].held_out)]
    privacy = privacy_document(study, folder.rounds(), found.spent, exchange.simulated, *noise)
    folder.write_json("privacy.json", privacy)
    warnings += privacy_warnings(privacy, folder.rounds())
    folder.write_json("warnings.json", warnings)
    seconds = round(time.perf_counter() - began, 1)
    folder.write_environment({**environment, "seconds": seconds})
    return Outcome(folder.path, tuple(warnings))


def _wait(exchange: Exchange, study: Study, progress: Progress, warnings: list[str]) -> None:
    needed = study.strategy.minimum_sites
    progress.tell(f"waiting for at least {needed} sites")
    connected = exchange.wait_for_sites(needed, study.strategy.round_deadline_seconds)
    if len(connected) < needed:
        raise NoUsableModel(
            f"{len(connected)} sites are connected, {needed} are needed "
            "(strategy.minimum_sites). Nothing was trained."
        )
    progress.tell(f"{len(connected)} sites: {listed(list(connected))}")
    for name in sorted(exchange.unnamed()):
        warnings.append(f'Nodes named "{name}" were not asked: the name does not tell one site.')


def _vocabulary(
    exchange: Exchange, folder: RunFolder, progress: Progress, warnings: list[str]
) -> Vocabulary | None:
    """Return the agreed vocabulary, or fit one from what the sites count."""
    study = folder.study
    section = study.modalities.ehr
    if section is None:
        return None
    if section.vocabulary != "prepared":
        vocabulary = agreed_vocabulary(section)
    elif folder.resumed and (kept := folder.read_vocabulary()) is not None:
        vocabulary = kept
    else:
        progress.tell("prepare: the sites count codes and values")
        nodes = exchange.sites()
        instructions = encode(Instruction(study, run=folder.run_id), nodes)
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
    folder.write_vocabulary(vocabulary)
    return vocabulary


def _describe(task: Task, nodes: Mapping[str, int]) -> dict[str, Any]:
    """Ask sites for their suppressed counts: the data characteristics of the report."""
    instructions = encode(Instruction(task.study, vocabulary=task.vocabulary, run=task.run), nodes)
    sites: dict[str, Any] = {}
    for answer in task.exchange.ask(DESCRIBE, instructions, nodes, task.deadline):
        body = answer.reply.body if answer.reply else None
        if isinstance(body, DescribeBody):
            sites[answer.site] = body.model_dump(mode="json")
        else:
            sites[answer.site] = {"failure": answer.failure}
    return dict(sorted(sites.items()))


def _sizes(sites: Mapping[str, Any]) -> dict[str, int]:
    """Return the sites' training patients, where they are told."""
    told = {site: described.get("patients", {}).get("train") for site, described in sites.items()}
    return {site: count for site, count in told.items() if isinstance(count, int)}


def _federate(task: Task, folder: RunFolder, progress: Progress) -> RoundsResult:
    study = task.study
    checkpoint = folder.last_checkpoint() if folder.resumed else None
    done, standing = checkpoint or (0, None)
    folder.keep_rounds(done)

    def on_round(record: RoundRecord, standing: Standing) -> None:
        folder.append_round(record)
        if len(record["answered"]) >= task.minimum:
            folder.write_checkpoint(record["round"], standing)
        progress.round_done(record, study.training.rounds)

    if done:
        progress.tell(f"resumed after round {done}")
    result = run_rounds(task, standing, done + 1, on_round)
    if result.rounds == 0:
        if result.refusals:
            raise Refused(
                f"{result.lost_quorum}. Refused by policy or budget at: "
                f"{', '.join(result.refusals)}."
            )
        raise NoUsableModel(
            f"{result.lost_quorum}. No model was trained; the reasons are in "
            f"{folder.path / 'rounds.jsonl'}."
        )
    return result


def _compared(
    task: Task,
    result: RoundsResult,
    predecessor: Vector | None,
    progress: Progress,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Let every site score the federated model and the earlier one together."""
    digest = task.study.evaluation.predecessor
    if digest is None:
        return {}
    if predecessor is None:
        warnings.append("The study names a predecessor, and its model was not given: not compared.")
        return {}
    progress.tell("evaluation beside the predecessor")
    both = compare_together(task, result.weights, dict.fromkeys(task.nodes(), predecessor))
    return {"model": digest, **against_predecessor(both)}


def _write_results(
    task: Task,
    result: RoundsResult,
    federated: Mapping[str, Scored],
    earlier: Mapping[str, Any],
    folder: RunFolder,
    progress: Progress,
    warnings: list[str],
) -> comparators.Comparators:
    """Evaluate the comparators too, and write metrics.json and summaries.json.

    Where sites use models of their own, the federated model is those, and their scores are not
    merged across sites; the one that they share stands beside.
    """
    study = task.study
    found = comparators.Comparators()
    if study.evaluation.baselines and task.exchange.pooled_node is None:
        names = ", ".join(study.evaluation.baselines)
        warnings.append(f"Comparators ({names}) run in simulation only and were left out.")
    elif study.evaluation.baselines:
        found = comparators.train_comparators(task, progress.tell)
    warnings += [f"There is no model {name}: {why}." for name, why in found.failed.items()]
    named = {**federated, **found.models}
    judge = judge_of(study)
    models = {name: judge.model(tested) for name, tested in named.items()}
    if study.personal:
        own = named[FEDERATED]
        at_home = {one.site: [one] for one in own.tuning}
        models[FEDERATED] = judge.own_models(own.held_out, at_home)
    if study.evaluation.recalibration is not None:
        moved = lines_document(study, models[FEDERATED])
        folder.write_json(RECALIBRATION, moved)
        for outcome, line in moved["lines"].items():
            if line == UNCHANGED._asdict():
                continue
            told = f"slope {line['slope']:.3f}, intercept {line['intercept']:.3f}"
            progress.tell(f"recalibrated on the tuning split: {outcome}, {told}")
        warnings += unrecalibrated(models[FEDERATED])
    if doubt := judge.doubt(models[FEDERATED]):
        warnings.append(doubt)
    cross_site: Mapping[str, Any] = {}
    if found.local:
        at_home = {one.site: [one] for one in found.local_tuning}
        models["local"], cross_site = judge.local_models(found.local, at_home)
    joined: Mapping[str, Any] = {}
    if found.alone:
        both = []
        if study.compares:
            progress.tell("what each site gains by joining")
            both = compare_together(task, result.weights, found.alone)
        joined = judge.joining(named[FEDERATED].held_out, found.local, both)
    left_out = [one for scored in found.left_out.values() for one in scored.held_out]
    if left_out:
        elsewhere = {s: scored.tuning for s, scored in found.left_out.items()}
        models["leave_one_out"] = judge.own_models(left_out, elsewhere)
    document = metrics_document(
        study.study.name, study.fingerprint, study.study.seed, models, cross_site, joined
    )
    if earlier:
        document["predecessor"] = earlier
    if (windows := study.evaluation.windows) is not None:
        seen = Recalibration(line_of(models[FEDERATED])).of(named[FEDERATED].held_out)
        document["drift"] = drift(seen, windows, pooled=not study.personal)
        warnings += drift_warnings(document["drift"])
    folder.write_json("metrics.json", document)
    everything = {name: tested.held_out for name, tested in named.items()}
    everything |= {"leave_one_out": left_out} if left_out else {}
    everything |= {f"local:{site}": tested for site, tested in found.local.items()}
    folder.write_json(
        "summaries.json",
        {"models": {name: {"sites": _as_json(tested)} for name, tested in everything.items()}},
    )
    return found


def _as_json(evaluations: list[SiteEvaluation[Any]]) -> dict[str, Any]:
    return {
        one.site: {
            "cells": {name: cell.to_json() for name, cell in one.cells.items()},
            "withheld": dict(one.withheld),
            **({"inputs": one.inputs} if one.inputs else {}),
            **({"noised": {n: c.to_json() for n, c in one.noised.items()}} if one.noised else {}),
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
