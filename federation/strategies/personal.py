"""Options of the strategies that give each site a model, or a part of one, of its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from federation.strategies.base import Strategy

UNNOISED = "a site's own model is trained without noise, and how it scores leaves"


class FedBn(Strategy):
    """The layers that adapt to a scanner stay at the site."""

    summary = "normalisation layers are each site's own"
    source = "Li et al., ICLR 2021"
    local_part = "normalisation"
    keeps = "the scales and shifts of its normalisation layers"

    name: Literal["fedbn"] = "fedbn"


class FedPer(Strategy):
    """Encoders are shared, what decides from them is not."""

    summary = "the head is each site's own"
    source = "Arivazhagan et al., 2019"
    local_part = "head"
    keeps = "its head: the fusion of what the encoders found"

    name: Literal["fedper"] = "fedper"


class FedRep(Strategy):
    """As FedPer, the head trained first and alone, then the encoders."""

    summary = "the head is each site's own, and is trained before the encoders in each round"
    source = "Collins et al., ICML 2021"
    local_part = "head"
    keeps = "its head: the fusion of what the encoders found"
    at_sites = "trains its head with the encoders held, then the encoders with the head held"
    not_with_dp_sgd = "a round is two trainings, and the ledger pays for one"

    name: Literal["fedrep"] = "fedrep"
    head_epochs: PositiveInt = 1


class Ditto(Strategy):
    """Each site has a model of its own, held near the global one."""

    summary = "a second model at each site, held near the global one"
    source = "Li et al., ICML 2021"
    at_sites = "trains its own model too, with lambda times the distance from the global one"
    keeps = "its own model"
    not_with_dp_sgd = UNNOISED

    name: Literal["ditto"] = "ditto"
    pull: float = Field(default=0.1, ge=0, le=1000)

    @property
    def personal(self) -> bool:
        """A site uses its own model."""
        return True


class Apfl(Strategy):
    """Each site uses a mixture of a model of its own and the global one."""

    summary = "each site mixes a model of its own with the global one, and learns how much"
    source = "Deng et al., 2020"
    at_sites = "trains its own model too, as a part of the mixture, and the share of it"
    keeps = "its own model and its share"
    only_plain_sgd = True
    not_with_dp_sgd = UNNOISED

    name: Literal["apfl"] = "apfl"
    share: float = Field(default=0.5, gt=0, lt=1)
    share_lr: float = Field(default=0.1, ge=0, le=100)

    @property
    def personal(self) -> bool:
        """A site uses the mixture."""
        return True
