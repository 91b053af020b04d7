"""The Flower ClientApp of a site. Thin: it decodes, delegates, and sends through the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.budget import note_unprotected
from clients.evaluation import Drift, evaluate_existing_score, evaluate_locally
from clients.features import code_moments
from clients.fits import Fit
from clients.noised import evaluate_with_noise
from clients.outbound import CODE, TakesNoPart, guarded, released, suppressed
from clients.personalised import personalised
from clients.rounds import (
    Answering,
    check_witness,
    fitting_model,
    plain_round,
    private_round,
    weights_of,
)
from clients.site import Site
from clients.together import Result, train_all
from clients.workbench import Cohort, Workbench
from federation.bodies import DescribeBody, PrepareBody, SmallCount
from federation.errors import Refused
from federation.messages import (
    DESCRIBE,
    EVALUATE,
    EXISTING_SCORE,
    FEDERATED,
    PREPARE,
    TRAIN,
    Instruction,
    Reply,
    model_digest,
)
from federation.metrics.grid import UNCHANGED
from federation.models.build import FlatModel
from federation.study import Split, Study

Handler = Callable[[Instruction, str, Site, Workbench], Answering]


def at_once(handler: Callable[[Instruction, str, Site, Workbench], Reply]) -> Handler:
    """Make a handler of a function that trains nothing."""

    def answering(
        instruction: Instruction, file: str, site: Site, workbench: Workbench
    ) -> Answering:
        return handler(instruction, file, site, workbench)
        yield

    return answering


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

    What the answers wait for is trained in between, so that small models of several sites can be
    trained together; each site still answers its own message, through its own gate.

    Returns:
        What leaves: every reply has passed the gate, or is a status alone.
    """
    instructions = _Instructions()
    now = [guarded(partial(_begin, one, instructions, workbench)) for one in asked]
    while waiting := [place for place, one in enumerate(now) if isinstance(one, Begun)]:
        begun = [one for one in now if isinstance(one, Begun)]
        for place, fitted in zip(
            waiting, train_all([one.fit for one in begun], workbench), strict=True
        ):
            one = now[place]
            assert isinstance(one, Begun)
            now[place] = guarded(partial(_go_on, one, fitted))
    return [one for one in now if isinstance(one, Reply)]


@dataclass(frozen=True)
class Begun:
    """An answer that waits for training.

    Attributes:
        answering: goes on when it is sent what came of ``fit``.
        fit: what it waits for.
        site: whose gate the answer must pass.
        study: what is asked.
    """

    answering: Answering
    fit: Fit
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


def _begin(asked: Asked, instructions: _Instructions, workbench: Workbench) -> Begun | Reply:
    instruction = instructions.of(asked.content)
    site = workbench.site(asked.file)
    _check_vocabulary(instruction, workbench)
    check_policy(instruction.study, site)
    _check_simulation(instruction, site, workbench)
    handler = HANDLERS[asked.kind]
    answering = handler(instruction, asked.file, site, workbench)
    return _waits_or_leaves(lambda: next(answering), answering, site, instruction.study)


def _go_on(begun: Begun, fitted: Result) -> Begun | Reply:
    """Send an answer what came of its training; what that raised is raised here."""
    found = fitted()
    return _waits_or_leaves(
        lambda: begun.answering.send(found), begun.answering, begun.site, begun.study
    )


def _waits_or_leaves(
    step: Callable[[], Fit], answering: Answering, site: Site, study: Study
) -> Begun | Reply:
    try:
        return Begun(answering, step(), site, study)
    except StopIteration as ended:
        reply: Reply = ended.value
        return released(reply, site.policy, study)


@at_once
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


@at_once
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


