"""Faults that leave too few sites are foreseen, in the round in which they do."""

import pytest

from federation.errors import UserError
from server.participation import participants
from simulations.faults import Faults
from simulations.quorum import check_quorum

SITES = {f"site-{i}": 50 for i in range(1, 7)}


@pytest.fixture
def check(make_study):
    """Return a function: faults, and tables to change -> the warnings of the small study."""

    def check(faults, *modalities, **sections):
        sections = {"training": {"rounds": 12}, "strategy": {"minimum_sites": 2}} | sections
        study = make_study(*modalities, simulation={"faults": faults}, **sections)
        plan = Faults(study.simulation.faults, SITES, study.study.seed)
        return check_quorum(plan, study, SITES)

    return check


def test_faults_that_leave_enough_sites_are_not_warned_of(check):
    assert check({}) == []
    assert check({"dropout": {"kind": "periodic", "every": 3}}) == []
    slow = {"median_seconds": 599, "distribution": "constant"}
    assert check({"stragglers": slow, "duplicated_replies": {"probability": 1}}) == []


def test_round_in_which_the_quorum_is_lost_is_named_with_its_sites(check):
    """With every = 12, site-1 to site-6 are away in the rounds 12, 11, ... 7, one in each."""
    quorum = {"strategy": {"minimum_sites": 6}}
    (warning,) = check({"dropout": {"kind": "periodic", "every": 12}}, **quorum)
    assert warning == (
        "Simulated faults: round 7: 5 of 6 sites will answer; 6 are needed: the run will end there "
        "(dropped out: site-6)."
    )


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        ({"dropout": {"probability": 1}}, "dropped out: site-1, site-2"),
        ({"crash": {"probability": 1}}, "crashed: site-1"),
        ({"lost_replies": {"probability": 1}}, "reply lost: site-1"),
        ({"corrupted": {"probability": 1, "kind": "nan"}}, "refused by screening: site-1"),
        ({"corrupted": {"probability": 1, "kind": "shape"}}, "refused by screening: site-1"),
        ({"stragglers": {"distribution": "constant", "median_seconds": 601}}, "too late: site-1"),
    ],
)
def test_faults_that_leave_no_quorum_in_the_first_round_are_refused(check, faults, why):
    with pytest.raises(UserError) as caught:
        check(faults)
    message = str(caught.value)
    assert "simulation.faults: round 1: 0 of 6 sites will answer; 2 are needed" in message
    assert why in message
    assert "lower strategy.minimum_sites" in message


def test_deadline_of_the_study_decides_who_is_late(check):
    late = {"stragglers": {"distribution": "constant", "median_seconds": 30}}
    assert check(late, strategy={"round_deadline_seconds": 30}) == []
    with pytest.raises(UserError, match="too late"):
        check(late, strategy={"round_deadline_seconds": 29})


def test_clock_beyond_deadline_and_margin_keeps_a_site_out_of_every_round(check):
    warnings = check(
        {"clock_skew": {"spread_seconds": 86_400, "sites": ["site-2"]}},
        strategy={"round_deadline_seconds": 1},
    )
    assert warnings == ["Simulated faults: site-2 never sends a usable update."]


def test_updates_that_screening_may_pass_count_as_usable(check):
    assert check({"corrupted": {"probability": 1, "kind": "bits"}}) == []
    assert check({"hostile": [{"attack": "scaled_update", "count": 6}]}) == []


def test_attack_that_never_begins_is_warned_of(check):
    (warning,) = check({"hostile": [{"attack": "sign_flip", "count": 1, "from_round": 13}]})
    assert "sign_flip from round 13 never begins; the study has 12 rounds" in warning
    assert check({"hostile": [{"attack": "sign_flip", "count": 1, "from_round": 12}]}) == []


def test_backdoor_without_a_modality_for_its_trigger_is_refused(check):
    backdoor = {"hostile": [{"attack": "backdoor", "count": 1}]}
    with pytest.raises(UserError, match="notes alone"):
        check(backdoor, "text")
    assert check(backdoor, "text", "image") == []


def test_only_sites_that_a_round_asks_count(check, make_study):
    sections = {
        "training": {"rounds": 1},
        "strategy": {"minimum_sites": 2, "participation": {"kind": "random", "sites": 3}},
    }
    asked = list(participants(make_study(**sections), dict.fromkeys(SITES, 0), 1))
    others = sorted(set(SITES) - set(asked))
    assert check({"crash": {"probability": 1, "sites": others}}, **sections) == []
    with pytest.raises(UserError, match="1 of 3 sites will answer"):
        check({"crash": {"probability": 1, "sites": asked[:2]}}, **sections)
