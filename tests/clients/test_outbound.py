"""The gate: what must not leave a site does not, whatever goes wrong behind it."""

import logging

import numpy as np
import pytest
from flwr.common.serde import recorddict_to_proto
from pydantic import ValidationError

from clients.outbound import GateClosed, TakesNoPart, check, guarded, released, suppressed
from clients.site import PolicySection, load_site
from federation.bodies import (
    DescribeBody,
    EvaluateBody,
    LedgerHead,
    PairedBody,
    PrepareBody,
    SpentBody,
    SpentSegment,
    TrainBody,
)
from federation.errors import BudgetSpent, NoUsableModel, Refused, UserError
from federation.messages import TRAIN, Reply
from federation.metrics.summary import ScoreSummary

SECRET = "MRN-00417 Jane Doe"


def cell(patients):
    scores = np.linspace(0.1, 0.9, patients)
    return ScoreSummary.from_scores(scores, np.arange(patients) % 2).to_json()


def evaluated(cells=None, withheld=None):
    return Reply("ok", EvaluateBody(cells=cells or {}, withheld=withheld or {}))


def described(**counts):
    empty = {"patients": {}, "modalities": {}, "excluded": {}, "notices": {}}
    body = DescribeBody(**{**empty, **counts}, minimum_cell=10, score_bins="merged")
    return Reply("ok", body)


def trained(patients, update=None):
    return Reply("ok", TrainBody(loss=0.5, steps=1, patients=patients), update=update)


def prepared(code, patients=10):
    return Reply("ok", PrepareBody(codes={code: (patients, 0, 0.0, 0.0)}))


def compared(reference=None, correlation=0.87, patients=30):
    paired = PairedBody(reference=reference or cell(patients), correlation=correlation)
    return Reply("ok", EvaluateBody(cells={"": cell(patients)}, withheld={}, paired=paired))


POLICY = PolicySection(minimum_cell=10, score_bins="fine")

UPDATE = np.zeros(3, np.float32)
PASSES = {
    "no body": Reply("no training patients"),
    "cell at the minimum": evaluated({"": cell(10), "sex=female": cell(12)}),
    "withheld cells": evaluated(
        {"": cell(20)}, {"age_band=80+": "withheld to protect fewer than 10 patients"}
    ),
    "withheld site": evaluated({}, {"": "fewer than 10 patients"}),
    "two models on the same patients": compared(),
    "two models without a correlation": compared(correlation=None),
    "suppressed counts": described(patients={"train": 10, "tuning": "suppressed", "held_out": 0}),
    "part below the minimum at zero": trained({"ehr": 20, "image": 0, "fusion": 20}, UPDATE),
    "ordinary codes": prepared("LAB//50912//mg/dL"),
    "code with brackets": prepared("LOINC//2345-7 [mass/volume] (serum)"),
}


@pytest.mark.parametrize("kind", PASSES)
def test_what_the_policy_allows_passes(kind):
    check(PASSES[kind], POLICY)


