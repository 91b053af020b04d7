"""Rounds of updates, some of them hostile, for the tests of the robust rules."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.reduce import LARGEST_CHANGE

changes = st.floats(-LARGEST_CHANGE, LARGEST_CHANGE, width=32)


def updates(fewest=1, most=12, parameters=5):
    """Any updates that pass screening, (sites, parameters) float32."""
    return st.integers(fewest, most).flatmap(
        lambda sites: arrays(np.float32, (sites, parameters), elements=changes)
    )


@st.composite
def attacked(draw, needed, parameters=4):
    """A round that a rule must bear: updates, how many are hostile, and which rows are honest."""
    hostile = draw(st.integers(0, 3))
    sites = needed(hostile) + draw(st.integers(0, 4))
    honest = draw(
        arrays(np.float32, (sites - hostile, parameters), elements=st.floats(-1, 1, width=32))
    )
    against = draw(arrays(np.float32, (hostile, parameters), elements=changes))
    order = draw(st.permutations(range(sites)))
    rows = np.concatenate([honest, against])[order]
    return rows, hostile, np.array([place < sites - hostile for place in order])


def gaussian(sites, parameters, seed):
    """Updates in general position: no ties."""
    return np.random.default_rng(seed).standard_normal((sites, parameters)).astype(np.float32)


def as_flower(rows):
    """The same updates as Flower's functions take them, each counting once."""
    return [([row.astype(np.float64)], 1) for row in rows]
