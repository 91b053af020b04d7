"""What leaves a site: the body of each reply under a strict schema, and the closed lists of words.

A body that does not fit its schema is neither sent nor accepted. docs/what-leaves-a-site.md lists
every field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from federation.metrics.noised import NoisedSummary
from federation.metrics.outcomes import OutcomesSummary
from federation.metrics.several import SeveralSummary
from federation.metrics.summaries import Summary, read_summary
from federation.metrics.summary import ScoreSummary
from federation.modalities import Modality
from federation.study import Split, Study
from federation.subgroups import CELLS, WHOLE_SITE, is_window
from federation.validation import Section
from federation.vocabulary import CodeMoments

Status = Literal[
    "ok",
    "no training patients",
    "fewer training patients than the site's minimum_cell",
    "no patients in this split",
    "fewer patients than the site's minimum_cell",
    "refused by the site's policy",
    "the study is not approved at the site",
    "outside the site's hours",
    "more rounds than the site allows",
    "more questions than the study plans",
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
    "the study is not approved at the site",
    "outside the site's hours",
    "more rounds than the site allows",
    "more questions than the study plans",
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
    "no index event",
    "stay or outcome ended before the prediction time",
    "treated at several hospitals",
    "reference to an absent patient",
    "repeated label rows",
    "later prediction times, not used",
    "no label of some of the tasks, used for the others",
    "events after the prediction time, not used",
    "birth: after the prediction time or over 120 years before",
    "events before the birth, not used",
    "event without a time, not used",
    "event without a code, not used",
    "event cancelled or entered in error, not used",
    "value: not a finite number",
    "value: cannot be read, not used",
    "image: the file is missing",
    "image: not a DICOM file",
    "image: not a PNG file",
    "image: not a NIfTI file",
    "image: no pixels",
    "image: too large to be decoded",
    "image: a transfer syntax that is not read",
    "image: the pixels cannot be decoded",
    "image: the compressed pixels contradict the header",
    "image: the number of frames contradicts the pixels",
    "image: the decoder crashed",
    "image: the slices do not make one volume",
    "image: a single picture, not a volume",
    "image: slices are missing or unevenly spaced",
    "image: the slices do not say where they lie",
    "image: not selected by the site's rules",
    "image: the path leads out of the data folder",
    "image: not a file name",
    "image: offered, but no event names a file",
    "event: cut at the study's max_events",
    "note: cut at the study's max_tokens",
    "note: offered, but no event holds one",
]
"""Why patients were left out, or what a person should know of them."""

MOST_PATIENTS = 2**20
"""Of one site; a round sums at most eight times as many."""

_MOST_DEVIATIONS = 64
"""Of noise on a count; it never comes out so large."""

LARGEST_LOSS = 1e6
LARGEST_VARIANCE = 1e30

Count = Annotated[int, Field(ge=0, le=MOST_PATIENTS)]

SmallCount = Count | Literal["suppressed"]

PartName = Literal["ehr", "image", "text", "fusion"]

WithheldReason = Annotated[
    str, Field(pattern=r"^(withheld to protect )?fewer than [1-9][0-9]{0,8} patients$")
]

InputLevel = Literal["absent", "below", "within", "above", "present", "others"]
"""Where an input lies: against its reference range, or whether it is there; or levels joined."""

Inputs = dict[str, dict[str, dict[InputLevel, Count]]]
"""Patients by window, input and level."""

Magnitude = Annotated[float, Field(ge=-1e100, le=1e100)]

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MOST_ROUNDS = 2**20

MOST_SEGMENTS = 1024
"""Different terms of one run; to compose more would keep the coordinator busy for minutes."""

CODE = r"[A-Za-z0-9_.%+\-/:()\[\]^*# ]{1,120}"
"""What may leave as a code: it looks like one."""

Code = Annotated[str, Field(pattern=f"^{CODE}$")]

MOST_CODES = 2**18


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

    segments: tuple[SpentSegment, ...] = Field(min_length=1, max_length=MOST_SEGMENTS)
    wanted_noise: float = Field(gt=0, le=1e9)
    """The noise multiplier that the study alone asks for; more is added where the cap is near."""
    seeded: bool
    ledger: LedgerHead


class TrainBody(Section):
    """What leaves after local training, beside the update."""

    loss: float | None = Field(ge=0, le=LARGEST_LOSS)
    """None if it diverged, and under differential privacy, which does not cover it."""
    steps: int = Field(ge=0, le=2**40)
    patients: dict[PartName, Count]
    """Training patients behind each part of the model; 0 below the site's minimum cell.

    Under differential privacy all training patients, or 0 where the site does not offer the
    modality at all: how many have it is not told.
    """
    initial_loss: float | None = Field(default=None, ge=0, le=LARGEST_LOSS)
    """Mean loss of the global model on the training patients; where the strategy goes by it."""
    gradient_variance: float | None = Field(default=None, ge=0, le=LARGEST_VARIANCE)
    """Squared standard error of the round's mean gradient; where sites are weighed by it."""
    spent: SpentBody | None = None
    """Under differential privacy at the site."""


