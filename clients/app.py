"""The Flower ClientApp of a site. Thin: it decodes, delegates, and sends through the gate."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.budget import UnfitTerms, check_terms, note_unprotected, spend, spent_so_far
from clients.evaluation import evaluate_locally
from clients.features import code_moments
from clients.ledger import Head, Ledger
from clients.outbound import CODE, TakesNoPart, guarded, suppressed
from clients.site import Site
from clients.training import LocalResult, plain_gradients, private_gradients, train_locally
from clients.workbench import Cohort, Workbench, choose_device
from federation.errors import Refused
from federation.messages import (
    DescribeBody,
    Instruction,
    LedgerHead,
    PrepareBody,
    Reply,
    SmallCount,
    SpentBody,
    TrainBody,
)
from federation.models.build import FlatModel, Vector
from federation.randomness import torch_generator
from federation.study import Study

logger = logging.getLogger("wardround.site")

LARGEST_WEIGHT = 1e6
"""Under differential privacy; weights beyond it are crafted, to reach the limits of float32."""

Handler = Callable[[Instruction, str, Site, Workbench], Reply]


def build_app(workbench: Workbench) -> ClientApp:
    """Return the ClientApp over a workbench; simulation and deployment differ in that alone."""
    app = ClientApp()

    def answer(handler: Handler) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            def produce() -> tuple[Reply, Site, Study]:
                file = str(context.node_config["site"])
                try:
                    instruction = Instruction.from_records(message.content)
                except ValueError:
                    raise TakesNoPart("not an instruction of this version") from None
                site = workbench.site(file)
                _check_vocabulary(instruction, workbench)
                _check_policy(instruction, site)
                return handler(instruction, file, site, workbench), site, instruction.study

            return Message(guarded(produce), reply_to=message)

        return handle

    app.query("describe")(answer(describe))
    app.query("prepare")(answer(prepare))
    app.train()(answer(train))
    app.evaluate()(answer(evaluate))
    return app


def describe(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Reply:
    """Count patients, modalities and exclusions, small counts withheld."""
    cohort = workbench.cohort(file, instruction.study, instruction.vocabulary)
    patients, minimum = cohort.patients, site.policy.minimum_cell

    def counts(exact: Mapping[str, int]) -> dict[str, SmallCount]:
        return {name: suppressed(count, minimum) for name, count in sorted(exact.items())}

    splits = counts({str(name): len(rows) for name, rows in patients.splits.items()})

    def of_all(present: int) -> SmallCount:
        """Known by subtraction are the patients who are not counted, and a withheld split."""
        if present == 0:
            return 0
        told = (present, len(patients) - present)
        hidden = "suppressed" in (*splits.values(), *(suppressed(n, minimum) for n in told))
        return "suppressed" if hidden else present

    # Under differential privacy no count over training patients leaves, but their number.
    private = instruction.study.privacy.mechanism == "dp_sgd"
    noticed = {} if private else {**patients.notices, **cohort.unusable}
    present = {name: int(m.present.sum()) for name, m in cohort.modalities.items()}
    return Reply(
        "ok",
        DescribeBody.model_validate(
            {
                "patients": splits,
                "modalities": {
                    name: ("suppressed" if site.offers(name) else 0) if private else of_all(count)
                    for name, count in present.items()
                },
                "excluded": counts(patients.excluded),
                "notices": {name: of_all(count) for name, count in sorted(noticed.items())},
                "minimum_cell": minimum,
                "score_bins": site.policy.score_bins,
                "counted": not private,
            }
        ),
    )


def prepare(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Reply:
    """Count codes and sum their values, so that the coordinator can fit a vocabulary."""
    section = instruction.study.modalities.ehr
    if section is None or section.vocabulary != "prepared":
        raise TakesNoPart("not an instruction of this version")
    found = code_moments(
        workbench.patients(file, instruction.study), section, site.policy.minimum_cell
    )
    codes = {
        code: (m.patients, m.values, m.total, m.total_of_squares)
        for code, m in found.items()
        if CODE.fullmatch(code)  # one code that may not leave must not keep all others back
    }
    return Reply("ok", PrepareBody(codes=codes))


def train(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Reply:
    """Train locally and answer with the update."""
    private = instruction.study.privacy.mechanism == "dp_sgd"
    if private:
        _check_witness(instruction, site, workbench.ledger(file))  # before any data is read
    cohort = workbench.cohort(file, instruction.study, instruction.vocabulary)
    rows = cohort.patients.splits["train"]
    if len(rows) == 0:
        raise TakesNoPart("no training patients")
    if len(rows) < site.policy.minimum_cell:
        raise TakesNoPart("fewer training patients than the site's minimum_cell")
    _check_patients_behind(instruction.study, len(rows), site)
    model = _model(instruction, site, workbench)
    if private:
        return _train_privately(instruction, file, site, workbench, model, cohort)
    if workbench.keeps_unprotected:
        note_unprotected(instruction, _request(instruction), len(rows), workbench.ledger(file))
    return _train_plainly(instruction, site, model, cohort)


def _train_plainly(instruction: Instruction, site: Site, model: FlatModel, cohort: Cohort) -> Reply:
    study, minimum = instruction.study, site.policy.minimum_cell
    rows = cohort.patients.splits["train"]
    before = model.weights()
    generator = torch_generator(
        study.study.seed, "training", site.name, instruction.model, instruction.round
    )
    result = train_locally(model, study, plain_gradients(model, cohort, study, generator))
    behind = {name: int(m.present[rows].sum()) for name, m in cohort.modalities.items()}
    behind["fusion"] = len(rows)
    weights = {part.name: _weight(behind[part.name], len(rows), minimum) for part in model.parts}
    return _trained(model, before, weights, result)


def _train_privately(
    instruction: Instruction,
    file: str,
    site: Site,
    workbench: Workbench,
    model: FlatModel,
    cohort: Cohort,
) -> Reply:
    """Pay for the round, train it, and answer; what was answered before is answered again."""
    study, ledger, request = instruction.study, workbench.ledger(file), _request(instruction)
    patients = len(cohort.patients.splits["train"])
    randomness = workbench.randomness(
        study.study.seed, site.name, instruction.model, instruction.round
    )
    run, name = instruction.run, instruction.model
    if not randomness.seeded and (said := workbench.replies(file).find(run, name, request)):
        return _said_again(said, ledger)
    clipped = workbench.clipped(study, instruction.vocabulary, model)
    try:
        check_terms(study, patients, site)
        segment = spend(instruction, request, patients, site, ledger, randomness.seeded)
    except UnfitTerms as error:
        logger.error("%s", error)
        raise TakesNoPart("the study's privacy terms do not fit the site") from None
    before = model.weights()
    result = train_locally(
        model, study, private_gradients(model, clipped, cohort, study, segment, randomness)
    )
    weights = {
        part.name: patients if part.name == "fusion" or site.offers(part.name) else 0
        for part in model.parts
    }
    spent = spent_so_far(instruction, patients, ledger)
    reply = _trained(model, before, weights, result, spent)
    if not randomness.seeded:
        workbench.replies(file).keep(run, name, request, reply)
    return reply


def _said_again(said: Reply, ledger: Ledger) -> Reply:
    """Return a reply as it was given, with the ledger's present head: other runs may go on."""
    assert isinstance(said.body, TrainBody) and said.body.spent is not None
    head = ledger.head()
    now = LedgerHead(length=head.length, hash=head.hash)
    spent = said.body.spent.model_copy(update={"ledger": now})
    return dataclasses.replace(said, body=said.body.model_copy(update={"spent": spent}))


