"""Sites whose losses are quadratics: both halves of a strategy, without a model or patients."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from pydantic import TypeAdapter

from clients.fits import Fitted, PlainFit
from clients.memory import Memory
from clients.methods import Turn, train_locally
from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.layout import Layout
from federation.messages import Reply
from federation.reduce import Part
from federation.strategies import StrategySection
from federation.training import TrainingSection
from server.strategies import Gathered, rule_of

PARTS = (Part("ehr", 0, 3), Part("image", 3, 5), Part("fusion", 5, 6))
EVERYBODY = {"ehr": 40, "image": 40, "fusion": 40}
LR = 0.1


def strategy_of(name, **options):
    return TypeAdapter(StrategySection).validate_python({"name": name, **options})


@dataclass(frozen=True)
class Quadratic:
    """Loss (x - best)' diag(curvature) (x - best) / 2 of a site, and how it trains."""

    curvature: np.ndarray
    best: np.ndarray
    steps: int = 5
    patients: dict = field(default_factory=lambda: dict(EVERYBODY))

    def loss(self, x):
        return float(self.curvature @ np.square(x - self.best)) / 2

    def gradient(self, x):
        return self.curvature * (x - self.best)


def sites_that_differ(count=4, seed=0, **more):
    """Sites with curvatures of 0.2 to 2, and optima that lie apart."""
    rng = np.random.default_rng(seed)
    return {
        f"site-{i}": Quadratic(rng.uniform(0.2, 2, 6), rng.normal(0, 2, 6), **more)
        for i in range(count)
    }


def with_(site, **changes):
    return Quadratic(**{**site.__dict__, **changes})


def common_optimum(sites, weights=None):
    """Where the weighted mean of the sites' losses is least."""
    weights = weights or dict.fromkeys(sites, 1.0)
    above = sum(weights[n] * s.curvature * s.best for n, s in sites.items())
    return above / sum(weights[n] * s.curvature for n, s in sites.items())


def descend(fit, site, steps=None):
    """Gradient descent with what the fit says of pulls and held stretches."""
    x, lr, pull = fit.start.astype(np.float64), fit.training.optimizer.lr, fit.pull
    steps = site.steps if steps is None else steps
    for _ in range(steps):
        gradient = site.gradient(x)
        if fit.slowed is not None:
            gradient = fit.slowed * gradient
        if pull is not None and pull.direction is not None:
            gradient = gradient + pull.direction
        if pull is not None and pull.strength:
            gradient = gradient + pull.strength * (x - pull.anchor)
        x = x - lr * gradient
        for part in fit.held:
            x[part.start : part.stop] = fit.start[part.start : part.stop]
    return Fitted(x.astype(np.float32), site.loss(x), steps)


class Consortium:
    """Takes sites through rounds with the site's half and the coordinator's half of a strategy."""

    def __init__(self, strategy, sites, folder, start=None, parts=PARTS):
        self.strategy, self.sites, self.folder, self.parts = strategy, sites, folder, parts
        self.layout = Layout.of(strategy, parts)
        self.rule = rule_of(strategy, self.layout)
        self.weights = np.zeros(6, np.float32) if start is None else start.astype(np.float32)
        self.rounds = 0
        self.counted = {}

    def fit(self):
        training = TrainingSection(local_steps=1, optimizer={"name": "sgd", "lr": LR})
        study = SimpleNamespace(strategy=self.strategy)
        model = SimpleNamespace(parts=self.parts)
        return PlainFit(model, self.weights, None, study, training, None)

    def memory(self, name):
        return Memory(self.folder / name)

    def moved(self, name):
        """Let one site train; return what leaves it."""
        counted = self.counted.get(name, 0) if self.strategy.in_step else None
        memory, control = self.memory(name), self.rule.control
        turn = Turn(self.fit(), self.strategy, self.rounds + 1, memory, control, counted)
        method = train_locally(turn)
        fit = next(method)
        while True:
            try:
                fit = method.send(descend(fit, self.sites[name]))
            except StopIteration as ended:
                return ended.value

    def reply(self, name):
        moved, site = self.moved(name), self.sites[name]
        update = moved.update.copy()
        for part in self.layout.update:
            if not site.patients.get(part.name, 0):
                update[part.start : part.stop] = 0
        told = {n: k for n, k in site.patients.items() if n in {p.name for p in self.parts}}
        loss = site.loss(self.weights) if self.strategy.tells_loss else None
        body = TrainBody(loss=1.0, steps=moved.fitted.steps, patients=told, initial_loss=loss)
        return Reply("ok", body, update=update)

    def round(self, asked=None, lost=()):
        """Run a round with some sites, of which some train in vain; return the next weights."""
        for name in lost:
            self.reply(name)
        asked = sorted(asked or {*self.sites} - {*lost})
        updates = UpdateSum(self.parts, self.strategy, LR, factors=self.rule.factors(asked))
        told = {}
        for name in asked:
            reply = self.reply(name)
            assert updates.take(reply, name) == ""
            told[name] = reply.body
        gathered = Gathered(told, len(self.sites), updates.total)
        self.weights = self.rule.next_weights(self.weights, gathered)
        self.rule.note(told)
        self.rounds += 1
        self.counted |= dict.fromkeys(told, self.rounds)
        return self.weights

    def run(self, rounds, asked=lambda round_: None):
        for round_ in range(self.rounds + 1, self.rounds + rounds + 1):
            self.round(asked(round_))
        return self.weights


def local_path(site, x, steps=None, lr=LR, correction=lambda x: 0.0):
    """Plain gradient descent of an oracle, in float64."""
    for _ in range(site.steps if steps is None else steps):
        x = x - lr * (site.gradient(x) + correction(x))
    return x