class PairedBody(Section):
    """A second model on the same patients, where the study compares models."""

    reference: dict[str, Any]
    """Score summary of the second model, of all patients of the site."""
    correlation: float | None = Field(ge=-1, le=1)
    """Of the two models' AUROCs, rounded down to a hundredth; None where it is not defined."""

    def summary(self) -> ScoreSummary:
        """Return the second model's summary.

        Raises:
            ValueError: if it cannot belong to any patients.
        """
        return ScoreSummary.from_json(self.reference)


class NoiseBody(Section):
    """With what noise counts were told; nothing here follows from what the records hold."""

    scale: float = Field(gt=0, le=1e9)
    """Of the discrete Gaussian noise of each count."""
    wanted_scale: float = Field(gt=0, le=1e9)
    """What the study alone asks for; more is added where the site's cap is near."""
    counts: int = Field(ge=1, le=64)
    """To how many counts a patient adds in one evaluation."""
    evaluations: int = Field(ge=1, le=MOST_ROUNDS)
    """Of this split, in this run so far."""
    patients: Count
    """Of the split, declared public."""
    seeded: bool


class EvaluateBody(Section):
    """Score summaries of the permitted cells, and why the others are withheld."""

    cells: dict[str, dict[str, Any]]
    withheld: dict[str, WithheldReason]
    paired: PairedBody | None = None
    """Only where the coordinator sent a second model, and the study compares models."""
    inputs: Inputs = Field(default_factory=dict)
    """Only of the federated model, and where the study has windows of time."""
    noise: NoiseBody | None = None
    """Where the study asks for noise: cells are then noised summaries."""

    @model_validator(mode="after")
    def _cells_from_the_closed_list(self) -> EvaluateBody:
        if not {*self.cells, *self.withheld} <= CELLS:
            raise ValueError("a cell's name is not from the closed list")
        if WHOLE_SITE not in self.cells and WHOLE_SITE not in self.withheld:
            raise ValueError("nothing is said of the site as a whole")
        if self.cells and WHOLE_SITE not in self.cells:
            raise ValueError("a site withheld as a whole has no cells")
        if self.paired is not None and WHOLE_SITE not in self.cells:
            raise ValueError("a site withheld as a whole compares nothing")
        if self.noise is not None and (self.paired is not None or self.inputs):
            raise ValueError("only counts have noise")
        if not all(is_window(name) and name in self.cells for name in self.inputs):
            raise ValueError("inputs of a window that was not sent")
        return self

    def summaries(self) -> dict[str, Summary]:
        """Return the cells' summaries, of the kind of the task.

        Raises:
            ValueError: if one cannot belong to any patients, or a subgroup to this site.
        """
        read = {name: read_summary(cell) for name, cell in self.cells.items()}
        if read and read[WHOLE_SITE].n > MOST_PATIENTS:
            raise ValueError("more patients than a site can have")
        if any(not cell.n and not _withholds(cell) for cell in read.values()):
            raise ValueError("a cell of nobody")
        if read and any(cell.n > read[WHOLE_SITE].n for cell in read.values()):
            raise ValueError("a subgroup is larger than its site")
        for name, inputs in self.inputs.items():
            if any(sum(levels.values()) != read[name].n for levels in inputs.values()):
                raise ValueError("an input's levels do not add up to its window")
        return read

    def noised(self) -> dict[str, NoisedSummary]:
        """Return the cells' noised summaries; empty where there is no noise.

        Raises:
            ValueError: if one is none, or has other noise than is told.
        """
        if self.noise is None:
            return {}
        read = {name: NoisedSummary.from_json(cell) for name, cell in self.cells.items()}
        scale = self.noise.scale
        if any(abs(one.variance - scale**2) > 1e-6 for one in read.values()):
            raise ValueError("a cell has other noise than is told")
        most = self.noise.patients + _MOST_DEVIATIONS * scale
        if any(abs(count) > most for one in read.values() for count in one.counts.flat):
            raise ValueError("a count is larger than patients and noise can make it")
        return read

    def unasked(self, study: Study) -> str:
        """What it tells that a study does not ask for; empty if there is nothing."""
        windows = any(is_window(name) for name in (*self.cells, *self.withheld))
        if (windows or self.inputs) and study.evaluation.windows is None:
            return "windows of time that the study does not ask for"
        ehr = study.modalities.ehr
        known = {*study.modalities.names, *(ehr.reference_ranges if ehr else ())}
        if not all(inputs.keys() <= known for inputs in self.inputs.values()):
            return "an input that the study does not name"
        if (self.noise is None) != (study.evaluation.noise is None):
            return "an evaluation with or without noise, as the study does not ask"
        return ""


def _withholds(cell: Summary) -> bool:
    """Whether a cell tells of outcomes that they are withheld, of all of them maybe."""
    return isinstance(cell, OutcomesSummary | SeveralSummary) and bool(cell.withheld)


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

    codes: Annotated[
        dict[Code, tuple[Count, Annotated[int, Field(ge=0, le=2**40)], Magnitude, Magnitude]],
        Field(max_length=MOST_CODES),
    ]

    def moments(self) -> dict[str, CodeMoments]:
        """Return the moments by code."""
        return {code: CodeMoments(*numbers) for code, numbers in self.codes.items()}


Body = TrainBody | EvaluateBody | DescribeBody | PrepareBody
