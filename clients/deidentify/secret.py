"""Pseudonyms, unique identifiers and shifted dates: each follows from the original and a key.

The key is the site's patient key, which never leaves its state folder. So a patient's files agree
with each other and with those of a later run, and nobody without the key can go back.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

FEWEST_DAYS, MOST_DAYS = 366, 3660
STANDARD_UIDS = "1.2.840.10008."


@dataclass(frozen=True)
class Secret:
    """What replaces the identifiers of one site.

    >>> secret = Secret(b"k" * 32)
    >>> secret.patient("Doe") == secret.patient("Doe") != secret.patient("Roe")
    True
    """

    key: bytes = field(repr=False)

    def patient(self, name: str) -> str:
        """Return a pseudonym: 16 hexadecimal digits."""
        return self._digest("patient", name).hex()[:16].upper()

    def subject(self, name: str) -> int:
        """Return a pseudonym as a subject id: 62 bits, not negative."""
        return int.from_bytes(self._digest("subject", name)[:8], "big") >> 2

    def uid(self, uid: str) -> str:
        """Return another UID, equal for equal ones; those that the standard defines stay.

        Source: DICOM PS3.5 B.2 (UIDs made of 128 bits).
        """
        if not uid or uid.startswith(STANDARD_UIDS):
            return uid
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def shift(self, patient: str) -> timedelta:
        """Return by how many whole days a patient's dates go back: from one year to ten."""
        number = int.from_bytes(self._digest("days", patient)[:8], "big")
        return timedelta(days=FEWEST_DAYS + number % (MOST_DAYS - FEWEST_DAYS + 1))

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self.key, f"deidentify/{purpose}/{text}".encode(), hashlib.sha256)


def shifted(value: str, vr: str, back: timedelta) -> str:
    """Return a DICOM date (DA), date and time (DT) or time (TM) that lies a number of days back.

    Whole days are taken, so times of day and what lies between two dates stay as they are.

    Raises:
        ValueError: if it is no date of the standard or of ACR-NEMA's (``2024.01.31``).

    >>> shifted("20240131", "DA", timedelta(days=31)), shifted("202401311530", "DT", timedelta(1))
    ('20231231', '202401301530')
    """
    text = value.strip()
    if vr == "TM" or not text:
        return text
    digits = text.replace(".", "", 2) if vr == "DA" else text
    if len(digits) < 8 or not digits[:8].isdigit():
        raise ValueError("not a whole date")
    moved: date = datetime.strptime(digits[:8], "%Y%m%d").date() - back
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}" + (digits[8:] if vr == "DT" else "")
