"""The robust rules: every site's update is looked at."""

from __future__ import annotations

from server.strategies.base import Rule


class RobustRule(Rule):
    """To come."""
