"""The shifts file: what is refused, and what a shift's draws depend on."""

import pytest

from federation.errors import UserError
from simulations.shifts.plan import load_shifts
from simulations.shifts.registry import KINDS

NAMES = ("aarau", "bern")


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ({"kind": "scaner"}, ["number 1", '"scaner" is not known', 'Did you mean "scanner"?']),
        ({}, ["number 1", "kind", "missing"]),
        ({"kind": "scanner", "gama": 1.0}, ["gama: unknown key", 'Did you mean "gamma"?']),
        ({"kind": "prevalence", "strength": 1.5}, ["strength", "less than or equal to 1"]),
        ({"kind": "prevalence", "strength": -0.1}, ["strength", "greater than or equal to 0"]),
        ({"kind": "missing", "modalities": ["images"]}, ["modalities", "'image'"]),
        ({"kind": "temporal"}, ["of", "expected a table"]),
        ({"kind": "temporal", "of": {"kind": "scanner"}}, ["of.kind", "concept, covariate"]),
        ({"kind": "temporal", "of": {"kind": "concept", "slop": 1}}, ['Did you mean "slope"?']),
        ({"kind": "temporal", "of": {"kind": "concept", "sites": ["bern"]}}, ["of.sites"]),
        ({"kind": "scanner", "sites": []}, ["sites"]),
    ],
)
def test_wrong_shift_is_refused_with_its_place_and_a_remedy(make_plan, shift, words):
    with pytest.raises(UserError) as refused:
        make_plan(shift)
    for word in words:
        assert word in str(refused.value)


def test_second_wrong_shift_is_named_by_its_number(make_plan):
    with pytest.raises(UserError, match=r"\[\[shift\]\] number 2: unknown_key: unknown key"):
        make_plan({"kind": "scanner"}, {"kind": "scanner", "unknown_key": 1})


def test_file_without_shifts_or_with_unknown_tables_is_refused(tmp_path):
    file = tmp_path / "shifts.toml"
    for text, words in (
        ("[shifts]\nseed = 1\n", "shift: missing"),
        ("[shifts]\nsed = 1\n[[shift]]\nkind = 'scanner'\n", 'Did you mean "seed"'),
        ("[[shifts]]\nkind = 'scanner'\n", "shifts"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            load_shifts(file)


def test_unknown_site_is_refused_with_the_nearest(make_plan):
    plan = make_plan({"kind": "scanner"}, {"kind": "scanner", "sites": ["bernn"]})
    with pytest.raises(UserError, match=r'shift.2.sites: "bernn" is no site(.|\n)*"bern"'):
        plan.check_sites(NAMES)


def test_one_site_alone_is_refused(make_plan):
    with pytest.raises(UserError, match="differences between sites, and there is 1"):
        make_plan({"kind": "scanner"}).check_sites(["bern"])


def test_shift_acts_only_at_its_sites_and_never_at_strength_zero(make_plan):
    plan = make_plan(
        {"kind": "scanner", "sites": ["bern"]},
        {"kind": "scanner", "strength": 0.0},
        {"kind": "scanner", "strength": 0.5},
        strength=0.5,
    )
    at_bern, never, half = plan.shifts
    assert at_bern.scope("aarau", NAMES) is None
    assert at_bern.scope("bern", NAMES).sites == ("bern",)
    assert never.scope("bern", NAMES) is None
    assert half.scope("bern", NAMES).strength == 0.25


def test_draws_do_not_depend_on_other_shifts_of_the_file_or_on_the_strength(make_plan):
    alone = make_plan({"kind": "scanner", "strength": 0.2}).shifts[0]
    beside = make_plan({"kind": "coding"}, {"kind": "scanner"}, {"kind": "scanner"}).shifts
    draws = [one.scope("bern", NAMES).random("x").random() for one in (alone, beside[1], beside[2])]
    assert draws[0] == draws[1] != draws[2]


def test_every_kind_is_named_as_its_section_says():
    for name, kind in KINDS.items():
        assert kind.section.model_fields["kind"].annotation.__args__ == (name,)
