"""Which sites a round asks, as a study says it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from federation.validation import Section

SUBSETS = ("random", "by_size", "power_of_choice")
"""Kinds that ask so many sites; the others ask all, or each by its own draw."""


class ParticipationSection(Section):
    """Which sites are asked in a round, drawn anew for each from the study's seed.

    ``random``: so many ``sites``, or a ``fraction`` of those connected. ``poisson``: each site by
    itself, with probability ``fraction``. ``by_size``: as many as for ``random``, each draw with
    probabilities like the numbers of training patients. ``power_of_choice``: of ``candidates``
    drawn by size, those whose training loss was largest when they were last heard
    (Cho et al., AISTATS 2022).
    """

    kind: Literal["all", "random", "poisson", "by_size", "power_of_choice"] = "all"
    sites: PositiveInt | None = None
    fraction: float | None = Field(default=None, gt=0, le=1)
    candidates: PositiveInt | None = None

    @model_validator(mode="after")
    def _how_many(self) -> ParticipationSection:
        given = [name for name in ("sites", "fraction") if getattr(self, name) is not None]
        if self.kind == "all" and given:
            raise ValueError(f'{given[0]} is not an option of kind "all"')
        if self.kind == "poisson" and given != ["fraction"]:
            raise ValueError('kind "poisson" needs fraction, the probability of each site')
        if self.kind in SUBSETS and len(given) != 1:
            raise ValueError(f'kind "{self.kind}" needs sites or fraction, one of them')
        return self

    @model_validator(mode="after")
    def _candidates_belong_to_power_of_choice(self) -> ParticipationSection:
        if (self.kind == "power_of_choice") != (self.candidates is not None):
            raise ValueError('kind "power_of_choice", and no other, needs candidates')
        if self.candidates is not None and self.sites is not None and self.candidates < self.sites:
            raise ValueError(f"candidates is {self.candidates}, fewer than sites ({self.sites})")
        return self
