"""The faults that a study wants simulated: the tables of ``[simulation.faults]``.

What each does to a site's round is in ``simulations.faults``; a deployed coordinator or site
refuses a study that declares any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from federation.validation import Section

Corruption = Literal["nan", "bits", "shape", "zeros"]
Attack = Literal["label_flip", "sign_flip", "scaled_update", "backdoor"]

WEEK = 7 * 86_400.0


def _once_each(sites: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if sites is None:
        return None
    if not sites:
        raise ValueError("names no site; leave it away for all sites")
    twice = sorted({site for site in sites if sites.count(site) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: named twice")
    return sites


SiteNames = Annotated[tuple[str, ...] | None, Field(default=None), AfterValidator(_once_each)]
"""The sites that a fault can strike; None for all of them."""

Chance = Annotated[float, Field(ge=0, le=1, strict=True)]


class DropoutSection(Section):
    """Sites that cannot be reached in a round.

    ``random``: each with ``probability``. ``periodic``: each in one of ``every`` rounds, in turn.
    ``by_size``: the smallest site with ``probability``, the others with as much less as they have
    more training patients.
    """

    kind: Literal["random", "periodic", "by_size"] = "random"
    probability: Chance | None = None
    every: int | None = Field(default=None, ge=2, strict=True)
    sites: SiteNames

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> DropoutSection:
        periodic = self.kind == "periodic"
        if periodic and self.every is None:
            raise ValueError('kind "periodic" needs every, for example every = 3')
        if not periodic and self.probability is None:
            raise ValueError(f'kind "{self.kind}" needs a probability, for example 0.3')
        if periodic and self.probability is not None:
            raise ValueError('probability is an option of the kinds "random" and "by_size"')
        if not periodic and self.every is not None:
            raise ValueError('every is an option of kind "periodic"')
        return self


class StragglersSection(Section):
    """Sites whose replies come late, by a delay that is drawn anew in each round.

    ``spread``: of ``lognormal``, the standard deviation of the delay's logarithm; of ``pareto``,
    one over its tail index: from 0.5 the delays have no variance, from 1 no mean.
    """

    distribution: Literal["lognormal", "exponential", "pareto", "constant"] = "lognormal"
    median_seconds: float = Field(gt=0, le=WEEK, strict=True)
    spread: float | None = Field(default=None, gt=0, le=5, strict=True)
    sites: SiteNames
    probability: Chance = 1.0

    @model_validator(mode="after")
    def _spread_where_it_counts(self) -> StragglersSection:
        spreads = self.distribution in ("lognormal", "pareto")
        if spreads and self.spread is None:
            raise ValueError(f'distribution "{self.distribution}" needs a spread, for example 0.8')
        if not spreads and self.spread is not None:
            raise ValueError(f'distribution "{self.distribution}" has no spread; leave it away')
        return self


class ChanceSection(Section):
    """Something that happens to each site, in each round, with a probability."""

    probability: Chance
    sites: SiteNames


class CorruptedSection(ChanceSection):
    """Updates that arrive damaged.

    ``nan``: some parameters are not a number. ``bits``: single bits have turned over. ``shape``:
    the end is missing. ``zeros``: nothing but zeros is left. Screening refuses the first and the
    third, and of the second what became too large; the rest is averaged.
    """

    kind: Corruption = "nan"


class HostileSection(Section):
    """Sites that work against the model from ``from_round`` on.

    ``label_flip``: train on turned labels. ``sign_flip``: send the opposite of the update, times
    ``scale``. ``scaled_update``: send the update times ``scale``. ``backdoor``: train on patients
    who bear a trigger and the label ``target``, and send the update times ``scale``. ``share`` is
    that of the training patients whose data is poisoned.

    Sources: Blanchard et al., NeurIPS 2017 (sign); Bagdasaryan et al., AISTATS 2020 (backdoor by
    model replacement); Tolpegin et al., ESORICS 2020 (labels).
    """

    attack: Attack
    sites: SiteNames
    count: int | None = Field(default=None, ge=1, strict=True)
    from_round: int = Field(default=1, ge=1, strict=True)
    scale: float | None = Field(default=None, gt=0, le=1e6, strict=True)
    share: float | None = Field(default=None, gt=0, le=1, strict=True)
    target: int | None = Field(default=None, ge=0, le=1, strict=True)

    @model_validator(mode="after")
    def _what_the_attack_takes(self) -> HostileSection:
        if (self.sites is None) == (self.count is None):
            raise ValueError("give sites or count, one of them")
        options = {
            "scale": ("sign_flip", "scaled_update", "backdoor"),
            "share": ("label_flip", "backdoor"),
            "target": ("backdoor",),
        }
        for option, attacks in options.items():
            if getattr(self, option) is not None and self.attack not in attacks:
                known = ", ".join(attacks)
                raise ValueError(f"{option} is an option of {known}, not of {self.attack}")
        return self

    @property
    def factor(self) -> float:
        """By what an update is multiplied; a turned sign comes on top."""
        if self.scale is not None:
            return self.scale
        return 10.0 if self.attack == "scaled_update" else 1.0

    @property
    def poisoned_share(self) -> float:
        """Share of the training patients who can be poisoned that are."""
        if self.share is not None:
            return self.share
        return 0.5 if self.attack == "backdoor" else 1.0

    @property
    def target_label(self) -> int:
        """What a patient with the trigger is to be taken for."""
        return 1 if self.target is None else self.target


class ClockSkewSection(Section):
    """Clocks that are wrong, by the same time in all rounds.

    ``spread_seconds``: standard deviation over the sites; fast and slow are equally likely.
    """

    spread_seconds: float = Field(ge=0, le=WEEK, strict=True)
    sites: SiteNames


class FaultsSection(Section):
    """What goes wrong in a simulation; each table is optional, and they can be combined."""

    dropout: DropoutSection | None = None
    stragglers: StragglersSection | None = None
    crash: ChanceSection | None = None
    lost_replies: ChanceSection | None = None
    duplicated_replies: ChanceSection | None = None
    corrupted: CorruptedSection | None = None
    hostile: tuple[HostileSection, ...] = ()
    clock_skew: ClockSkewSection | None = None

    @field_validator("hostile", mode="before")
    @classmethod
    def _a_list(cls, tables: Any) -> Any:
        if isinstance(tables, Mapping):
            raise ValueError("a list of tables is expected: write [[simulation.faults.hostile]]")
        return tables

    @model_validator(mode="after")
    def _one_attack_a_site(self) -> FaultsSection:
        named = [site for table in self.hostile for site in table.sites or ()]
        twice = sorted({site for site in named if named.count(site) > 1})
        if twice:
            raise ValueError(f"hostile: {', '.join(twice)} in two tables; a site has one attack")
        return self
