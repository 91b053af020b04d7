"""[simulation.faults]: what is accepted, how mistakes are explained, and who refuses it."""

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from federation.errors import UserError
from federation.faults import FaultsSection, HostileSection
from federation.study import Study, load_study
from server.app import check_simulation

EXAMPLES = Path(__file__).parents[2] / "examples" / "studies"
EVERYTHING = {
    "dropout": {"kind": "by_size", "probability": 0.3},
    "stragglers": {"distribution": "pareto", "median_seconds": 30, "spread": 0.4},
    "crash": {"probability": 0.1, "sites": ["bern"]},
    "lost_replies": {"probability": 0.1},
    "duplicated_replies": {"probability": 0.1},
    "corrupted": {"probability": 0.1, "kind": "bits"},
    "hostile": [
        {"attack": "sign_flip", "sites": ["bern"]},
        {"attack": "backdoor", "count": 2, "from_round": 3, "target": 0},
    ],
    "clock_skew": {"spread_seconds": 60},
}


@pytest.fixture
def complaint(write_study):
    """Return a function: one table of the faults -> the message about it."""

    def complaint(name, table):
        file = write_study(simulation={"faults": {name: table}})
        with pytest.raises(UserError) as caught:
            load_study(file)
        assert caught.value.exit_code == 2
        assert str(file) in str(caught.value)
        return str(caught.value)

    return complaint


@pytest.mark.parametrize(
    ("name", "table", "field", "words"),
    [
        ("dropot", {"probability": 0.1}, "faults.dropot", 'Did you mean "dropout"?'),
        ("dropout", {}, "faults.dropout", 'kind "random" needs a probability'),
        ("dropout", {"probabilty": 0.1}, "dropout.probabilty", 'Did you mean "probability"?'),
        ("dropout", {"probability": 1.1}, "dropout.probability", "less than or equal to 1"),
        ("dropout", {"probability": True}, "dropout.probability", "valid number"),
        ("dropout", {"kind": "randm"}, "dropout.kind", 'Did you mean "random"?'),
        ("dropout", {"kind": "periodic"}, "faults.dropout", "needs every"),
        ("dropout", {"kind": "periodic", "every": 1}, "dropout.every", "equal to 2"),
        ("dropout", {"kind": "periodic", "every": 2.5}, "dropout.every", "valid integer"),
        (
            "dropout",
            {"kind": "periodic", "every": 2, "probability": 0.1},
            "faults.dropout",
            'probability is an option of the kinds "random" and "by_size"',
        ),
        ("dropout", {"probability": 0.1, "every": 2}, "faults.dropout", 'of kind "periodic"'),
        ("dropout", {"probability": 0.1, "sites": []}, "dropout.sites", "names no site"),
        ("crash", {"probability": 0.1, "sites": ["a", "a"]}, "crash.sites", "a: named twice"),
        ("crash", {"probability": 0.1, "sites": "bern"}, "crash.sites", "valid tuple"),
        ("crash", {}, "crash.probability", "missing; it has no default"),
        ("stragglers", {"spread": 0.5}, "stragglers.median_seconds", "missing"),
        ("stragglers", {"median_seconds": 3}, "faults.stragglers", "needs a spread"),
        ("stragglers", {"median_seconds": 0}, "stragglers.median_seconds", "greater than 0"),
        ("stragglers", {"median_seconds": 1e9}, "stragglers.median_seconds", "less than or"),
        (
            "stragglers",
            {"distribution": "constant", "median_seconds": 3, "spread": 1},
            "faults.stragglers",
            "has no spread",
        ),
        ("corrupted", {"probability": 0.1, "kind": "nans"}, "corrupted.kind", '"nan"?'),
        ("clock_skew", {"spread_seconds": -1}, "clock_skew.spread_seconds", "equal to 0"),
        ("hostile", {"attack": "sign_flip"}, "faults.hostile", "[[simulation.faults.hostile]]"),
        ("hostile", [{"count": 1}], "hostile.0.attack", "missing"),
        ("hostile", [{"attack": "sign_flip"}], "hostile.0", "give sites or count"),
        (
            "hostile",
            [{"attack": "sign_flip", "count": 1, "sites": ["a"]}],
            "hostile.0",
            "give sites or count",
        ),
        ("hostile", [{"attack": "sign_flip", "cout": 1}], "hostile.0.cout", '"count"?'),
        ("hostile", [{"attack": "backdor", "count": 1}], "hostile.0.attack", '"backdoor"?'),
        ("hostile", [{"attack": "sign_flip", "count": 0}], "hostile.0.count", "equal to 1"),
        (
            "hostile",
            [{"attack": "label_flip", "count": 1, "scale": 2.0}],
            "hostile.0",
            "scale is an option of sign_flip, scaled_update, backdoor, not of label_flip",
        ),
        (
            "hostile",
            [{"attack": "sign_flip", "count": 1, "target": 1}],
            "hostile.0",
            "target is an option of backdoor",
        ),
        (
            "hostile",
            [{"attack": a, "sites": ["bern"]} for a in ("sign_flip", "backdoor")],
            "simulation.faults",
            "bern in two tables",
        ),
    ],
)
def test_mistake_in_a_fault_is_explained(complaint, name, table, field, words):
    message = complaint(name, table)
    assert field in message
    assert words in message


