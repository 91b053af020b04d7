"""Learning-rate schedules over rounds."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from federation.training import OptimizerSection, ScheduleSection, TrainingSection

sections = st.one_of(
    st.builds(ScheduleSection, kind=st.just("constant"), warmup_rounds=st.integers(0, 5)),
    st.builds(
        ScheduleSection,
        kind=st.sampled_from(["linear", "cosine"]),
        warmup_rounds=st.integers(0, 5),
        least=st.floats(0, 0.9),
    ),
    st.builds(
        ScheduleSection,
        kind=st.just("step"),
        warmup_rounds=st.integers(0, 5),
        every=st.integers(1, 4),
        factor_each=st.floats(0.1, 0.9),
    ),
)


@given(sections, st.integers(1, 40))
def test_rates_rise_evenly_to_the_whole_and_then_never_rise(section, rounds):
    factors = [section.factor(r, rounds) for r in range(1, rounds + 1)]
    warm = min(section.warmup_rounds, rounds)
    rising = [r / section.warmup_rounds for r in range(1, warm + 1)]
    assert factors[:warm] == pytest.approx(rising)
    after = factors[warm:]
    assert all(b <= a for a, b in itertools.pairwise(after))
    assert all(0 < factor <= 1 for factor in factors), "no round trains at a rate of nothing"
    if after:
        assert after[0] == 1
    if section.kind in ("linear", "cosine") and after:
        assert min(after) >= section.least


def test_linear_and_cosine_are_what_they_are_called():
    linear = ScheduleSection(kind="linear", least=0.2)
    assert [linear.factor(r, 4) for r in (1, 2, 3, 4)] == pytest.approx([1, 0.8, 0.6, 0.4])
    cosine = ScheduleSection(kind="cosine", warmup_rounds=1)
    expected = [1, *((1 + math.cos(math.pi * k / 4)) / 2 for k in range(4))]
    assert [cosine.factor(r, 5) for r in range(1, 6)] == pytest.approx(expected)


def test_step_multiplies_after_every_so_many_rounds():
    step = ScheduleSection(kind="step", every=2, factor_each=0.5, warmup_rounds=1)
    assert [step.factor(r, 9) for r in range(1, 7)] == [1, 1, 1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "step"}, "needs every and factor_each"),
        ({"kind": "cosine", "every": 2}, "options of kind"),
        ({"kind": "constant", "least": 0.1}, "least is an option"),
        ({"kind": "step", "every": 0, "factor_each": 0.5}, "greater than 0"),
        ({"warmup_rounds": -1}, "greater than or equal to 0"),
    ],
)
def test_options_of_another_kind_are_refused(section, words):
    with pytest.raises(ValidationError, match=words):
        ScheduleSection(**section)


def test_a_round_has_its_rate_and_nothing_else_is_changed():
    section = TrainingSection(
        rounds=4,
        optimizer=OptimizerSection(
            name="sgd", lr=0.8, momentum=0.9, schedule=ScheduleSection(kind="linear")
        ),
    )
    third = section.at_round(3)
    assert third.optimizer.lr == pytest.approx(0.4)
    assert (third.optimizer.name, third.optimizer.momentum) == ("sgd", 0.9)
    assert third.model_copy(update={"optimizer": section.optimizer}) == section
    assert section.at_round(1) is section
