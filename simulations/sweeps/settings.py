"""The points of a sweep's grid: their values, and how they are named."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EPSILON, MECHANISM, PRIVACY = "privacy.epsilon", "privacy.mechanism", "privacy."
NO_DP = "no DP"
LONGEST_SLUG = 120


@dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes:
        values: by grid key; without privacy, epsilon is infinite and what else is private is left
            out.
        slug: names its folders.
        label: how it reads.
    """

    values: Mapping[str, Any]
    slug: str
    label: str

    @property
    def no_dp(self) -> bool:
        """Whether the grid asks for no differential privacy here."""
        return _without_privacy(self.values)


def grid_settings(grid: Mapping[str, Sequence[Any]]) -> Iterator[Setting]:
    """Yield the product of the grid's lists; those without privacy once."""
    seen: set[str] = set()
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        if _without_privacy(values):
            values = {key: value for key, value in values.items() if is_public(key)}
            values |= {key: math.inf for key in [EPSILON] if key in grid}
            values |= {key: "none" for key in [MECHANISM] if key in grid}
        slug = make_slug(values, grid)
        if slug not in seen:
            seen.add(slug)
            yield Setting(values, slug, _label(values, grid))


def is_public(key: str) -> bool:
    """Whether a key says nothing of privacy."""
    return not key.startswith(PRIVACY)


def shared_values(values: Mapping[str, Any]) -> str:
    """Return what a setting and its reference without privacy have in common."""
    return json.dumps(
        {k: v for k, v in values.items() if is_public(k)}, sort_keys=True, default=str
    )


def _without_privacy(values: Mapping[str, Any]) -> bool:
    return values.get(EPSILON) == math.inf or values.get(MECHANISM) == "none"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the last part of each key, or all of it where that is not enough.

    >>> short_names(["privacy.epsilon", "modalities.ehr.width", "modalities.text.width"])
    {'privacy.epsilon': 'epsilon', 'modalities.ehr.width': 'modalities.ehr.width', \
'modalities.text.width': 'modalities.text.width'}
    """
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return {k: name if last.count(name) == 1 else k for k, name in zip(keys, last, strict=True)}


def shown_value(value: Any) -> str:
    """Write a value so that equal ones read alike.

    >>> shown_value(1.0), shown_value(1), shown_value("dp_sgd"), shown_value(1e-3)
    ('1', '1', 'dp_sgd', '0.001')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)
    return json.dumps(value, default=str)


def _parts(values: Mapping[str, Any], grid: Iterable[str]) -> list[tuple[str, str]]:
    names, no_dp = short_names(grid), _without_privacy(values)
    return [
        (names[key], shown_value(value))
        for key, value in values.items()
        if not (no_dp and key.startswith(PRIVACY))
    ]


def _label(values: Mapping[str, Any], grid: Iterable[str]) -> str:
    told = [f"{name} {value}" for name, value in _parts(values, grid)]
    return ", ".join([NO_DP, *told] if _without_privacy(values) else told)


def make_slug(values: Mapping[str, Any], grid: Iterable[str]) -> str:
    """Return a folder's name for values of some keys; empty if there are none."""
    parts = [f"{name}-{value}" for name, value in _parts(values, grid)]
    exact = "_".join(["no-dp", *parts] if _without_privacy(values) else parts)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", exact)
    if slug == exact and len(slug) <= LONGEST_SLUG:
        return slug
    return f"{slug[:LONGEST_SLUG]}-{hashlib.sha256(exact.encode()).hexdigest()[:6]}"
