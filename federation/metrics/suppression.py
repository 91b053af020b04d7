"""Which cells of a site must not leave it, decided before anything is sent.

A cell is withheld if it holds fewer than ``minimum_cell`` patients (primary), or if without it a
withheld one could be recovered from the site's total by subtracting the published levels of the
same attribute (complementary). The decision depends on numbers of patients only, never on scores
or labels, so it is the same for every model and round evaluated on the same patients, and
subtracting one model's cells from another's gains nothing.

What is covered: every sum and difference of the published cells of all attributes together, as
long as the attributes are not tied to each other. Each attribute splits the same total, so such a
sum counts a patient by ``t + a(level of A) + b(level of B) + ...``, where withheld levels of one
attribute all have weight 0: it cannot tell one of them from another, and together they hold at
least ``minimum_cell`` patients.

What is not covered:

- attributes tied to each other: one refines another (race and ethnic group), or two levels never
  meet (male and pregnant). A consortium must not list both as subgroups;
- combinations of three or more outcomes that are known of different patients (`apart_enough` and
  `withheld_outcomes` look at each two, and at each beside all patients);
- the joint distribution of outcomes that are tied to each other: where one follows from another,
  the difference of their counts tells how many have the one without the other;
- bounds on crossings (women over 80), which follow from any two tables' margins;
- a published cell whose patients all have the same label, which tells it of each of them;
- subtraction between different sets of patients: another split, another study, a later extract;
- a level without any patient has no cell, and its absence says so;
- reasoning about the rule itself: who knows that the guard was the smallest level left narrows the
  numbers of the withheld levels further, in rare ties to a single one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Known = NDArray[np.bool_]

WITHHELD = re.compile(r"(withheld to protect )?fewer than [1-9][0-9]{0,8} patients")
"""All that is ever said of why a cell, or an outcome of it, does not leave."""


def withheld_cells(
    total: int, attributes: Mapping[str, Mapping[str, int]], minimum_cell: int
) -> dict[str, str]:
    """The cells of one site that must not leave it, each with the reason to give.

    Args:
        total: patients of the site in the split that is evaluated.
        attributes: for each attribute the patients of each level; levels split the total, so
            patients without a value are a level too ("unknown").
        minimum_cell: fewest patients of a cell that may leave.

    Returns:
        Reason by cell name, "sex=female"; {"": reason} alone if nothing of the site may leave.

    Raises:
        ValueError: if the levels of an attribute do not add up to the total.

    >>> withheld_cells(60, {"sex": {"female": 4, "male": 30, "unknown": 26}}, 10)
    {'sex=female': 'withheld to protect fewer than 10 patients', \
'sex=unknown': 'withheld to protect fewer than 10 patients'}
    """
    for attribute, patients in attributes.items():
        if sum(patients.values()) != total:
            raise ValueError(f'the levels of "{attribute}" do not add up to the site\'s patients')
    if total < minimum_cell:
        return {"": f"fewer than {minimum_cell} patients"}
    return {
        f"{attribute}={level}": reason(minimum_cell)
        for attribute, patients in sorted(attributes.items())
        for level in withheld_levels(patients, minimum_cell)
    }


def withheld_levels(patients: Mapping[str, int], minimum_cell: int) -> list[str]:
    """The levels of one attribute that must be withheld, in order of name.

    Args:
        patients: number of patients by level; the levels split a total that is published.
        minimum_cell: fewest patients of a level that may leave.

    Withheld levels hold ``minimum_cell`` patients or more together. Their sum is known, and that
    most of them are small, so it must not be a sum that only one set of small numbers has (four
    levels under 10 that hold 36 are 9 each): then one more level is withheld, the smallest left.
    """
    occupied = {level: count for level, count in patients.items() if count > 0}
    by_size = sorted(occupied, key=lambda level: (occupied[level], level))
    small = [level for level in by_size if occupied[level] < minimum_cell]
    held = sum(occupied[level] for level in small)
    told = held in (len(small), len(small) * (minimum_cell - 1))
    more = 1 if small and (held < minimum_cell or told) else 0
    return sorted(by_size[: len(small) + more])


def reason(minimum_cell: int) -> str:
    """The reason given for every withheld subgroup: it must not tell a small one from its guard."""
    return f"withheld to protect fewer than {minimum_cell} patients"


def apart_enough(known: Known, order: NDArray[np.int64], minimum_cell: int) -> Known:
    """Leave outcomes out of further patients until no two differ in a few.

    Afterwards those of whom an outcome is not known, and those who have one outcome and lack
    another, are nobody or ``minimum_cell`` patients at least, for each outcome and each two. What
    is known of everybody stays so.

    Args:
        known: (patients, outcomes) who has a label of which outcome.
        order: (patients,) rows, in the order in which they are left out; before it comes who lacks
            most other outcomes, so that few are left out of any.
        minimum_cell: fewest patients that may be told apart.

    Returns:
        Who counts in which outcome: some of ``known``, the same ones whenever that is the same.
    """
    known, settled = known.copy(), False
    while not settled:
        settled = True
        for has in known.T:
            lacking = len(has) - int(has.sum())
            if has.any() and 0 < lacking < minimum_cell:
                candidates = order[has[order]]
                most = np.argsort(known[candidates].sum(axis=1), kind="stable")
                has[candidates[most[: minimum_cell - lacking]]] = False
                settled = False
        for has in known.T:
            for other in known.T:
                beside = has & ~other
                if 0 < int(beside.sum()) < minimum_cell and not has.all():
                    has[beside] = False
                    settled = False
    return known


def withheld_outcomes(
    known: Mapping[str, NDArray[np.bool_]],
    members: Mapping[str, NDArray[np.bool_]],
    withheld: Mapping[str, str],
    minimum_cell: int,
) -> dict[str, dict[str, str]]:
    """Which outcomes must not leave a site, or a level, because not all patients have a label.

    Beside all patients, and beside the other outcomes, one tells by subtraction of the patients in
    whom they differ. So an outcome is withheld of the site if these would be fewer than
    ``minimum_cell``, and of all levels of an attribute if they would be of one of them, or anybody
    of the levels withheld for every outcome. All outcomes withhold the same levels or an attribute
    whole: were each to choose its own, what two of them publish could tell a level that neither
    does. An outcome gives way to those that more patients have.

    Args:
        known: who has a label of each outcome, (patients,) each.
        members: who belongs to each cell, "" or "sex=female", (patients,) each; the levels of an
            attribute split the patients.
        withheld: the levels withheld for every outcome, from `withheld_cells`.
        minimum_cell: fewest patients of a cell that may leave.

    Returns:
        Reasons by cell name ("" for the site) and outcome.
    """
    everybody = np.ones(len(next(iter(known.values()))), bool)
    levels: dict[str, list[str]] = {}
    for cell in filter(None, members):
        levels.setdefault(cell.partition("=")[0], []).append(cell)
    found: dict[str, dict[str, str]] = {}
    told: list[NDArray[np.bool_]] = [everybody]
    beside: dict[str, list[NDArray[np.bool_]]] = {name: [everybody] for name in levels}
    for outcome in sorted(known, key=lambda name: -int(known[name].sum())):
        has = known[outcome]
        if not _fits(has, told, everybody, minimum_cell):
            for cell in members:
                found.setdefault(cell, {})[outcome] = reason(minimum_cell)
            continue
        told.append(has)
        for attribute, cells in levels.items():
            hidden = [members[cell] for cell in cells if cell in withheld]
            open_ = [members[cell] for cell in cells if cell not in withheld]
            whole = all(has[level].all() for level in hidden)
            if whole and all(_fits(has, beside[attribute], one, minimum_cell) for one in open_):
                beside[attribute].append(has)
                continue
            for cell in cells:
                found.setdefault(cell, {})[outcome] = reason(minimum_cell)
    return found


def _fits(
    has: NDArray[np.bool_],
    told: Sequence[NDArray[np.bool_]],
    level: NDArray[np.bool_],
    minimum_cell: int,
) -> bool:
    """Whether enough of a level have an outcome, and none or enough differ from what is told."""
    if not level.any():
        return True
    inside = has[level]
    counts = [int(inside.sum()), *(n for one in told for n in _differ(inside, one[level]))]
    return counts[0] > 0 and not any(0 < n < minimum_cell for n in counts)


def _differ(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int]:
    return int((first & ~second).sum()), int((second & ~first).sum())
