"""privacy.json: every figure follows from the rate, noise and steps that stand beside it."""

import json

import pytest

from federation.privacy.accounting import Segment, epsilon
from server.exchange import NO_REPLY
from server.privacy import privacy_document, privacy_warnings


@pytest.fixture
def study(make_study):
    return make_study(privacy={"mechanism": "dp_sgd", "epsilon": 3.0}, training={"rounds": 4})


def told(rounds, noise=1.5, rate=0.1, wanted=None, seeded=False):
    segment = {
        "sampling_rate": rate,
        "noise_multiplier": noise,
        "steps": 10 * rounds,
        "rounds": rounds,
    }
    ledger = {"length": rounds, "hash": "0" * 64}
    return {
        "segments": [segment],
        "wanted_noise": wanted or noise,
        "seeded": seeded,
        "ledger": ledger,
    }


def record(spent, failed=(), **more):
    asked = [*spent, *dict(failed)]
    return {"asked": asked, "answered": list(spent), "failed": dict(failed), "spent": spent} | more


def test_epsilons_are_those_of_what_each_site_said_last(study):
    rounds = [
        record({"a": told(1), "b": told(1, 2.0)}),
        record({"a": told(2)}, {"b": "the site failed"}),
        record({"a": told(3), "b": told(3, 2.0)}),
    ]
    document = privacy_document(study, rounds, {}, True)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    for site, noise in (("a", 1.5), ("b", 2.0)):
        row = document["sites"][site]
        spent = [Segment(row["sampling_rate"], row["noise_multiplier"], row["steps"])]
        assert spent == [Segment(0.1, noise, 30)]
        for name in ("pld", "rdp", "prv"):
            assert row["epsilon"][name] == pytest.approx(epsilon(spent, 1e-5, name), rel=1e-5)
        assert row["rounds"] == 3
        assert row["epsilon"][row["reported"]] <= row["epsilon"]["rdp"]


def test_spends_of_a_patient_of_every_site_compose(study):
    document = privacy_document(study, [record({"a": told(2), "b": told(2, 2.0)})], {}, True)
    together = epsilon([Segment(0.1, 1.5, 20), Segment(0.1, 2.0, 20)], 1e-5)
    found = document["patient_of_every_site"]["epsilon"]["pld"]
    assert found == pytest.approx(together, rel=1e-4)
    assert found > max(document["sites"][site]["epsilon"]["pld"] for site in "ab")


def test_rounds_whose_replies_never_came_are_counted_at_most(study):
    rounds = [record({"a": told(1)}), record({}, {"a": NO_REPLY}), record({}, {"a": NO_REPLY})]
    row = privacy_document(study, rounds, {}, True)["sites"]["a"]
    assert (row["rounds"], row["rounds_unheard"]) == (1, 2)
    most = epsilon([Segment(0.1, 1.5, 30)], 1e-5)
    assert row["epsilon_at_most"]["pld"] == pytest.approx(most, rel=1e-4)
    heard = privacy_document(study, [*rounds, record({"a": told(4)})], {}, True)["sites"]["a"]
    assert "rounds_unheard" not in heard, "the site's own count holds them"
    assert heard["rounds"] == 4


def test_a_site_that_never_answered_has_a_row(study):
    rounds = [record({"a": told(1)}, {"b": NO_REPLY, "c": "the site failed"})] * 2
    document = privacy_document(study, rounds, {}, True)
    row = document["sites"]["b"]
    assert (row["rounds_unheard"], row["epsilon"]) == (2, None)
    assert "c" not in document["sites"], "it said that it did not train"
    assert any(w.startswith("b may have trained in 2") for w in privacy_warnings(document))


def test_comparators_of_a_site_add_to_what_its_patients_spent(study):
    comparators = {"local": {"a": told(2)}}
    row = privacy_document(study, [record({"a": told(2)})], comparators, True)["sites"]["a"]
    both = epsilon([Segment(0.1, 1.5, 40)], 1e-5)
    assert row["epsilon_with_comparators"]["pld"] == pytest.approx(both, rel=1e-4)


def test_a_refusal_for_privacy_is_warned_of_once(study):
    spent = "the privacy budget of the site's patients does not allow it"
    rounds = [record({"a": told(1)}, {"b": spent, "c": "the site failed"})] * 3
    document = privacy_document(study, rounds, {}, True)
    warned = [w for w in privacy_warnings(document, rounds) if "took no part" in w]
    assert warned == [f"b took no part for its patients' privacy: {spent}."]


def test_more_noise_than_the_study_asks_for_and_a_seed_are_warned_of(study):
    rounds = [record({"a": told(1, 3.0, wanted=1.5), "b": told(1, seeded=True)})]
    document = privacy_document(study, rounds, {"local": {"b": told(1, 9.0, wanted=2.0)}}, True)
    warnings = privacy_warnings(document)
    assert any(w.startswith("a had less") and "3 instead of 1.5." in w for w in warnings)
    assert any("9 instead of 2 for the model local" in w for w in warnings)
    assert any("protects nobody" in w for w in warnings)
    assert document["comparators"]["local"]["b"]["noise_multiplier"] == 9.0


def test_central_row_names_its_unit_and_its_adversary(make_study):
    study = make_study(
        privacy={"mechanism": "central", "epsilon": 2.0}, strategy={"weighting": "uniform"}
    )
    kept = {"clip": 1.0, "noise_multiplier": 3.0, "next_clip": 1.0}
    document = privacy_document(study, [record({}, central=kept, answered=["a"])] * 2, {}, False)
    row = document["sites"]["a"]
    assert (row["unit"], row["rounds"], row["seeded"]) == ("hospital", 2, False)
    assert "not the coordinator" in row["adversary"]
    assert row["epsilon"]["pld"] == pytest.approx(epsilon([Segment(1.0, 3.0, 2)], 1e-5), rel=1e-4)


def test_without_a_mechanism_nothing_is_claimed(make_study):
    document = privacy_document(make_study(), [record({"a": {}})], {}, True)
    assert document["sites"] == {"a": {"mechanism": "none"}}
    assert document["covers"] == "nothing"
