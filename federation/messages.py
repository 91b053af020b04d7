"""What the coordinator and a site say to each other, as Flower's records: the only place for it.

Every instruction carries the resolved study and its fingerprint. Every reply is a status from a
closed list, a body of numbers under a strict schema (``bodies``), and for training the update.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import ValidationError

from federation.bodies import (
    Body,
    DescribeBody,
    EvaluateBody,
    LedgerHead,
    PrepareBody,
    Status,
    TrainBody,
)
from federation.compression import CompressionSection, packed, unpacked
from federation.reduce import Part, WeightedSum
from federation.study import Split, Study
from federation.vocabulary import Vocabulary

Vector = NDArray[np.float32]

FEDERATED = "federated"
EXISTING_SCORE = "existing_score"
"""Stands for a model: the score that the study names, which sites hold already."""
KINDS = ("float32", "int64", "float16", "uint16", "uint32", "int8")
"""Of the numbers of a vector that travels."""
MOST_TEXT = 2**25
"""Characters of a reply's body; the longest lists a hospital's codes."""
RUN_ID = re.compile(r"[0-9a-f]{0,64}")
MODEL = re.compile(r"[a-z0-9:_-]{1,140}")

DESCRIBE, PREPARE, TRAIN, EVALUATE = "query.describe", "query.prepare", "train", "evaluate"
"""Message types, as Flower routes them."""


def model_digest(weights: Vector) -> str:
    """Return the SHA-256 of a model's parameters, by which a study names it."""
    return hashlib.sha256(np.ascontiguousarray(weights, "<f4").tobytes()).hexdigest()


MALFORMED = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValidationError,
)
"""What reading somebody else's records can raise, beside ValueError."""


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
        factors: by what a host multiplies each site's update, by site; None for nothing.
        control: the coordinator's control variate, (parameters,) float32; SCAFFOLD only.
        counted: the last round in which a site's update counted, by site, 0 for none; where what
            sites keep must be in step with the coordinator.
        shared: whether to score the weights as they are, though the site uses a model of its own.
        reference: a second model to score on the same patients, (parameters,) float32.
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
    factors: Mapping[str, float] | None = None
    control: Vector | None = None
    counted: Mapping[str, int] | None = None
    shared: bool = False
    reference: Vector | None = None
    witness: LedgerHead | None = None

    @functools.cached_property
    def largest_weight(self) -> float:
        """Largest absolute value of what was sent; not a number if one of them is not."""
        vectors = (self.weights, self.control, self.reference)
        sent = [vector for vector in vectors if vector is not None]
        return float(np.max([np.abs(vector).max(initial=0.0) for vector in sent]))  # keeps a nan

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides a round at a site: run, study, model, round and weights."""
        assert self.weights is not None
        parts = self.run, self.study.fingerprint, self.model, self.round
        digest = hashlib.sha256("/".join(map(str, parts)).encode())
        for vector in (self.weights, self.control):
            if vector is not None:
                digest.update(np.ascontiguousarray(vector).tobytes())
        return digest.hexdigest()

    def to_records(self) -> RecordDict:
        """Encode for Flower."""
        task: dict[str, Any] = {
            "model": self.model,
            "round": self.round,
            "fold": self.fold,
            "run": self.run,
            "shared": self.shared,
        }
        if self.factors is not None:
            task["factors"] = json.dumps(dict(self.factors))
        if self.clip is not None:
            task["clip"] = self.clip
        if self.split is not None:
            task["split"] = self.split
        if self.vocabulary is not None:
            task["vocabulary"] = self.vocabulary.canonical
        if self.counted is not None:
            task["counted"] = json.dumps(dict(self.counted))
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
        if self.control is not None:
            records["control"] = _vector(self.control)
        if self.reference is not None:
            records["reference"] = _vector(self.reference)
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
                factors=_read_factors(task.get("factors")),
                control=_read_vector(records, "control"),
                counted=_read_counted(task.get("counted")),
                shared=bool(task["shared"]),
                reference=_read_vector(records, "reference"),
                witness=_read_witness(records),
            )
        except MALFORMED as error:
            raise ValueError("not an instruction of this version") from error


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
        compression: how the update travels; it has been rounded to that already.
    """

    status: Status
    body: Body | None = None
    update: Vector | None = None
    partial: WeightedSum | None = None
    rejected: str = ""
    compression: CompressionSection | None = None

    def to_records(self) -> RecordDict:
        """Encode for Flower."""
        reply: dict[str, Any] = {"status": self.status}
        if self.rejected:
            reply["rejected"] = self.rejected
        if self.body is not None:
            reply["body"] = self.body.model_dump_json()
        records = RecordDict({"reply": ConfigRecord(reply)})
        if self.update is not None:
            records["update"] = _update(self.update, self.compression)
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
            if text is not None and len(text) > MOST_TEXT:
                raise ValueError("too long")
            body = None if text is None else BODIES[message_type].model_validate_json(text)
            if reply["status"] not in get_args(Status):
                raise ValueError("unknown status")
            if (reply["status"] == "ok") != (body is not None):
                raise ValueError("a body belongs to the status ok alone")
            update = _read_update(records)
            if isinstance(body, TrainBody) and update is None and not folded:
                raise ValueError("training without an update")
            return cls(
                status=reply["status"],
                body=body,
                update=update,
                partial=_read_partial(records) if folded else None,
                rejected=str(reply.get("rejected", "")) if folded else "",
            )
        except MALFORMED as error:
            raise ValueError("not a reply of this version") from error


