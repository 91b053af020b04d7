"""Privacy spent, as privacy.json has it: which figure is reported, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from server.report.text import shown


def reported(site: Mapping[str, Any]) -> tuple[str, float | None]:
    """The accountant whose figure is reported for a hospital, and the figure."""
    return _by_accountant(site, "epsilon")


def at_most(site: Mapping[str, Any]) -> tuple[str, float | None]:
    """The same with the rounds of which nothing was heard, where there are any."""
    return _by_accountant(site, "epsilon_at_most" if "epsilon_at_most" in site else "epsilon")


def epsilon_text(spent: Mapping[str, Any]) -> str:
    """Epsilon by every accountant that has one.

    >>> epsilon_text({"epsilon": {"pld": 3.1415, "prv": None}})
    'PLD 3.15'
    """
    found = spent.get("epsilon") or {}
    return ", ".join(f"{name.upper()} {rounded_up(one)}" for name, one in found.items() if one)


def rounded_up(value: float) -> str:
    """Three digits, rounded up: an epsilon is never shown smaller than it is.

    >>> rounded_up(3.141), rounded_up(0.5), rounded_up(12.0)
    ('3.15', '0.5', '12')
    """
    if not 0 < value < math.inf:
        return shown(value)
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.3g}"


def _by_accountant(site: Mapping[str, Any], figure: str) -> tuple[str, float | None]:
    found = site.get(figure)
    if not isinstance(found, Mapping):
        return "", None
    name = str(site.get("reported", next(iter(found), "")))
    return name, found.get(name)
