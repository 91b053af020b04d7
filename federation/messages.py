"""What the coordinator and a site say to each other: the only place that knows it.

Every instruction carries the resolved study and its fingerprint. Every reply is a status from a
closed list, a body of numbers under a strict schema, and for training the update. A body that
does not fit its schema is neither sent nor accepted.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from federation.metrics.summary import ScoreSummary
from federation.reduce import Part, WeightedSum
from federation.study import Modality, Split, Study
from federation.subgroups import CELLS, WHOLE_SITE
from federation.validation import Section
from federation.vocabulary import CodeMoments, Vocabulary

Vector = NDArray[np.float32]

FEDERATED = "federated"
RUN_ID = re.compile(r"[0-9a-f]{0,64}")
MODEL = re.compile(r"[a-z0-9:_-]{1,140}")

DESCRIBE, PREPARE, TRAIN, EVALUATE = "query.describe", "query.prepare", "train", "evaluate"
"""Message types, as Flower routes them."""

Status = Literal[
    "ok",
    "no training patients",
    "fewer training patients than the site's minimum_cell",
    "no patients in this split",
    "fewer patients than the site's minimum_cell",
    "refused by the site's policy",
    "the privacy budget of the site's patients does not allow it",
    "the study's privacy terms do not fit the site",
    "the site's privacy ledger does not extend the one that was witnessed",
    "the site's files need attention",
    "the site failed",
    "not an instruction of this version",
]
"""All that a site ever says about a failure; the details stay in its own log."""

REFUSALS: tuple[Status, ...] = (
    "refused by the site's policy",
    "the privacy budget of the site's patients does not allow it",
    "the site's privacy ledger does not extend the one that was witnessed",
)
"""A site that answers so could have done what was asked, and its rules forbid it."""

Reason = Literal[
    "no label",
    "label is empty",
    "label outside the classes",
    "no prediction time",
    "contradictory labels",
    "label without any event",
    "no split given",
    "repeated label rows",
    "later prediction times, not used",
    "events after the prediction time, not used",
    "birth: after the prediction time or over 120 years before",
    "value: not a finite number",
    "image: the file is missing",
    "image: not a DICOM file",
    "image: more than one frame",
    "image: not a grey-scale image",
    "image: the pixels cannot be decoded",
    "image: the path leads out of the data folder",
    "image: not a file name",
    "image: offered, but no event names a file",
    "note: cut at the study's max_tokens",
    "note: offered, but no event holds one",
]
"""Why patients were left out, or what a person should know of them."""

MALFORMED = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValidationError,
)
"""What reading somebody else's records can raise, beside ValueError."""

MOST_PATIENTS = 2**20
"""Of one site; a round sums at most eight times as many."""

