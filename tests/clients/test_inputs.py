"""Inputs by window: what leaves agrees with the patients, and no sum tells of a small level."""

from itertools import combinations, product

import numpy as np
import pytest
from asking import Asked

from clients.inputs import _joined
from clients.outbound import GateClosed, check, released
from clients.site import PolicySection
from federation.bodies import EvaluateBody
from federation.messages import EVALUATE, Instruction, Reply
from federation.metrics.summary import ScoreSummary
from federation.models.build import build_model
from federation.vocabulary import agreed_vocabulary

RANGES = {"encoder": "mlp", "width": 4, "reference_ranges": {"LAB//A": [0.0, 1.0]}}


@pytest.mark.parametrize("seed", range(40))
def test_no_small_number_follows_from_what_is_told(seed):
    rng, minimum = np.random.default_rng(seed), 10
    levels, windows = ["absent", "below", "within", "above"], ["window=1", "window=2", "window=3"]
    counts = {
        window: dict(zip(levels, rng.integers(0, rng.choice([4, 15, 60]), 4).tolist(), strict=True))
        for window in windows
    }
    told = _joined(counts, minimum)
    for window, one in told.items():
        assert sum(one.values()) == sum(counts[window].values())
        for many in range(1, len(one) + 1):
            for chosen in combinations(one.values(), many):
                assert sum(chosen) == 0 or sum(chosen) >= minimum
        assert one.keys() == told[windows[0]].keys()
    # levels that are told by name have their true number
    for window, one in told.items():
        assert all(counts[window][name] == n for name, n in one.items() if name != "others")


def asked_of(tmp_path, write_site, make_study, **sections):
    folder = write_site(tmp_path / "bern", 230)
    study = make_study("ehr", "text", evaluation={"windows": {"number": 3}}, **sections)
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    weights = build_model(study, vocabulary).weights()
    instruction = Instruction(study, vocabulary=vocabulary, weights=weights, split="held_out")
    return Asked(folder), instruction


def test_windows_add_up_to_the_site_and_inputs_to_their_window(tmp_path, write_site, make_study):
    site, instruction = asked_of(tmp_path, write_site, make_study)
    body = site.ask(EVALUATE, instruction).body
    found = body.summaries()
    told = [name for name in found if name.startswith("window=")]
    assert told
    assert {*told, *body.withheld} >= {f"window={k}" for k in (1, 2, 3)}
    if len(told) == 3:
        assert sum(found[name].n for name in told) == found[""].n
    assert body.inputs.keys() <= set(told)


def test_only_the_finished_federated_model_is_told_by_window(tmp_path, write_site, make_study):
    site, instruction = asked_of(tmp_path, write_site, make_study)
    from dataclasses import replace

    for other in (
        replace(instruction, split="tuning"),
        replace(instruction, model="pooled"),
        replace(instruction, shared=True),
    ):
        body = site.ask(EVALUATE, other).body
        assert not any(name.startswith("window") for name in (*body.cells, *body.withheld))
        assert body.inputs == {}


def test_gate_keeps_back_small_inputs_unknown_names_and_windows_nobody_asked_for(make_study):
    cell = ScoreSummary.from_scores([0.5] * 20, [0, 1] * 10).merged(10).to_json()
    policy = PolicySection()
    asked = make_study("ehr", evaluation={"windows": {"number": 2}})

    def reply(levels, name="ehr"):
        cells = {"": cell, "window=1": cell}
        inputs = {"window=1": {name: levels}}
        return Reply("ok", EvaluateBody(cells=cells, withheld={}, inputs=inputs))

    with pytest.raises(GateClosed, match="smaller"):
        check(reply({"absent": 3, "present": 17}), policy)
    fine = reply({"absent": 20, "present": 0})
    assert released(fine, policy, asked) is fine
    with pytest.raises(GateClosed, match="does not ask"):
        released(fine, policy, make_study("ehr"))
    with pytest.raises(GateClosed, match="does not name"):
        released(reply({"absent": 20}, "MRN//4711"), policy, asked)


def test_coordinator_refuses_inputs_that_do_not_add_up():
    cell = ScoreSummary.from_scores([0.5] * 20, [0, 1] * 10).to_json()
    for window, count in product(("window=1", "window=2"), (20, 21)):
        document = {
            "cells": {"": cell, "window=1": cell},
            "withheld": {},
            "inputs": {window: {"text": {"present": count}}},
        }
        if (window, count) == ("window=1", 20):
            EvaluateBody.model_validate(document).summaries()
            continue
        with pytest.raises(ValueError, match=r"add up|not sent"):
            EvaluateBody.model_validate(document).summaries()
