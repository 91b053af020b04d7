"""Options of the strategies that average updates, and of those that do more with the mean."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from federation.strategies.base import Momentum, Rate, Strategy

LOSS_TELLS = "sites tell the loss of their training patients, which its noise does not cover"
SITES_DIFFER = "sites do not count alike, so noise on the sum would not hide one of them"

LEAST_LOSS = 1e-10
"""q-FedAvg divides by a power of the loss."""


class FedAvg(Strategy):
    """The next model is the old one plus the mean of the updates."""

    summary = "mean of the sites' updates"
    source = "McMahan et al., AISTATS 2017"

    name: Literal["fedavg"] = "fedavg"


class FedAvgM(Strategy):
    """Momentum at the coordinator."""

    summary = "momentum over the rounds' mean updates"
    source = "Hsu et al., 2019"

    name: Literal["fedavgm"] = "fedavgm"
    server_lr: Rate = 1.0
    server_momentum: Momentum = 0.9


class FedProx(Strategy):
    """Each site is held near the global model."""

    summary = "sites are pulled back to the global model while they train"
    source = "Li et al., MLSys 2020"
    at_sites = "adds mu times the distance from the global model to each gradient"

    name: Literal["fedprox"] = "fedprox"
    mu: float = Field(default=0.01, ge=0, le=1000)


class Adaptive(Strategy):
    """What the three adaptive optimisers at the coordinator share."""

    source = "Reddi et al., ICLR 2021"

    server_lr: Rate = 0.01
    tau: float = Field(default=0.001, gt=0, le=1)


class FedAdam(Adaptive):
    """Adam at the coordinator."""

    summary = "Adam at the coordinator, on the mean updates"

    name: Literal["fedadam"] = "fedadam"
    beta_1: Momentum = 0.9
    beta_2: Momentum = 0.99


class FedYogi(Adaptive):
    """Yogi at the coordinator."""

    summary = "Yogi at the coordinator: its step sizes recover slower than Adam's"

    name: Literal["fedyogi"] = "fedyogi"
    beta_1: Momentum = 0.9
    beta_2: Momentum = 0.99


class FedAdagrad(Adaptive):
    """Adagrad at the coordinator."""

    summary = "Adagrad at the coordinator: step sizes only shrink"

    name: Literal["fedadagrad"] = "fedadagrad"


class FedNova(Strategy):
    """Sites that take more steps do not pull the model towards their own optimum."""

    summary = "updates divided by the sites' steps before the mean"
    source = "Wang et al., NeurIPS 2020"
    not_with_central = SITES_DIFFER
    own_number = True

    name: Literal["fednova"] = "fednova"


class Scaffold(Strategy):
    """Control variates take each site's own direction out of its steps."""

    summary = "control variates correct the drift of sites that differ"
    source = "Karimireddy et al., ICML 2020"
    at_sites = "adds the coordinator's control variate less its own to each gradient"
    keeps = "its control variate, as large as the model"
    in_step = True
    only_plain_sgd = True
    not_with_central = "control variates leave beside the updates, and are not clipped"

    name: Literal["scaffold"] = "scaffold"
    server_lr: Rate = 1.0


class FedDyn(Strategy):
    """Each site's objective is bent so that its optimum becomes the consortium's."""

    summary = "dynamic regularisation: local optima move to the common one"
    source = "Acar et al., ICLR 2021"
    at_sites = "adds alpha times the distance from the global model, less a gradient that it keeps"
    keeps = "the gradient at its last model, as large as the model"
    in_step = True

    name: Literal["feddyn"] = "feddyn"
    alpha: float = Field(default=0.01, gt=0, le=1000)


class QFedAvg(Strategy):
    """Sites that the model serves badly weigh more."""

    summary = "a site's weight grows with its loss to the power q"
    source = "Li et al., ICLR 2020"
    tells_loss = True
    only_plain_sgd = True
    not_with_dp_sgd = LOSS_TELLS
    not_with_central = SITES_DIFFER
    own_number = True

    name: Literal["qfedavg"] = "qfedavg"
    q: float = Field(default=0.2, ge=0, le=10)


class Afl(Strategy):
    """The model is trained for the mixture of sites on which it is worst."""

    summary = "agnostic: the sites that are worst off gain weight, round by round"
    source = "Mohri et al., ICML 2019"
    tells_loss = True
    not_with_dp_sgd = LOSS_TELLS
    not_with_central = SITES_DIFFER
    not_with_secure_sum = "the weights follow each site's own loss"
    own_number = True
    counts_once = True

    name: Literal["afl"] = "afl"
    mixture_lr: Rate = 0.1