LARGEST_LOSS = 1e6
Count = Annotated[int, Field(ge=0, le=MOST_PATIENTS)]
SmallCount = Count | Literal["suppressed"]
PartName = Literal["ehr", "image", "text", "fusion"]
WithheldReason = Annotated[
    str, Field(pattern=r"^(withheld to protect )?fewer than [1-9][0-9]{0,8} patients$")
]
Magnitude = Annotated[float, Field(ge=-1e100, le=1e100)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MOST_ROUNDS = 2**20


@dataclass(frozen=True)
class Instruction:
    """What the coordinator asks of one site.

    Attributes:
        study: the resolved study.
        model: which model of the run: ``federated``, ``pooled``, ``local:cleveland``, ...
        round: the round, from 1; 0 outside of rounds.
        vocabulary: places of the EHR codes; None before it is known.
        weights: the model's parameters, flat; None for queries.
        split: on which split to evaluate.
        fold: whether a host of several sites may send the sum of their updates instead.
        run: id of the run, drawn by the coordinator; a site's ledger tells runs apart by it.
        clip: norm to which a host clips each site's update before it adds it; central privacy only.
        witness: length and hash of the site's ledger when the coordinator last heard of it.
    """

    study: Study
    model: str = FEDERATED
    round: int = 0
    vocabulary: Vocabulary | None = None
    weights: Vector | None = None
    split: Split | None = None
    fold: bool = False
    run: str = ""
    clip: float | None = None
    witness: LedgerHead | None = None

    def to_records(self) -> RecordDict:
        """Encode for Flower."""
        task: dict[str, Any] = {
            "model": self.model,
            "round": self.round,
            "fold": self.fold,
            "run": self.run,
        }
        if self.clip is not None:
            task["clip"] = self.clip
        if self.split is not None:
            task["split"] = self.split
        if self.vocabulary is not None:
            task["vocabulary"] = self.vocabulary.canonical
        records = RecordDict(
            {
                "study": ConfigRecord(
                    {"json": self.study.canonical, "fingerprint": self.study.fingerprint}
                ),
                "task": ConfigRecord(task),
            }
        )
        if self.weights is not None:
            records["weights"] = _vector(self.weights)
        return records if self.witness is None else with_witness(records, self.witness)

    @classmethod
    def from_records(cls, records: RecordDict) -> Instruction:
        """Decode and check.

        Raises:
            ValueError: if it is not an instruction of this version, or its study is not the one
                that its fingerprint names.
        """
        try:
            study = _read_study(str(records["study"]["json"]))
            if study.fingerprint != records["study"]["fingerprint"]:
                raise ValueError("the study does not match its fingerprint")
            task: dict[str, Any] = dict(records["task"])
            if task.get("split") not in (None, *get_args(Split)):
                raise ValueError("unknown split")
            return cls(
                study=study,
                model=_matching(MODEL, task["model"]),
                round=int(task["round"]),
                vocabulary=_read_vocabulary(task.get("vocabulary")),
                weights=_read_vector(records, "weights"),
                split=task.get("split"),
                fold=bool(task["fold"]),
                run=_matching(RUN_ID, task["run"]),
                clip=None if task.get("clip") is None else float(task["clip"]),
                witness=_read_witness(records),
            )
        except MALFORMED as error:
            raise ValueError("not an instruction of this version") from error


class LedgerHead(Section):
    """Length of a site's ledger and hash of its last line: what the coordinator witnesses."""

    length: int = Field(ge=0, le=2**40)
    hash: Hash


class SpentSegment(Section):
    """Rounds of equal terms: so many steps of the Poisson-sampled Gaussian mechanism in all."""

    sampling_rate: float = Field(gt=0, le=1)
    noise_multiplier: float = Field(gt=0, le=1e9)
    steps: int = Field(ge=1, le=2**40)
    rounds: int = Field(ge=1, le=MOST_ROUNDS)


class SpentBody(Section):
    """What this run has spent on the site's patients for this model so far, by its ledger.

    Nothing here depends on what the patients' records hold: the rate follows from the number of
    training patients, which is declared public, and the noise from the study and the ledger.
    """

    segments: tuple[SpentSegment, ...] = Field(min_length=1, max_length=MOST_ROUNDS)
    wanted_noise: float = Field(gt=0, le=1e9)
    """The noise multiplier that the study alone asks for; more is added where the cap is near."""
    seeded: bool
    ledger: LedgerHead


class TrainBody(Section):
    """What leaves after local training, beside the update."""

    loss: float | None = Field(ge=0, le=LARGEST_LOSS)
    """None if it diverged, and under differential privacy, which does not cover it."""
    steps: int = Field(ge=0)
    patients: dict[PartName, Count]
    """Training patients behind each part of the model; 0 below the site's minimum cell.

    Under differential privacy all training patients, or 0 where the site does not offer the
    modality at all: how many have it is not told.
    """
    spent: SpentBody | None = None
    """Under differential privacy at the site."""


class EvaluateBody(Section):
    """Score summaries of the permitted cells, and why the others are withheld."""

    cells: dict[str, dict[str, Any]]
    withheld: dict[str, WithheldReason]

    @model_validator(mode="after")
    def _cells_from_the_closed_list(self) -> EvaluateBody:
        if not {*self.cells, *self.withheld} <= CELLS:
            raise ValueError("a cell's name is not from the closed list")
        if WHOLE_SITE not in self.cells and WHOLE_SITE not in self.withheld:
            raise ValueError("nothing is said of the site as a whole")
        if self.cells and WHOLE_SITE not in self.cells:
            raise ValueError("a site withheld as a whole has no cells")
        return self

    def summaries(self) -> dict[str, ScoreSummary]:
        """Return the cells' summaries.

        Raises:
            ValueError: if one cannot belong to any patients, or a subgroup to this site.
        """
        read = {name: ScoreSummary.from_json(cell) for name, cell in self.cells.items()}
        if read and any(cell.n > read[WHOLE_SITE].n for cell in read.values()):
            raise ValueError("a subgroup is larger than its site")
        return read


class DescribeBody(Section):
    """Suppressed counts of a site's patients."""

    patients: dict[Split, SmallCount]
    modalities: dict[Modality, SmallCount]
    excluded: dict[Reason, SmallCount]
    notices: dict[Reason, SmallCount]
    minimum_cell: Count
    score_bins: Literal["merged", "fine"]
    counted: bool = True
    """False under differential privacy: of modalities then only whether the site offers them, and
    no notices."""


class PrepareBody(Section):
    """Codes that enough training patients have, with patients, values, sum, sum of squares."""

    codes: dict[str, tuple[Count, Annotated[int, Field(ge=0, le=2**40)], Magnitude, Magnitude]]

    def moments(self) -> dict[str, CodeMoments]:
        """Return the moments by code."""
        return {code: CodeMoments(*numbers) for code, numbers in self.codes.items()}


Body = TrainBody | EvaluateBody | DescribeBody | PrepareBody
BODIES: Mapping[str, type[Body]] = {
    TRAIN: TrainBody,
    EVALUATE: EvaluateBody,
    DESCRIBE: DescribeBody,
    PREPARE: PrepareBody,
}


@dataclass(frozen=True)
class Reply:
    """What a site answers.

    Attributes:
        status: ``ok``, or why not.
        body: None unless ``ok``.
        update: (parameters,) float32, local minus global; training only.
        partial: instead of updates, the sum over several sites of one host.
        rejected: why the host's screening refused this site's update; empty if it did not.
    """

    status: Status
    body: Body | None = None
    update: Vector | None = None
    partial: WeightedSum | None = None
    rejected: str = ""

    def to_records(self) -> RecordDict:
        """Encode for Flower."""
        reply: dict[str, Any] = {"status": self.status, "rejected": self.rejected}
        if self.body is not None:
            reply["body"] = self.body.model_dump_json()
        records = RecordDict({"reply": ConfigRecord(reply)})
        if self.update is not None:
            records["update"] = _vector(self.update)
        if self.partial is not None:
            records.update(partial_records(self.partial))
        return records

    @classmethod
    def from_records(cls, records: RecordDict, message_type: str, folded: bool = False) -> Reply:
        """Decode and check what a site sent; it is not trusted.

        Args:
            records: the content of the reply.
            message_type: what was asked.
            folded: whether a sum over several sites may stand in for updates; only a simulation's
                own host is trusted with that.

        Raises:
            ValueError: if it is not a reply of this version to that type of message.
        """
        try:
            reply: dict[str, Any] = dict(records["reply"])
            text = reply.get("body")
            body = None if text is None else BODIES[message_type].model_validate_json(text)
            if reply["status"] not in get_args(Status):
                raise ValueError("unknown status")
            if (reply["status"] == "ok") != (body is not None):
                raise ValueError("a body belongs to the status ok alone")
            update = _read_vector(records, "update")
            if isinstance(body, TrainBody) and update is None and not folded:
                raise ValueError("training without an update")
            return cls(
                status=reply["status"],
                body=body,
                update=update,
                partial=_read_partial(records) if folded else None,
                rejected=str(reply["rejected"]) if folded else "",
            )
        except MALFORMED as error:
            raise ValueError("not a reply of this version") from error


def with_witness(records: RecordDict, witness: LedgerHead) -> RecordDict:
    """Address an instruction to one site, without a copy of what all sites get."""
    told = ConfigRecord({"length": witness.length, "hash": witness.hash})
    return RecordDict({**records, "witness": told})


def _read_witness(records: RecordDict) -> LedgerHead | None:
    if "witness" not in records:
        return None
    return LedgerHead.model_validate(dict(records["witness"]))


def _matching(pattern: re.Pattern[str], text: Any) -> str:
    if not pattern.fullmatch(str(text)):
        raise ValueError("unexpected characters")
    return str(text)


@functools.lru_cache(maxsize=64)
def _read_study(text: str) -> Study:
    return Study.model_validate_json(text)


@functools.lru_cache(maxsize=64)
def _read_vocabulary(text: str | None) -> Vocabulary | None:
    return None if text is None else Vocabulary.from_json(text)


def _read_vector(records: RecordDict, name: str, kind: str = "float32") -> NDArray[Any] | None:
    """Return a read-only view of a vector, or None if there is none.

    Raises:
        ValueError: if its bytes are not what its description says.
    """
    if name not in records:
        return None
    array: Array = records[name]["flat"]  # type: ignore[assignment]
    if array.stype != "raw" or array.dtype != kind or len(array.shape) != 1:
        raise ValueError("not a vector of this version")
    vector = np.frombuffer(array.data, np.dtype(kind).newbyteorder("<"))
    if vector.shape != tuple(array.shape):
        raise ValueError("a vector is shorter or longer than it says")
    return vector


def _vector(values: NDArray[Any]) -> ArrayRecord:
    """Wrap a vector as its little-endian bytes: NumPy's own format costs more than it carries."""
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return ArrayRecord({"flat": Array(values.dtype.name, values.shape, "raw", data)})


def partial_records(partial: WeightedSum) -> dict[str, ArrayRecord | ConfigRecord]:
    """Encode a sum over several sites of one host."""
    description = {
        "parts": [[part.name, part.start, part.stop] for part in partial.parts],
        "weights": partial.weights,
        "members": partial.members,
        "within": partial.within,
    }
    return {
        "partial": _vector(partial.values),
        "partial_of": ConfigRecord({"json": json.dumps(description)}),
    }


def _read_partial(records: RecordDict) -> WeightedSum | None:
    values = _read_vector(records, "partial", "int64")
    if values is None:
        return None
    description = json.loads(str(records["partial_of"]["json"]))
    return WeightedSum(
        parts=tuple(Part(*part) for part in description["parts"]),
        values=values,
        weights=description["weights"],
        members=description["members"],
        within=description["within"],
    )