def with_witness(records: RecordDict, witness: LedgerHead) -> RecordDict:
    """Address an instruction to one site, without a copy of what all sites get."""
    told = ConfigRecord({"length": witness.length, "hash": witness.hash})
    return RecordDict({**records, "witness": told})


def with_counted(records: RecordDict, counted: Mapping[str, int]) -> RecordDict:
    """Say which rounds counted, without a copy of the vectors."""
    told: dict[str, Any] = {**records["task"], "counted": json.dumps(dict(counted))}
    return RecordDict({**records, "task": ConfigRecord(told)})


def _read_witness(records: RecordDict) -> LedgerHead | None:
    if "witness" not in records:
        return None
    return LedgerHead.model_validate(dict(records["witness"]))


def _read_factors(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    return {str(site): float(factor) for site, factor in json.loads(text).items()}


def _read_counted(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    return {str(site): int(round_) for site, round_ in json.loads(text).items()}


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
    return _read_array(records[name]["flat"], kind)  # type: ignore[arg-type]


def _read_array(array: Array, kind: str) -> NDArray[Any]:
    known = kind in KINDS and array.dtype == kind
    if array.stype != "raw" or not known or len(array.shape) != 1:
        raise ValueError("not a vector of this version")
    vector = np.frombuffer(array.data, np.dtype(kind).newbyteorder("<"))
    if vector.shape != tuple(array.shape):
        raise ValueError("a vector is shorter or longer than it says")
    return vector


def _read_update(records: RecordDict) -> Vector | None:
    """Return an update, as a vector or compressed."""
    if "update" not in records or "flat" in records["update"]:
        return _read_vector(records, "update")
    return unpacked(
        {
            str(name): _read_array(array, str(array.dtype))
            for name, array in records["update"].items()
            if isinstance(array, Array)
        }
    )


def _update(update: Vector, compression: CompressionSection | None) -> ArrayRecord:
    if compression is None:
        return _vector(update)
    arrays = packed(update, compression)
    return ArrayRecord({name: _array(values) for name, values in arrays.items()})


def _vector(values: NDArray[Any]) -> ArrayRecord:
    return ArrayRecord({"flat": _array(values)})


def _array(values: NDArray[Any]) -> Array:
    """Wrap a vector as its little-endian bytes: NumPy's own format costs more than it carries."""
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return Array(values.dtype.name, values.shape, "raw", data)


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
