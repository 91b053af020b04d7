"""Methods that leave each site a model, or a part of one, of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from clients.fits import Pull
from clients.methods.base import Moved, Training, Turn
from federation.layout import LOCAL
from federation.models.build import FlatModel, Vector
from federation.reduce import Part
from federation.strategies.base import Strategy
from federation.strategies.personal import Apfl, Ditto, FedRep

OWN, SHARE = "own", "share"


def local_part(turn: Turn) -> Training:
    """Train all of the model, beginning with the site's own part; that part stays.

    Source: FedBN, Li et al., ICLR 2021; FedPer, Arivazhagan et al., 2019.
    """
    start = own_weights(turn.strategy, turn.fit.model, turn.fit.start, turn.kept())
    fitted = yield replace(turn.fit, start=start)
    _keep_local(turn, fitted.weights)
    return Moved(fitted.weights - start, fitted)


def fedrep(turn: Turn) -> Training:
    """Train the head with the encoders held, then the encoders with the head held.

    Source: Collins et al., ICML 2021, algorithm 1.
    """
    assert isinstance(turn.strategy, FedRep)
    fit = turn.fit
    own, shared = _stretches(fit.model)
    start = own_weights(turn.strategy, fit.model, fit.start, turn.kept())
    epochs = {"local_epochs": turn.strategy.head_epochs, "local_steps": None}
    headed = yield replace(
        fit, start=start, held=shared, training=fit.training.model_copy(update=epochs)
    )
    fitted = yield replace(fit, start=headed.weights, held=own)
    _keep_local(turn, fitted.weights)
    return Moved(fitted.weights - headed.weights, fitted)


def ditto(turn: Turn) -> Training:
    """Train from the global weights, and the site's own model beside, held near them.

    Source: Li et al., ICML 2021, algorithm 1.
    """
    assert isinstance(turn.strategy, Ditto)
    fit = turn.fit
    fitted = yield fit
    own = turn.kept().get(OWN, fit.start)
    pull = Pull(strength=turn.strategy.pull, anchor=fit.start)
    personal = yield replace(fit, start=own, pull=pull, watched=False)
    turn.keep({OWN: personal.weights})
    return Moved(fitted.weights - fit.start, fitted)


def apfl(turn: Turn) -> Training:
    """Train from the global weights, then the site's own share of the mixture with them.

    The mixture ``u = a v + (1 - a) w`` is what is trained: a step of ``v`` by the gradient of the
    loss at ``u`` moves ``u`` by ``a^2`` times that gradient. The paper moves both models together,
    step by step; here ``w`` is moved first.

    Source: Deng et al., 2020, algorithm 1, and eq. 10 for the share.
    """
    assert isinstance(turn.strategy, Apfl)
    fit = turn.fit
    fitted = yield fit
    kept = turn.kept()
    share = float(kept[SHARE][0]) if SHARE in kept else turn.strategy.share
    own = kept.get(OWN, fit.start)
    mixed = _mixture(own, fitted.weights, share)
    # Not a learning rate of its own: many sites, each with its share, are trained in one pass.
    found = yield replace(fit, start=mixed, slowed=share**2, watched=False)
    path = max(found.steps, 1) * fit.training.optimizer.lr * share**2
    gradient = (mixed - found.weights) / np.float32(path)
    own = own + (found.weights - mixed) / np.float32(share)
    slope = float(np.dot(own - fitted.weights, gradient))
    share = min(max(share - turn.strategy.share_lr * slope, LEAST_SHARE), 1.0)
    turn.keep({OWN: own.astype(np.float32), SHARE: np.array([share], np.float32)})
    return Moved(fitted.weights - fit.start, fitted)


LEAST_SHARE = 0.01
"""With a share of nothing a site's own model would never move again."""


def own_weights(
    strategy: Strategy, model: FlatModel, weights: Vector, kept: Mapping[str, Vector]
) -> Vector:
    """Return the weights of the model that the site uses.

    Args:
        strategy: of the study.
        model: has the parts.
        weights: the coordinator's.
        kept: what the site remembers; empty at a site that has not taken part.
    """
    own = kept.get(OWN)
    if own is None:
        return weights
    if strategy.local_part:
        result = weights.copy()
        for part in _stretches(model)[0]:
            result[part.start : part.stop] = own[part.start : part.stop]
        return result
    if isinstance(strategy, Apfl):
        return _mixture(own, weights, float(kept[SHARE][0]))
    return own


def _keep_local(turn: Turn, weights: Vector) -> None:
    own = np.zeros_like(weights)
    for part in _stretches(turn.fit.model)[0]:
        own[part.start : part.stop] = weights[part.start : part.stop]
    turn.keep({OWN: own})


def _stretches(model: FlatModel) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Return the stretches that are the site's own, and those that are shared."""
    own = tuple(part for part in model.parts if part.name == LOCAL)
    return own, tuple(part for part in model.parts if part.name != LOCAL)


def _mixture(own: Vector, weights: Vector, share: float) -> Vector:
    return np.float32(share) * own + np.float32(1 - share) * weights
