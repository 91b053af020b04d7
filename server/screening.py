"""Leaving out updates that do not fit the others of their round."""

from __future__ import annotations

from federation.collect import UpdateList
from federation.strategies.base import Strategy


def screened(updates: UpdateList, strategy: Strategy) -> dict[str, str]:
    """Return the sites whose updates are left out, and why."""
    return {}