def test_every_fault_together_survives_the_way_to_a_site_and_the_run_folder(make_study, tmp_path):
    study = make_study(simulation={"faults": EVERYTHING})
    assert Study.model_validate_json(study.canonical) == study
    (tmp_path / "study.toml").write_text(study.to_toml())
    again = load_study(tmp_path / "study.toml")
    assert (again, again.fingerprint) == (study, study.fingerprint)


@pytest.mark.parametrize("name", ["heart-disease", "synthetic", "synthetic-private"])
def test_fingerprint_of_a_study_without_simulation_is_of_its_other_tables_alone(name):
    """Sites approve and ledgers charge by it: the new table must not change what there is."""
    study = load_study(EXAMPLES / f"{name}.toml")
    tables = [table for table in Study.model_fields if table != "simulation"]
    told = {t: getattr(study, t).model_dump(mode="json", exclude_none=True) for t in tables}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert study.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_fingerprint_tells_of_faults(make_study):
    faults = {"crash": {"probability": 0.1}}
    found = [make_study(), make_study(simulation={"faults": faults})]
    assert len({study.fingerprint for study in found}) == 2


@pytest.mark.parametrize(
    ("attack", "factor", "share"),
    [
        ("label_flip", 1.0, 1.0),
        ("sign_flip", 1.0, 1.0),
        ("scaled_update", 10.0, 1.0),
        ("backdoor", 1.0, 0.5),
    ],
)
def test_attack_has_a_strength_of_its_own_unless_one_is_given(attack, factor, share):
    table = HostileSection(attack=attack, count=1)
    assert (table.factor, table.poisoned_share, table.target_label) == (factor, share, 1)
    chosen = HostileSection(attack="backdoor", count=1, scale=3.0, share=0.1, target=0)
    assert (chosen.factor, chosen.poisoned_share, chosen.target_label) == (3.0, 0.1, 0)


def test_probability_of_zero_is_a_choice_for_sweeps():
    section = FaultsSection.model_validate({"dropout": {"probability": 0}})
    assert section.dropout.probability == 0
    with pytest.raises(ValidationError):
        FaultsSection.model_validate({"dropout": {"probability": -0.1}})


def test_deployed_coordinator_refuses_what_only_a_simulation_plays(make_study):
    check_simulation(make_study(), "study.toml")
    check_simulation(make_study(simulation={}), "study.toml")
    for name, table in (("faults", EVERYTHING), ("arrival", {"kind": "growing"})):
        with pytest.raises(UserError) as caught:
            check_simulation(make_study(simulation={name: table}), "study.toml")
        told = f"study.toml: simulation.{name}: it is played in a simulation only"
        assert told in str(caught.value)
