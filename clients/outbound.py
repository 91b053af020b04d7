"""The one gate through which everything leaves a site.

What is listed in docs/what-leaves-a-site.md is what this file lets through: a status from a closed
list, a body that fits its schema and the site's minimum cell, and the update. Errors leave as a
status without a word of their text, which stays in the site's own log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import numpy as np
from flwr.app import RecordDict

from clients.site import SUBGROUP_ATTRIBUTES, Site
from federation.errors import Refused, UserError
from federation.messages import (
    DescribeBody,
    EvaluateBody,
    PrepareBody,
    Reply,
    SmallCount,
    Status,
    TrainBody,
)
from federation.metrics.summary import ScoreSummary
from federation.study import MODALITIES

logger = logging.getLogger("wardround.site")

CELL_NAME = re.compile(rf"|({'|'.join(SUBGROUP_ATTRIBUTES)})=[a-z0-9_+-]{{1,32}}")
CELL_KEYS = ScoreSummary.empty().to_json().keys()
WITHHELD = re.compile(r"(withheld to protect )?fewer than \d{1,9} patients")
CODE = re.compile(r"[\w.%+\-/:()\[\]^*# ]{1,120}")
PARTS = {*MODALITIES, "fusion"}


class TakesNoPart(Exception):
    """A site that answers with a status instead of a result; no fault of anybody."""

    def __init__(self, status: Status):
        self.status = status
        super().__init__(status)


class GateClosed(Exception):
    """Something was about to leave that must not."""


def guarded(answer: Callable[[], tuple[Reply, Site]]) -> RecordDict:
    """Produce a site's reply and let it pass, or replace it by a status if anything is wrong."""
    try:
        reply, site = answer()
        check(reply, site.policy.minimum_cell)
        return reply.to_records()
    except TakesNoPart as reason:
        return Reply(reason.status).to_records()
    except Refused as refusal:
        logger.warning("refused: %s", refusal)
        return Reply("refused by the site's policy").to_records()
    except UserError as error:
        logger.error("%s", error)
        return Reply("the site's files need attention").to_records()
    except Exception:
        logger.exception("the site failed")
        return Reply("the site failed").to_records()


def check(reply: Reply, minimum_cell: int) -> None:
    """Refuse a reply that would tell of fewer patients than the site allows, or holds free text.

    Raises:
        GateClosed: naming the rule.
    """
    body = reply.body
    if reply.update is not None and reply.update.dtype != np.float32:
        raise GateClosed("an update is a float32 vector")
    if isinstance(body, TrainBody):
        if not body.patients.keys() <= PARTS:
            raise GateClosed("a part's name is not from the closed list")
        if any(0 < count < minimum_cell for count in body.patients.values()):
            raise GateClosed("a count is smaller than the site's minimum")
    if isinstance(body, EvaluateBody):
        for name in (*body.cells, *body.withheld):
            if not CELL_NAME.fullmatch(name):
                raise GateClosed("a cell's name is not from the closed list")
        for why in body.withheld.values():
            if not WITHHELD.fullmatch(why):
                raise GateClosed("the reason for a withheld cell is not from the closed list")
        for cell in body.cells.values():
            if cell.keys() != CELL_KEYS:
                raise GateClosed("a cell holds more than a summary")
            if ScoreSummary.from_json(cell).n < minimum_cell:
                raise GateClosed("a cell is smaller than the site's minimum")
    if isinstance(body, DescribeBody):
        for counts in (body.patients, body.modalities, body.excluded, body.notices):
            for count in counts.values():
                if isinstance(count, int) and 0 < count < minimum_cell:
                    raise GateClosed("a count is smaller than the site's minimum")
    if isinstance(body, PrepareBody):
        for code, (patients, *_) in body.codes.items():
            if patients < minimum_cell or not CODE.fullmatch(code):
                raise GateClosed("a code is too rare or not a code")


def suppressed(count: int, minimum_cell: int) -> SmallCount:
    """Return a count, or that it is too small to tell.

    >>> suppressed(3, 10), suppressed(0, 10), suppressed(12, 10)
    ('suppressed', 0, 12)
    """
    return "suppressed" if 0 < count < minimum_cell else count
