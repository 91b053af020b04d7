"""Summaries of several outcomes: what they hold, what is withheld, what nobody can recover."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from federation.metrics.outcomes import Agreement, OutcomesSummary
from federation.tasks import MulticlassTask

GRADES = MulticlassTask(label="grade", classes=("mild", "worse", "worst"))


def scored(count, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet([2, 1, 1], count)
    labels = np.array([rng.choice(3, p=row) for row in scores], np.float32)
    return scores, labels


def test_each_class_is_summarised_against_the_others():
    from sklearn.metrics import confusion_matrix

    scores, labels = scored(80)
    found = GRADES.summarise(scores, labels)
    assert {name: one.positives for name, one in found.outcomes.items()} == {
        name: int((labels == k).sum()) for k, name in enumerate(GRADES.classes)
    }
    expected = confusion_matrix(labels, scores.argmax(1), labels=[0, 1, 2])
    assert np.array_equal(found.agreement.counts[:, :-1], expected)
    again = OutcomesSummary.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json()


@settings(max_examples=80)
@given(counts=st.lists(st.integers(0, 30), min_size=9, max_size=9), minimum=st.integers(2, 10))
def test_no_small_predicted_class_leaves_or_follows_by_subtraction(counts, minimum):
    table = np.array(counts).reshape(3, 3)
    assume(table.sum() >= minimum)
    exact = Agreement(np.pad(table, ((0, 0), (0, 1))), int(np.trace(table)))
    told = exact.merged(minimum)
    sizes = told.counts.sum(axis=0)
    assert not ((sizes > 0) & (sizes < minimum)).any()
    assert told.counts.sum(axis=1).tolist() == table.sum(axis=1).tolist()
    hidden = [k for k in range(3) if sizes[k] == 0 and table[:, k].any()]
    small = [k for k in hidden if table[:, k].sum() < minimum]
    # what is withheld is more than one class, or one that is no secret
    assert not small or len(hidden) > 1 or table[:, hidden].sum() >= minimum


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "correct": 9},
        {"counts": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "correct": 3},
        {"counts": [[-1, 0, 0, 0]] * 3, "correct": 0},
        {"counts": "free text", "correct": 0},
        {"counts": [[1, 0, 0, 0]] * 3, "correct": 1, "names": ["A. Patient"]},
    ],
)
def test_agreement_that_cannot_be_is_refused(change):
    scores, labels = scored(40)
    document = GRADES.summarise(scores, labels).to_json()
    with pytest.raises(ValueError, match=r"agreement|right|whole"):
        OutcomesSummary.from_json({**document, "agreement": change})


@pytest.mark.parametrize("reason", ["Mrs A. was too ill", "fewer than 0 patients"])
def test_free_text_is_no_reason(reason):
    with pytest.raises(ValueError, match="reason"):
        OutcomesSummary.from_json({"outcomes": {}, "withheld": {"mild": reason}})
