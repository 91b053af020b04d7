"""The Flower ClientApp of a site. Thin: it decodes, delegates, and sends through the gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.budget import note_unprotected
from clients.evaluation import evaluate_locally
from clients.features import code_moments
from clients.outbound import CODE, TakesNoPart, guarded, released, suppressed
from clients.rounds import Round, check_witness, plain_round, private_round
from clients.site import Site
from clients.together import train_all
from clients.workbench import Workbench, choose_device
from federation.bodies import DescribeBody, PrepareBody, SmallCount
from federation.errors import Refused
from federation.messages import DESCRIBE, EVALUATE, PREPARE, TRAIN, Instruction, Reply
from federation.models.build import FlatModel
from federation.study import Study

LARGEST_WEIGHT = 1e6
"""Under differential privacy; weights beyond it are crafted, to reach the limits of float32."""

Handler = Callable[[Instruction, str, Site, Workbench], Reply | Round]


def build_app(workbench: Workbench) -> ClientApp:
    """Return the ClientApp over a workbench."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        file = str(context.node_config.get("site", ""))  # a node that names none fails by status
        (reply,) = answer([Asked(message.metadata.message_type, message.content, file)], workbench)
        return Message(reply.to_records(), reply_to=message)

    app.query("describe")(handle)
    app.query("prepare")(handle)
    app.train()(handle)
    app.evaluate()(handle)
    return app


@dataclass(frozen=True)
class Asked:
    """A message to a site: its type, its content, and the site's file."""

    kind: str
    content: RecordDict
    file: str


def answer(asked: Sequence[Asked], workbench: Workbench) -> list[Reply]:
    """Answer messages: one at a deployed site, those to many sites of one host in a simulation.

    What is to be trained is trained between two passes, so that small models of several sites can
    be trained together; each site still answers its own message, through its own gate.

    Returns:
        What leaves: every reply has passed the gate, or is a status alone.
    """
    instructions = _Instructions()
    begun = [guarded(partial(_begin, one, instructions, workbench)) for one in asked]
    rounds = [one.result for one in begun if isinstance(one, Begun)]
    fitted = train_all([one.fit for one in rounds if isinstance(one, Round)], workbench)

    def ended(one: Begun) -> Reply:
        reply = one.result
        if isinstance(reply, Round):
            reply = reply.reply(next(fitted)())
        return released(reply, one.site.policy, one.study)

    return [guarded(partial(ended, one)) if isinstance(one, Begun) else one for one in begun]


@dataclass(frozen=True)
class Begun:
    """A message whose answer is known, or waits for training."""

    result: Reply | Round
    site: Site
    study: Study


class _Instructions:
    """Reads messages, and those that share their content once."""

    def __init__(self) -> None:
        self._read: dict[int, Instruction] = {}

    def of(self, content: RecordDict) -> Instruction:
        if id(content) not in self._read:
            try:
                self._read[id(content)] = Instruction.from_records(content)
            except ValueError:
                raise TakesNoPart("not an instruction of this version") from None
        return self._read[id(content)]


def _begin(asked: Asked, instructions: _Instructions, workbench: Workbench) -> Begun:
    instruction = instructions.of(asked.content)
    site = workbench.site(asked.file)
    _check_vocabulary(instruction, workbench)
    _check_policy(instruction, site)
    _check_simulation(instruction, site, workbench)
    handler = HANDLERS[asked.kind]
    return Begun(handler(instruction, asked.file, site, workbench), site, instruction.study)


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


def train(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Reply | Round:
    """Prepare to train locally and to answer with the update."""
    private = instruction.study.privacy.mechanism == "dp_sgd"
    if private:
        check_witness(instruction, site, workbench.ledger(file))  # before any data is read
    cohort = workbench.cohort(file, instruction.study, instruction.vocabulary)
    rows = cohort.patients.splits["train"]
    if len(rows) == 0:
        raise TakesNoPart("no training patients")
    if len(rows) < site.policy.minimum_cell:
        raise TakesNoPart("fewer training patients than the site's minimum_cell")
    _check_patients_behind(instruction.study, len(rows), site)
    model = _model(instruction, site, workbench)
    if private:
        return private_round(instruction, file, site, workbench, model, cohort)
    if workbench.keeps_unprotected:
        note_unprotected(instruction, instruction.digest, len(rows), workbench.ledger(file))
    return plain_round(instruction, site, model, cohort)


def evaluate(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Reply:
    """Score one split and answer with suppressed summaries."""
    cohort = workbench.cohort(file, instruction.study, instruction.vocabulary)
    if instruction.split in (None, "train"):  # no score of those whom epsilon is to cover
        raise TakesNoPart("not an instruction of this version")
    if len(cohort.patients.splits[instruction.split]) == 0:
        raise TakesNoPart("no patients in this split")
    model = _model(instruction, site, workbench)
    assert instruction.weights is not None
    model.load(instruction.weights)
    body = evaluate_locally(model, cohort, instruction.study, instruction.split, site.policy)
    return Reply("ok", body)


def _model(instruction: Instruction, site: Site, workbench: Workbench) -> FlatModel:
    """Return the study's model, for which the weights that were sent are fit."""
    model = workbench.model(instruction.study, instruction.vocabulary, choose_device(site))
    weights = instruction.weights
    if weights is None or len(weights) != len(model.vector):
        raise TakesNoPart("not an instruction of this version")
    private = instruction.study.privacy.mechanism == "dp_sgd"
    largest = instruction.largest_weight
    if not math.isfinite(largest) or (private and largest > LARGEST_WEIGHT):
        raise TakesNoPart("not an instruction of this version")
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


def _check_simulation(instruction: Instruction, site: Site, workbench: Workbench) -> None:
    """What a study wants simulated is for simulated patients."""
    simulation = instruction.study.simulation
    if simulation is not None and simulation.declared and not workbench.simulated:
        raise Refused(
            f"{site.file}: the study {instruction.study.study.name} declares "
            f"{simulation.declared[0]}, which a deployed site does not play."
        )


HANDLERS: Mapping[str, Handler] = {
    DESCRIBE: describe,
    PREPARE: prepare,
    TRAIN: train,
    EVALUATE: evaluate,
}

app = build_app(Workbench())
"""What a SuperNode loads: `clients.app:app`."""
