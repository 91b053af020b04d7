"""The one gate through which everything leaves a site.

What is listed in docs/what-leaves-a-site.md is what this file lets through: a status from a closed
list, a body that fits its schema and the site's minimum cell, and the update. Errors leave as a
status without a word of their text, which stays in the site's own log.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from clients.site import PolicySection
from federation import bodies
from federation.bodies import (
    DescribeBody,
    EvaluateBody,
    PrepareBody,
    SmallCount,
    Status,
    TrainBody,
)
from federation.errors import BudgetSpent, Refused, UserError
from federation.messages import Reply
from federation.metrics.paired import STEPS
from federation.metrics.summaries import read_summary
from federation.metrics.summary import ScoreSummary
from federation.study import Study
from federation.subgroups import WHOLE_SITE

T = TypeVar("T")

logger = logging.getLogger("wardround.site")

CODE = re.compile(bodies.CODE)


class TakesNoPart(Exception):
    """A site that answers with a status instead of a result; no fault of anybody."""

    def __init__(self, status: Status):
        self.status = status
        super().__init__(status)


class GateClosed(Exception):
    """Something was about to leave that must not."""


def guarded(step: Callable[[], T]) -> T | Reply:
    """Take a step of answering; if anything is wrong, return a status without a word of it."""
    try:
        return step()
    except TakesNoPart as reason:
        return Reply(reason.status)
    except BudgetSpent as refusal:
        logger.warning("refused: %s", refusal)
        return Reply("the privacy budget of the site's patients does not allow it")
    except Refused as refusal:
        logger.warning("refused: %s", refusal)
        return Reply("refused by the site's policy")
    except UserError as error:
        logger.error("%s", error)
        return Reply("the site's files need attention")
    except Exception:
        logger.exception("the site failed")
        return Reply("the site failed")


def released(reply: Reply, policy: PolicySection, study: Study) -> Reply:
    """Let a reply pass the gate.

    Raises:
        GateClosed: naming the rule that forbids it.
    """
    check(reply, policy, study.privacy.mechanism == "dp_sgd")
    if isinstance(reply.body, EvaluateBody) and reply.body.paired and not study.compares:
        raise GateClosed("a comparison of models that the study does not ask for")
    if isinstance(reply.body, EvaluateBody):
        if unasked := reply.body.unasked(study):
            raise GateClosed(unasked)
        if reply.body.noise is None:  # with noise, all are of one yes-or-no outcome
            _check_kind(reply.body, study)
    if reply.update is not None:
        return dataclasses.replace(reply, compression=study.strategy.compression)
    return reply


def check(reply: Reply, policy: PolicySection, private: bool = False) -> None:
    """Refuse a reply that would tell of fewer patients than the site allows.

    The names and reasons in a body are from closed lists by its schema (federation/bodies.py).

    Args:
        reply: about to leave.
        policy: the site's.
        private: whether the study promises differential privacy at the site; then nothing leaves
            that it does not cover.

    Raises:
        GateClosed: naming the rule.
    """
    if reply.partial is not None or reply.rejected:
        raise GateClosed("a site speaks for itself alone")
    if reply.update is not None and not isinstance(reply.body, TrainBody):
        raise GateClosed("an update belongs to training")
    if reply.update is not None and reply.update.dtype != np.float32:
        raise GateClosed("an update is a float32 vector")
    if isinstance(reply.body, TrainBody):
        _check_counts(reply.body.patients.values(), policy)
    if private:
        _check_private(reply)
    if isinstance(reply.body, EvaluateBody) and reply.body.noise is not None:
        reply.body.noised()
    elif isinstance(reply.body, EvaluateBody):
        for cell in reply.body.cells.values():
            _check_cell(cell, policy)
        _check_paired(reply.body, policy)
        for inputs in reply.body.inputs.values():
            for levels in inputs.values():
                _check_counts(levels.values(), policy)
    if isinstance(reply.body, DescribeBody):
        body = reply.body
        for counts in (body.patients, body.modalities, body.excluded, body.notices):
            _check_counts(counts.values(), policy)
    if isinstance(reply.body, PrepareBody):
        for patients, values, *_ in reply.body.codes.values():
            _check_counts((patients, values), policy)


def _check_private(reply: Reply) -> None:
    body = reply.body
    if isinstance(body, TrainBody):
        if body.spent is None:
            raise GateClosed("an update that the ledger does not know")
        if body.loss is not None or body.initial_loss is not None:
            raise GateClosed("a training loss under differential privacy")
        if body.gradient_variance is not None:
            raise GateClosed("a variance of gradients under differential privacy")
        if len({patients for patients in body.patients.values() if patients}) > 1:
            raise GateClosed("how many patients have a modality, under differential privacy")
    if isinstance(body, PrepareBody):
        raise GateClosed("codes under differential privacy")
    if isinstance(body, DescribeBody):
        told = any(isinstance(count, int) and count for count in body.modalities.values())
        if told or body.notices or body.counted:
            raise GateClosed("counts over training patients under differential privacy")


def _check_counts(counts: Iterable[SmallCount], policy: PolicySection) -> None:
    if any(isinstance(count, int) and 0 < count < policy.minimum_cell for count in counts):
        raise GateClosed("a count is smaller than the site's minimum")


def _check_cell(cell: Mapping[str, Any], policy: PolicySection) -> None:
    summary = read_summary(cell)
    if cell != summary.to_json():
        raise GateClosed("a cell holds more than a summary")
    if problem := summary.too_small(policy.minimum_cell, policy.score_bins == "merged"):
        raise GateClosed(problem)


def _check_kind(body: EvaluateBody, study: Study) -> None:
    """Refuse summaries of another kind than the study's task has, or of outcomes it does not name.

    A score that the site holds already is of a yes-or-no outcome, as the study that names it.
    """
    for summary in body.summaries().values():
        if not study.task.explains(summary):
            raise GateClosed("a summary of another task than the study's")


def _check_paired(body: EvaluateBody, policy: PolicySection) -> None:
    if body.paired is None:
        return
    _check_cell(body.paired.reference, policy)
    first, second = body.summaries()[WHOLE_SITE], body.paired.summary()
    if not isinstance(first, ScoreSummary):
        raise GateClosed("models are compared on a yes-or-no outcome alone")
    if (first.n, first.positives) != (second.n, second.positives):
        raise GateClosed("two models are compared on other patients")
    told = (body.paired.correlation or 0.0) * STEPS
    if abs(told - round(told)) > 1e-6:
        raise GateClosed("a correlation is told to a hundredth")


def suppressed(count: int, minimum_cell: int) -> SmallCount:
    """Return a count, or that it is too small to tell.

    >>> suppressed(3, 10), suppressed(0, 10), suppressed(12, 10)
    ('suppressed', 0, 12)
    """
    return "suppressed" if 0 < count < minimum_cell else count
