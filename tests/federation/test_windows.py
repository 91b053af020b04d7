"""Windows of time: who lies in which, and what a study may ask for."""

import numpy as np
import pytest
from pydantic import ValidationError

from federation.windows import WindowsSection


def test_windows_in_order_are_of_about_equal_size_and_part_no_time():
    times = np.repeat(np.arange(50), 2)
    found = WindowsSection(number=4).of(np.random.default_rng(0).permutation(times))
    sizes = np.bincount(found)[1:]
    assert len(sizes) == 4
    assert sizes.max() - sizes.min() <= 2
    together = WindowsSection(number=3).of(np.array([7, 7, 7, 7]))
    assert len(set(together)) == 1


def test_calendar_windows_begin_at_their_dates():
    moments = np.array(["2018-12-31T23:59:59", "2019-01-01", "2021-06-01"], "datetime64[s]")
    section = WindowsSection.model_validate({"edges": ["2019-01-01", "2020-01-01"]})
    assert section.of(moments.astype(np.int64)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"number": 3, "edges": ["2019-01-01"]},
        {"number": 1},
        {"number": 13},
        {"edges": ["2020-01-01", "2019-01-01"]},
        {"edges": ["today"]},
    ],
)
def test_windows_that_say_nothing_or_two_things_are_refused(given):
    with pytest.raises(ValidationError):
        WindowsSection.model_validate(given)