def _trained(
    model: FlatModel,
    before: Vector,
    weights: Mapping[str, int],
    result: LocalResult,
    spent: SpentBody | None = None,
) -> Reply:
    body = TrainBody.model_validate(
        {"loss": result.loss, "steps": result.steps, "patients": weights, "spent": spent}
    )
    update = model.weights() - before
    for part in model.parts:
        if not weights[part.name]:
            update[part.start : part.stop] = 0  # too few patients moved it to let it leave
    return Reply("ok", body, update=update)


def _request(instruction: Instruction) -> str:
    """Return a digest of all that decides a round at a site."""
    assert instruction.weights is not None
    parts = (instruction.run, instruction.study.fingerprint, instruction.model, instruction.round)
    digest = hashlib.sha256("/".join(map(str, parts)).encode())
    digest.update(np.ascontiguousarray(instruction.weights).tobytes())
    return digest.hexdigest()


def _check_witness(instruction: Instruction, site: Site, ledger: Ledger) -> None:
    """Refuse if the ledger is not the one of which the coordinator was told, or a longer one."""
    witness = instruction.witness
    if witness is not None and not ledger.extends(Head(witness.length, witness.hash)):
        logger.error(
            "%s: the coordinator has seen this site's privacy ledger with %s lines, and they are "
            "not the ones that are there now (%s). Was an older copy restored, or a copy used "
            "elsewhere? What its patients have spent since is not known here.",
            site.state,
            witness.length,
            ledger.head().length,
        )
        raise TakesNoPart("the site's privacy ledger does not extend the one that was witnessed")


