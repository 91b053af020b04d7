"""Methods that correct each step: FedProx, SCAFFOLD, FedDyn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clients.fits import Pull
from clients.methods.base import Moved, Training, Turn
from federation.models.build import Vector
from federation.strategies.averaging import FedDyn, FedProx

CONTROL, GRADIENT = "control", "gradient"


def fedprox(turn: Turn) -> Training:
    """Add mu/2 times the squared distance from the global model to the loss.

    Source: Li et al., MLSys 2020, eq. 2.
    """
    assert isinstance(turn.strategy, FedProx)
    fit, mu = turn.fit, turn.strategy.mu
    fitted = yield replace(fit, pull=Pull(strength=mu, anchor=fit.start))
    return Moved(fitted.weights - fit.start, fitted)


def scaffold(turn: Turn) -> Training:
    """Correct each gradient by the coordinator's control variate less the site's own.

    The site's new variate is the mean of the gradients that it met. It sends the change of it
    after the update.

    Source: Karimireddy et al., ICML 2020, algorithm 1 with option II.
    """
    fit = turn.fit
    common = _or_zero(turn.control, fit.start)
    own = _or_zero(turn.kept().get(CONTROL), fit.start)
    fitted = yield replace(fit, pull=Pull(direction=common - own))
    update = fitted.weights - fit.start
    path = np.float32(max(fitted.steps, 1) * fit.training.optimizer.lr)
    new = own - common - update / path
    turn.keep({CONTROL: new})
    return Moved(np.concatenate([update, new - own]), fitted)


def feddyn(turn: Turn) -> Training:
    """Add alpha/2 times the squared distance, less the product with the gradient that is kept.

    Source: Acar et al., ICLR 2021, algorithm 1.
    """
    assert isinstance(turn.strategy, FedDyn)
    fit, alpha = turn.fit, np.float32(turn.strategy.alpha)
    kept = _or_zero(turn.kept().get(GRADIENT), fit.start)
    pull = Pull(direction=-kept, strength=turn.strategy.alpha, anchor=fit.start)
    fitted = yield replace(fit, pull=pull)
    update = fitted.weights - fit.start
    turn.keep({GRADIENT: kept - alpha * update})
    return Moved(update, fitted)


def _or_zero(vector: Vector | None, like: Vector) -> Vector:
    return np.zeros_like(like) if vector is None else vector