def train(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Answering:
    """Train locally and answer with the update."""
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
    if private:
        return (yield from private_round(instruction, file, site, workbench, cohort))
    if workbench.keeps_unprotected:
        note_unprotected(instruction, instruction.digest, len(rows), workbench.ledger(file))
    return (yield from plain_round(instruction, file, site, workbench, cohort))


def evaluate(instruction: Instruction, file: str, site: Site, workbench: Workbench) -> Answering:
    """Score one split, with the model that the site uses, and answer with suppressed summaries."""
    split = instruction.split
    if split is None or split == "train":  # no score of those whom epsilon is to cover
        raise TakesNoPart("not an instruction of this version")
    if instruction.model == EXISTING_SCORE:
        return _existing_score(instruction.study, split, file, site, workbench)
    cohort = workbench.cohort(file, instruction.study, instruction.vocabulary)
    if len(cohort.patients.splits[split]) == 0:
        raise TakesNoPart("no patients in this split")
    reference = instruction.reference
    if reference is not None and not (_may_compare(instruction) and split == "held_out"):
        raise TakesNoPart("not an instruction of this version")
    model = fitting_model(instruction, site, workbench)
    line = UNCHANGED
    if instruction.study.personal and not instruction.shared:
        line = yield from personalised(instruction, file, site, workbench, model, cohort)
    else:
        model.load(weights_of(instruction))
    if instruction.study.evaluation.noise is not None:
        return _with_noise(instruction, file, site, workbench, model, cohort)
    asked = instruction.study, split, site.policy
    drift = _drift(instruction, split)
    return Reply("ok", evaluate_locally(model, cohort, *asked, line, reference, drift))


def _with_noise(
    instruction: Instruction,
    file: str,
    site: Site,
    workbench: Workbench,
    model: FlatModel,
    cohort: Cohort,
) -> Reply:
    """Score the one model that is planned and paid for; nothing else, and no second one."""
    if instruction.model != FEDERATED or instruction.shared or instruction.reference is not None:
        raise TakesNoPart("not an instruction of this version")
    split, study = instruction.split, instruction.study
    purpose = site.name, instruction.model, f"evaluation of {split}", instruction.round
    randomness = workbench.randomness(study.study.seed, *purpose)
    ledger = workbench.ledger(file)
    body = evaluate_with_noise(instruction, model, cohort, site, ledger, randomness)
    return Reply("ok", body)


def _may_compare(instruction: Instruction) -> bool:
    """Whether the study covers a second model: one trained beside it, or the one it names."""
    evaluation, reference = instruction.study.evaluation, instruction.reference
    if "local" in evaluation.baselines or reference is None:
        return True
    return evaluation.predecessor == model_digest(reference)


def _drift(instruction: Instruction, split: Split) -> Drift | None:
    """What to tell by window of time: of the one model that is to be used, at the end."""
    windows = instruction.study.evaluation.windows
    again = instruction.shared or instruction.reference is not None
    finished = instruction.model == FEDERATED and split == "held_out" and not again
    return Drift(windows, instruction.vocabulary) if windows and finished else None


def _existing_score(
    study: Study, split: Split, file: str, site: Site, workbench: Workbench
) -> Reply:
    if study.evaluation.existing_score is None:
        raise TakesNoPart("not an instruction of this version")
    patients = workbench.patients(file, study)
    if len(patients.splits[split]) == 0:
        raise TakesNoPart("no patients in this split")
    return Reply("ok", evaluate_existing_score(patients, study, split, site.policy))


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


def check_policy(study: Study, site: Site) -> None:
    """Refuse a study whose privacy terms the site's policy does not allow.

    Raises:
        Refused: naming the rule.
    """
    mechanism = study.privacy.mechanism
    if site.policy.require_privacy and mechanism != "dp_sgd":
        why = "trains without differential privacy"
        if mechanism == "central":
            why = "adds noise at the coordinator only, who sees this site's updates without"
        raise Refused(f"{site.file}: policy.require_privacy: the study {study.study.name} {why}.")
    asked, largest = study.privacy.epsilon, site.policy.largest_epsilon
    if mechanism == "dp_sgd" and asked is not None and largest is not None and asked > largest:
        raise Refused(
            f"{site.file}: policy.largest_epsilon: the study {study.study.name} asks for epsilon "
            f"{asked:g}, above {largest:g}."
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
