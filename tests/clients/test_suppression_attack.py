"""An attacker with everything a site sends solves for what it withheld, and does not find it."""

from itertools import product

import numpy as np
import pytest
from asking import Asked
from scipy.optimize import LinearConstraint, milp

from federation.messages import EVALUATE, Instruction
from federation.models.build import build_model
from federation.subgroups import LEVELS
from federation.vocabulary import agreed_vocabulary

ATTRIBUTES = ("sex", "age_band")
MINIMUM = 10


@pytest.fixture(params=[1, 2, 3])
def sent(request, tmp_path, write_site, make_study):
    """Cells with numbers of patients and of positives, and withheld names, of a site's reply."""
    # The same patients are held out in every session, so that some subgroups are small.
    names = ["train", "train", "train", "tuning", "held_out"]
    splits = {subject: names[subject % 5] for subject in range(1, 231)}
    folder = write_site(tmp_path / "bern", 230, seed=request.param, splits=splits)
    study = make_study(split={"by": "given"})
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    weights = build_model(study, vocabulary).weights()
    asked = Instruction(study, vocabulary=vocabulary, weights=weights, split="held_out")
    body = Asked(folder).ask(EVALUATE, asked).body
    found = body.summaries()
    return {name: (one.n, one.positives) for name, one in found.items()}, sorted(body.withheld)


def crossings(names):
    """Crossings of levels that may have patients: those of levels that were sent or withheld."""
    levels = [[v for v in LEVELS[a] if f"{a}={v}" in names] for a in ATTRIBUTES]
    return list(product(*levels))


def indicator(name, cells):
    """Which crossings a cell counts."""
    attribute, _, level = name.partition("=")
    place = ATTRIBUTES.index(attribute) if attribute else None
    return np.array([place is None or one[place] == level for one in cells], float)


def possible(name, published, cells, which):
    """Smallest and largest number of patients of a cell that agree with all that was published.

    Args:
        which: 0 for patients, 1 for positives.
    """
    system = np.array([indicator(one, cells) for one in published])
    told = np.array([numbers[which] for numbers in published.values()], float)
    goal = indicator(name, cells)
    ends = []
    for sign in (1, -1):
        solved = milp(
            sign * goal,
            constraints=LinearConstraint(system, told, told),
            integrality=np.ones(len(cells)),
        )
        assert solved.success
        ends.append(round(sign * solved.fun))
    return tuple(ends)


def recovered(name, published, cells):
    """Whether a cell is a sum and difference of published ones."""
    system = np.array([indicator(one, cells) for one in published])
    goal = indicator(name, cells)
    weights, *_ = np.linalg.lstsq(system.T, goal, rcond=None)
    return np.allclose(system.T @ weights, goal)


def test_nothing_withheld_is_a_solution_of_the_published_cells(sent):
    published, withheld = sent
    assert withheld, "this site has small subgroups"
    cells = crossings([*published, *withheld])
    for name in withheld:
        assert not recovered(name, published, cells)
        for which in (0, 1):
            low, high = possible(name, published, cells, which)
            assert low < high, f"{name} can only be {low}"
        low, high = possible(name, published, cells, 0)
        assert high >= MINIMUM, "it may as well be a cell that is large enough"


def test_same_attack_finds_a_cell_whose_guard_was_sent(sent):
    """The attack is one: without complementary suppression it names the small cell's patients."""
    published, withheld = sent
    cells = crossings([*published, *withheld])
    guard, *small = [name for name in withheld if name.startswith("age_band=")]
    total, _ = published[""]
    shown = sum(n for name, (n, _) in published.items() if name.startswith("age_band="))
    careless = {**published, guard: (total - shown - len(small), 0)}
    if len(small) == 1:
        assert recovered(small[0], careless, cells)
        assert possible(small[0], careless, cells, 0) == (1, 1)
    else:
        together = {**careless, **{name: (1, 0) for name in small[1:]}}
        assert recovered(small[0], together, cells)