REFUSED = {
    "cell below the minimum": lambda: evaluated({"": cell(9)}),
    "subgroup below the minimum": lambda: evaluated({"": cell(30), "sex=male": cell(9)}),
    "empty cell": lambda: evaluated({"": cell(0)}),
    "attribute outside the list": lambda: evaluated({"zip=8001": cell(30)}),
    "free text for a level": lambda: evaluated({f"sex={SECRET}": cell(30)}),
    "name with a line break": lambda: evaluated({"sex=female\n": cell(30)}),
    "free text for a cell": lambda: evaluated({SECRET: cell(30)}),
    "more than a summary in a cell": lambda: evaluated({"": {**cell(30), "note": SECRET}}),
    "no summary in a cell": lambda: evaluated({"": {"note": SECRET}}),
    "free text for a withheld cell": lambda: evaluated(
        {"": cell(30)}, {SECRET: "fewer than 10 patients"}
    ),
    "free text for a reason": lambda: evaluated({"": cell(30)}, {"sex=male": SECRET}),
    "second model's cell below the minimum": lambda: compared(cell(9), patients=9),
    "second model on other patients": lambda: compared(cell(31)),
    "second model and more": lambda: compared({**cell(30), "note": SECRET}),
    "correlation of many digits": lambda: compared(correlation=0.8712),
    "correlation beyond 1": lambda: compared(correlation=1.1),
    "comparison at a withheld site": lambda: Reply(
        "ok",
        EvaluateBody(
            cells={}, withheld={"": "fewer than 10 patients"}, paired=compared().body.paired
        ),
    ),
    "small split": lambda: described(patients={"train": 9}),
    "one image": lambda: described(modalities={"image": 1}),
    "small exclusion": lambda: described(excluded={"label is empty": 3}),
    "small notice": lambda: described(notices={"image: not a DICOM file": 9}),
    "small part": lambda: trained({"ehr": 20, "image": 9, "fusion": 20}, UPDATE),
    "free text for a part": lambda: trained({SECRET: 20}, UPDATE),
    "update of another kind": lambda: trained({"ehr": 20}, np.array([1.0])),
    "rare code": lambda: prepared("LAB//A", 9),
    "free text for a code": lambda: prepared("Jane Doe, born 1970"),
    "line break after a code": lambda: prepared("LAB//A\n"),
    "long code": lambda: prepared("A" * 121),
    "empty code": lambda: prepared(""),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_policy_forbids_does_not_pass(kind):
    with pytest.raises((GateClosed, ValueError)) as caught:
        check(REFUSED[kind](), POLICY)
    assert SECRET not in str(caught.value) or isinstance(caught.value, ValidationError)


SPENT = SpentBody(
    segments=[SpentSegment(sampling_rate=0.1, noise_multiplier=2.0, steps=10, rounds=1)],
    wanted_noise=2.0,
    seeded=False,
    ledger=LedgerHead(length=1, hash="0" * 64),
)


def private(**changes):
    body = {"loss": None, "steps": 10, "patients": {"ehr": 60, "image": 0}, "spent": SPENT}
    return Reply("ok", TrainBody(**body | changes), update=UPDATE)


def test_what_the_noise_covers_passes():
    check(private(), POLICY, private=True)
    check(
        described(
            patients={"train": 60}, modalities={"ehr": "suppressed", "image": 0}, counted=False
        ),
        POLICY,
        private=True,
    )


UNCOVERED = {
    "an update that no ledger paid for": private(spent=None),
    "a training loss": private(loss=0.5),
    "the loss of the global model": private(initial_loss=0.5),
    "how gradients vary": private(gradient_variance=0.5),
    "patients by modality": private(patients={"ehr": 60, "image": 55}),
    "codes": prepared("LAB//50912"),
    "a count by modality": described(modalities={"image": 40}, counted=False),
    "a notice": described(notices={"image: not a DICOM file": 12}, counted=False),
    "counts called counted": described(modalities={"image": 0}),
}


@pytest.mark.parametrize("kind", UNCOVERED)
def test_what_the_noise_does_not_cover_does_not_pass(kind):
    with pytest.raises(GateClosed):
        check(UNCOVERED[kind], POLICY, private=True)


@pytest.fixture
def site(tmp_path, write_site):
    return load_site(write_site(tmp_path / "site", 2))


@pytest.fixture
def passed(site, make_study):
    """Return a function: what answers -> the status and all bytes that leave."""
    return lambda answer, at=site: leaves(answer, at, make_study())


def leaves(answer, site, study):
    records = guarded(lambda: released(answer(), site.policy, study)).to_records()
    content = recorddict_to_proto(records).SerializeToString()
    return Reply.from_records(records, TRAIN), content


def raising(error):
    def answer():
        raise error

    return answer


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError(SECRET)


ERRORS = {
    "any error": (ValueError(SECRET), "the site failed"),
    "key": (KeyError(SECRET), "the site failed"),
    "assertion": (AssertionError(SECRET), "the site failed"),
    "operating system": (FileNotFoundError(2, SECRET, SECRET), "the site failed"),
    "memory": (MemoryError(SECRET), "the site failed"),
    "another mistake": (NoUsableModel(SECRET), "the site failed"),
    "error without a text": (Unprintable(), "the site failed"),
    "the site's own mistake": (
        UserError(f"/data/{SECRET}/labels.parquet", SECRET, field=SECRET, remedy=SECRET),
        "the site's files need attention",
    ),
    "policy": (Refused(SECRET), "refused by the site's policy"),
    "budget": (
        BudgetSpent(SECRET),
        "the privacy budget of the site's patients does not allow it",
    ),
    "no patients": (TakesNoPart("no training patients"), "no training patients"),
    "gate": (GateClosed(SECRET), "the site failed"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_after_an_error_only_a_status_leaves(passed, kind, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    error, status = ERRORS[kind]
    reply, content = passed(raising(error))
    assert (reply.status, reply.body, reply.update) == (status, None, None)
    for word in SECRET.split():
        assert word.encode() not in content


def test_the_site_s_own_log_keeps_what_did_not_leave(passed, caplog):
    with caplog.at_level(logging.WARNING, "wardround.site"):
        passed(raising(ValueError(SECRET)))
        passed(raising(UserError("labels.parquet", "a column is missing")))
    assert SECRET in caplog.text
    assert "a column is missing" in caplog.text


@pytest.mark.parametrize("kind", [k for k in REFUSED if k != "update of another kind"])
def test_a_reply_that_the_gate_refuses_leaves_as_a_status_alone(passed, kind):
    reply, content = passed(lambda: REFUSED[kind])
    assert reply.status == "the site failed"
    assert b"Jane" not in content


def test_the_minimum_is_the_site_s_own_not_the_body_s(tmp_path, write_site, passed):
    site = load_site(write_site(tmp_path / "strict", 2, policy={"minimum_cell": 50}))
    reply, _ = passed(lambda: evaluated({"": cell(49)}), site)
    assert reply.status == "the site failed"


@pytest.mark.parametrize(
    ("count", "sent"), [(0, 0), (1, "suppressed"), (9, "suppressed"), (10, 10)]
)
def test_small_counts_are_suppressed_and_none_is_said_to_be_none(count, sent):
    assert suppressed(count, 10) == sent


def test_comparison_of_models_leaves_only_for_a_study_that_compares(make_study):
    with pytest.raises(GateClosed, match="does not ask"):
        released(compared(), POLICY, make_study())
    released(compared(), POLICY, make_study(evaluation={"baselines": ["local"]}))


def test_second_model_leaves_in_merged_bins_where_the_policy_merges():
    merged = PolicySection(minimum_cell=10, score_bins="merged")
    coarse = ScoreSummary.from_json(cell(30)).merged(10).to_json()
    fine, pair = cell(30), PairedBody(reference=coarse, correlation=0.5)
    body = EvaluateBody(cells={"": coarse}, withheld={}, paired=pair)
    check(Reply("ok", body), merged)
    with pytest.raises(GateClosed, match="occupied bin"):
        check(
            Reply(
                "ok",
                body.model_copy(update={"paired": PairedBody(reference=fine, correlation=0.5)}),
            ),
            merged,
        )
