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
- bounds on crossings (women over 80), which follow from any two tables' margins;
- a published cell whose patients all have the same label, which tells it of each of them;
- subtraction between different sets of patients: another split, another study, a later extract;
- a level without any patient has no cell, and its absence says so;
- reasoning about the rule itself: who knows that the guard was the smallest level left narrows the
  numbers of the withheld levels further, in rare ties to a single one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def withheld_outcomes(
    total: int,
    attributes: Mapping[str, Mapping[str, int]],
    known: Mapping[str, Mapping[str, Mapping[str, int]]],
    known_of_all: Mapping[str, int],
    withheld: Mapping[str, str],
    minimum_cell: int,
) -> dict[str, dict[str, str]]:
    """Which outcomes must not leave a site, or a level, because not all patients have a label.

    Beside the other outcomes, one tells by subtraction of how many patients it is not known. So it
    is withheld of the site if that would be fewer than ``minimum_cell``, and of all levels of an
    attribute if it would be of one of them, or of those withheld for every outcome. All outcomes
    withhold the same levels or an attribute whole: were each to choose its own, what two of them
    publish could tell a level that neither does.

    Args:
        total: patients of the site in the split.
        attributes: patients by attribute and level.
        known: patients with a label, by outcome, attribute and level.
        known_of_all: patients with a label, by outcome.
        withheld: the levels withheld for every outcome, "sex=female", from `withheld_cells`.
        minimum_cell: fewest patients of a cell that may leave.

    Returns:
        Reasons by cell name ("" for the site) and outcome.
    """
    found: dict[str, dict[str, str]] = {}

    def unfit(everybody: int, labelled: int) -> bool:
        return labelled < minimum_cell or 0 < everybody - labelled < minimum_cell

    for outcome, count in known_of_all.items():
        if unfit(total, count):
            for cell in (
                "",
                *(f"{a}={level}" for a, sizes in attributes.items() for level in sizes),
            ):
                found.setdefault(cell, {})[outcome] = reason(minimum_cell)
            continue
        for attribute, sizes in attributes.items():
            labelled = known[outcome][attribute]
            occupied = [level for level, count in sizes.items() if count]
            told = [level for level in occupied if f"{attribute}={level}" not in withheld]
            hidden = [level for level in occupied if level not in told]
            rest = sum(sizes[level] - labelled[level] for level in hidden)
            if rest or any(unfit(sizes[level], labelled[level]) for level in told):
                for level in sizes:
                    found.setdefault(f"{attribute}={level}", {})[outcome] = reason(minimum_cell)
    return found
