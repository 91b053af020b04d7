"""On how many updates the robust rules are defined."""

from __future__ import annotations


def fewest_sites(rule: str, hostile: int) -> int:
    """Fewest updates with which a rule bears so many hostile ones."""
    return {"krum": 2 * hostile + 3, "multi_krum": 2 * hostile + 3}.get(rule, 4 * hostile + 3)
