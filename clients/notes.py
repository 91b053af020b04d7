"""From a site's notes to words in numbers, for encoders that read those.

A word in the scope of a negation is another word: "no evidence of pneumonia" says the opposite of
"pneumonia", and an encoder that weighs words one by one could not tell.
Source of the scope: Chapman et al., "A simple algorithm for identifying negated findings and
diseases in discharge summaries", J Biomed Inform 2001, of which this is the forward half.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import numpy as np
import torch

from clients.cohort import Patients
from clients.features import ModalityTensor, newest_first
from federation.modalities import TextSection
from federation.models.words import PADDING, PIECES
from federation.vocabulary import bucket_of

CUT = "note: cut at the study's max_tokens"
NO_NOTE = "note: offered, but no event holds one"
SCOPE = 5
"""Words after a negation that it reaches, as in the source."""
WORDS_OR_ENDS = re.compile(r"\w+|[.;!?\n]")
TURNS = frozenset({"but", "however", "although", "except", "aber", "jedoch", "mais", "pero"})
"""Words at which a negation ends."""


def text_tensor(patients: Patients, section: TextSection, offered: bool) -> ModalityTensor:
    """Hash the words of each patient's notes, the newest note first.

    Returns:
        (patients, max_tokens, pieces) int64, as `federation.models.words` says.
    """
    tokens = np.full((len(patients), section.max_tokens, PIECES), PADDING, np.int64)
    used = np.zeros(len(patients), np.int64)
    shortened = np.zeros(len(patients), bool)
    rows, notes = newest_first(patients.events, "NOTE//") if offered else ([], [])
    known: dict[str, int] = {"": PADDING}
    for row, note in zip(rows, notes, strict=True):
        room = section.max_tokens - used[row]
        words = list(words_of(note, section.negations))
        shortened[row] |= len(words) > room
        for word in words[:room]:
            for i, piece in enumerate(word):
                if piece not in known:
                    known[piece] = 1 + bucket_of(piece, section.buckets)
                tokens[row, used[row], i] = known[piece]
            used[row] += 1
    cut = int(shortened.sum())
    unusable = {CUT: cut} if cut else {}
    if offered and not rows:
        unusable[NO_NOTE] = len(patients)
    return ModalityTensor(torch.from_numpy(tokens), torch.from_numpy(used > 0), unusable)


def words_of(note: str, negations: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield the pieces of each word: itself, with the next one, and three trigrams of it.

    In the scope of a negation, the word and the pair have "no" before them. Trigrams are what
    inflections and misspellings of a word share: its first, middle and last three letters.

    >>> list(words_of("No fever. Fever?", {"no"}))
    [('no', 'no fever', '', '', ''), ('no fever', '', '#fev', '#eve', '#ver'), \
('fever', '', '#fev', '#eve', '#ver')]
    """
    found = WORDS_OR_ENDS.findall(note.lower())
    left = 0
    for word, following in zip(found, [*found[1:], "."], strict=False):  # of no words too
        if not word[0].isalnum() and word[0] != "_":
            left = 0
            continue
        if word in TURNS:
            left = 0
        prefix = "no " if left else ""
        pair = f"{prefix}{word} {following}" if following[0].isalnum() else ""
        yield (prefix + word, pair, *_trigrams(word))
        left = SCOPE if word in negations else max(left - 1, 0)


def _trigrams(word: str) -> tuple[str, str, str]:
    if len(word) < 4:
        return "", "", ""
    middle = (len(word) - 3) // 2
    return f"#{word[:3]}", f"#{word[middle : middle + 3]}", f"#{word[-3:]}"
