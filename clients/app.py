"""The Flower ClientApp of a site. Thin: it decodes, delegates, and sends through the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.evaluation import evaluate_locally
from clients.features import code_moments
from clients.outbound import CODE, TakesNoPart, guarded, suppressed
from clients.site import Site
from clients.training import train_locally
from clients.workbench import Workbench, choose_device
from federation.errors import Refused
from federation.messages import (
    DescribeBody,
    Instruction,
    PrepareBody,
    Reply,
    SmallCount,
    TrainBody,
)
from federation.models.build import FlatModel
from federation.randomness import torch_generator
from federation.study import Study

Handler = Callable[[Instruction, str, Site, Workbench], Reply]


def build_app(workbench: Workbench) -> ClientApp:
    """Return the ClientApp over a workbench; simulation and deployment differ in that alone."""
    app = ClientApp()

    def answer(handler: Handler) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            def produce() -> tuple[Reply, Site]:
                file = str(context.node_config["site"])
                try:
                    instruction = Instruction.from_records(message.content)
                except ValueError:
                    raise TakesNoPart("not an instruction of this version") from None
                site = workbench.site(file)
                _check_vocabulary(instruction, workbench)
                _check_policy(instruction, site)
                return handler(instruction, file, site, workbench), site

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

    noticed = {**patients.notices, **cohort.unusable}
    return Reply(
        "ok",
        DescribeBody.model_validate(
            {
                "patients": splits,
                "modalities": {
                    name: of_all(int(m.present.sum())) for name, m in cohort.modalities.items()
                },
                "excluded": counts(patients.excluded),
                "notices": {name: of_all(count) for name, count in sorted(noticed.items())},
                "minimum_cell": minimum,
                "score_bins": site.policy.score_bins,
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
    study = instruction.study
    cohort = workbench.cohort(file, study, instruction.vocabulary)
    rows = cohort.patients.splits["train"]
    if len(rows) == 0:
        raise TakesNoPart("no training patients")
    minimum = site.policy.minimum_cell
    if len(rows) < minimum:
        raise TakesNoPart("fewer training patients than the site's minimum_cell")
    _check_patients_behind(study, len(rows), site)
    model = _model(instruction, site, workbench)
    before = model.weights()
    generator = torch_generator(
        study.study.seed, "training", site.name, instruction.model, instruction.round
    )
    result = train_locally(model, cohort, study, generator)
    behind = {name: int(m.present[rows].sum()) for name, m in cohort.modalities.items()}
    behind["fusion"] = len(rows)
    weights = {part.name: _weight(behind[part.name], len(rows), minimum) for part in model.parts}
    body = TrainBody.model_validate(
        {"loss": result.loss, "steps": result.steps, "patients": weights}
    )
    update = model.weights() - before
    for part in model.parts:
        if not weights[part.name]:
            update[part.start : part.stop] = 0  # too few patients moved it to let it leave
    return Reply("ok", body, update=update)


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
    if instruction.split is None:
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
    if site.policy.require_privacy and instruction.study.privacy.mechanism == "none":
        raise Refused(
            f"{site.file}: policy.require_privacy: the study {instruction.study.study.name} trains "
            "without differential privacy."
        )


app = build_app(Workbench())
"""What a SuperNode loads: `clients.app:app`."""
