"""Admission and discharge notes of synthetic patients.

A note mentions concepts; each has one wording per style, and a hospital mixes the styles in its
own proportions. So hospitals differ in vocabulary, and still share most of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STYLES = ("formal", "abbreviated", "plain")

# Concepts that grow likelier with the history latent; the wording by style.
HISTORY: tuple[tuple[str, str, str], ...] = (
    ("congestive heart failure", "CHF", "heart failure"),
    ("home oxygen therapy", "home O2", "oxygen at home"),
    ("recurrent admissions", "freq admissions", "frequent admissions this year"),
    ("marked frailty", "frailty", "frailty"),
    ("chronic kidney disease", "CKD", "kidney disease"),
    ("immunosuppression", "immunosupp", "immunosuppression from steroids"),
    ("chronic obstructive pulmonary disease", "COPD", "emphysema"),
    ("acute confusion", "confusion", "new confusion"),
    ("reduced mobility", "poor mobility", "trouble walking"),
    ("unintentional weight loss", "wt loss", "weight loss"),
)
# Concepts that say nothing about the outcome.
UNRELATED: tuple[tuple[str, str, str], ...] = (
    ("hypertension", "HTN", "high blood pressure"),
    ("osteoarthritis", "OA", "arthritis"),
    ("gastro-oesophageal reflux", "GORD", "reflux"),
    ("penicillin allergy", "pen allergy", "allergy to penicillin"),
    ("tobacco use", "smoking", "smoking"),
    ("cataract surgery", "cataract op", "cataract surgery"),
)
_COMPLAINTS = (
    ("shortness of breath", "SOB", "breathlessness"),
    ("chest discomfort", "CP", "chest pain"),
    ("productive cough", "cough", "cough with sputum"),
    ("pyrexia", "fever", "fever"),
)
_OPENINGS = ("Admitted with", "Adm with", "Came in with")
_NEGATIONS = ("no evidence of", "no", "denies")
_CLOSINGS = ("Plan: admit for monitoring.", "Obs, bloods, CXR.", "Admit and observe overnight.")


def admission_note(
    rng: np.random.Generator, history: float, styles: Sequence[float], *, strength: float
) -> str:
    """Write what the admitting doctor noted.

    A related concept is affirmed with probability sigmoid(strength * history - 0.7); one that is
    not is denied in two of five notes and otherwise left out.

    Args:
        rng: of this note.
        history: the history latent c.
        styles: probability of each of `STYLES` at the hospital.
        strength: how fast mentions grow with the latent.

    Returns:
        One line of text.

    >>> admission_note(np.random.default_rng(3), 2.0, (1, 0, 0), strength=1.4)[:38]
    'Admitted with chest discomfort. reduce'
    """
    cut = np.cumsum(styles)
    concepts = HISTORY + UNRELATED
    style = np.minimum(np.searchsorted(cut, rng.random(len(concepts) + 2)), len(STYLES) - 1)
    likely = np.full(len(concepts), 0.3)
    likely[: len(HISTORY)] = 1 / (1 + np.exp(0.7 - strength * history))
    affirmed = rng.random(len(concepts)) < likely
    denied = rng.random(len(concepts)) < 0.3
    said = [
        concepts[i][style[i]] if affirmed[i] else f"{_NEGATIONS[style[i]]} {concepts[i][style[i]]}"
        for i in rng.permutation(len(concepts))
        if affirmed[i] or denied[i]
    ]
    complaint = _COMPLAINTS[int(rng.integers(len(_COMPLAINTS)))][style[-2]]
    middle = f" {', '.join(said)}." if said else ""
    return f"{_OPENINGS[style[-2]]} {complaint}.{middle} {_CLOSINGS[style[-1]]}"


def discharge_note(*, deteriorated: bool, died: bool) -> str:
    """Write what is known only after the outcome: a trap for a reader that does not cut at time."""
    if died:
        return "Deteriorated on the ward and died despite treatment."
    if deteriorated:
        return "Deteriorated on the ward, transferred to intensive care, since recovered."
    return "Uneventful stay, discharged home."