def _weight(holders: int, patients: int, minimum: int) -> int:
    """Return the weight of a part of the model that ``holders`` of the training patients move.

    Neither the few who have a modality nor the few who lack it can be told from the weight.

    >>> _weight(5, 60, 10), _weight(40, 60, 10), _weight(57, 60, 10)
    (0, 40, 60)
    """
    if holders < minimum:
        return 0
    return patients if patients - holders < minimum else holders


def evaluate(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Reply:
    """Score one split and answer with suppressed summaries."""
    cohort = workbench.cohort(file, instruction.study, instruction.vocabulary)
    if instruction.split in (None, "train"):  # no score of those whom epsilon is to cover
        raise TakesNoPart("not an instruction of this version")
    if len(cohort.patients.splits[instruction.split]) == 0:
        raise TakesNoPart("no patients in this split")
    model = _model(instruction, site, workbench)
    body = evaluate_locally(model, cohort, instruction.study, instruction.split, site.policy)
    return Reply("ok", body)


def _model(instruction: Instruction, site: Site, workbench: Workbench) -> FlatModel:
    """Return the study's model with the weights that were sent."""
    model = workbench.model(instruction.study, instruction.vocabulary, choose_device(site))
    weights = instruction.weights
    if weights is None or len(weights) != len(model.vector) or not np.isfinite(weights).all():
        raise TakesNoPart("not an instruction of this version")
    private = instruction.study.privacy.mechanism == "dp_sgd"
    if private and np.abs(weights).max(initial=0.0) > LARGEST_WEIGHT:
        raise TakesNoPart("not an instruction of this version")
    model.load(weights)
    return model


def _check_patients_behind(study: Study, patients: int, site: Site) -> None:
    """Refuse steps so few that the update would be that of single patients."""
    training = study.training
    seen = patients
    if training.local_steps is not None:
        seen = min(patients, training.local_steps * training.batch_size)
    if seen < site.policy.minimum_cell:
        raise Refused(
            f"{site.file}: policy.minimum_cell: a round of the study {study.study.name} trains on "
            f"{seen} patients (training.local_steps x batch_size)."
        )


def _check_vocabulary(instruction: Instruction, workbench: Workbench) -> None:
    """A vocabulary is what the study says, so that the fingerprint covers what is asked."""
    agreed, given = workbench.agreed_vocabulary(instruction.study), instruction.vocabulary
    if agreed is not None and given is not None and given.canonical != agreed.canonical:
        raise TakesNoPart("not an instruction of this version")


def _check_policy(instruction: Instruction, site: Site) -> None:
    mechanism = instruction.study.privacy.mechanism
    if site.policy.require_privacy and mechanism != "dp_sgd":
        why = "trains without differential privacy"
        if mechanism == "central":
            why = "adds noise at the coordinator only, who sees this site's updates without"
        raise Refused(
            f"{site.file}: policy.require_privacy: the study {instruction.study.study.name} {why}."
        )


app = build_app(Workbench())
"""What a SuperNode loads: `clients.app:app`."""
