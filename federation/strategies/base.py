"""What all strategies share: options, and facts that decide what they can be combined with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from federation.compression import CompressionSection
from federation.participation import ParticipationSection
from federation.validation import Section

Needs = Literal["sum", "each"]
LocalPart = Literal["", "normalisation", "head"]

Momentum = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=100)]


class ScreeningSection(Section):
    """Which updates are left out of a round, by comparison with the others."""

    norm_ratio: float | None = Field(default=None, ge=1, le=1000)
    least_cosine: float | None = Field(default=None, ge=-1, le=1)
    judge: str | None = Field(default=None, min_length=1)
    most_harm: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _something(self) -> ScreeningSection:
        if {self.norm_ratio, self.least_cosine, self.judge} == {None}:
            raise ValueError("give norm_ratio, least_cosine or judge")
        if (self.judge is None) != (self.most_harm is None):
            raise ValueError("judge and most_harm belong together")
        return self


class Strategy(Section):
    """How updates become the next model, and when a round counts.

    Attributes:
        needs: ``sum`` if the weighted sum of the updates is enough, ``each`` if not.
        summary: one line.
        source: the paper.
        at_sites: what a site does otherwise than train from the global weights; empty if nothing.
        keeps: what a site keeps on its disk from round to round, which never leaves it.
        in_step: whether what a site keeps must follow from rounds in which its update counted.
        local_part: which part of the model is each site's own.
        tells_loss: whether sites tell the global model's loss on their training patients.
        not_with_dp_sgd: why it cannot be private at the sites; empty if it can.
        not_with_central: why it cannot have the coordinator's noise; empty if it can.
        not_with_secure_sum: why the coordinator must see more than a sum; empty if it need not.
        only_plain_sgd: whether the sites' optimiser must be SGD without momentum and weight decay.
        own_number: whether sites are weighed by a number that is known with the update.
        counts_once: whether sites weigh alike, whatever they claim.
        without_a_modality: what becomes of the parts of the model that not all sites move.
    """

    needs: ClassVar[Needs] = "sum"
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    at_sites: ClassVar[str] = ""
    keeps: ClassVar[str] = ""
    in_step: ClassVar[bool] = False
    local_part: ClassVar[LocalPart] = ""
    tells_loss: ClassVar[bool] = False
    not_with_dp_sgd: ClassVar[str] = ""
    not_with_central: ClassVar[str] = ""
    not_with_secure_sum: ClassVar[str] = ""
    only_plain_sgd: ClassVar[bool] = False
    own_number: ClassVar[bool] = False
    counts_once: ClassVar[bool] = False
    without_a_modality: ClassVar[str] = "each part is averaged over the sites that moved it"

    name: str
    weighting: Literal["patients", "uniform", "inverse_variance"] = "patients"
    most_patients: PositiveInt | None = None
    participation: ParticipationSection = ParticipationSection()
    minimum_sites: PositiveInt = 2
    round_deadline_seconds: PositiveFloat = 600.0
    maximum_update_norm: PositiveFloat | None = None
    screening: ScreeningSection | None = None
    compression: CompressionSection | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)

    @property
    def sums(self) -> bool:
        """Whether the weighted sum of the updates is all that is needed of them."""
        return self.needs == "sum" and self.screening is None

    @property
    def fewest_sites(self) -> int:
        """Fewest updates in a round with which the rule is defined."""
        return 1

    @property
    def with_number(self) -> bool:
        """Whether a number of the site's own is added up beside its update."""
        return self.own_number or self.weighting == "inverse_variance"

    @property
    def wants_variance(self) -> bool:
        """Whether sites tell how much their gradients vary."""
        return self.weighting == "inverse_variance"

    @property
    def personal(self) -> bool:
        """Whether the model that a site uses is not the one that the coordinator has."""
        return bool(self.local_part)

    @model_validator(mode="before")
    @classmethod
    def _uniform_unless_said(cls, data: Any) -> Any:
        if cls.counts_once and isinstance(data, Mapping):
            return {"weighting": "uniform", **data}
        return data

    @model_validator(mode="after")
    def _enough_are_asked(self) -> Strategy:
        asked = self.participation.sites
        if asked is not None and asked < self.minimum_sites:
            raise ValueError(
                f"participation.sites is {asked}, but a round needs {self.minimum_sites} "
                "(minimum_sites)"
            )
        return self

    @model_validator(mode="after")
    def _large_sites_count_once(self) -> Strategy:
        if self.participation.kind == "by_size" and self.weighting == "patients":
            raise ValueError(
                'participation.kind = "by_size" asks large sites more often, so their updates must '
                'not weigh more as well: give weighting = "uniform"'
            )
        if self.counts_once and self.weighting != "uniform":
            raise ValueError(
                f'"{self.name}" does not believe what sites claim, so each counts once: '
                'leave weighting away, or give "uniform"'
            )
        return self
