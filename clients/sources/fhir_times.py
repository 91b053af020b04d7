"""FHIR dates and times as the local clock that they show."""

from __future__ import annotations

import calendar
import re
from datetime import datetime

from clients.sources.parsing import END_OF_DAY, micros_of

PATTERN = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?"
    r"(?:Z|[+-]\d\d:\d\d)?)?)?)?"
)


def micros(written: object, early: bool = False) -> int | None:
    """Return a dateTime, date or instant in microseconds since 1970; None if it is none.

    The clock time as written counts, whatever its offset from UTC: MEDS holds local times. Of a
    date, a month or a year it is the last moment, so that nothing is known before it can have
    been; with ``early`` the first.

    >>> micros("1970-01-01T00:00:01-05:00"), micros("1970-01-01", early=True)
    (1000000, 0)
    """
    found = PATTERN.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction = found.groups()
    try:
        if hour is not None:
            at = datetime(
                int(year),
                int(month),
                int(day),
                int(hour),
                int(minute),
                min(int(second or 0), 59),  # a leap second
                int((fraction or "0")[:6].ljust(6, "0")),
            )
            return micros_of(at)
        number = int(month or (1 if early else 12))
        last = 1 if early else calendar.monthrange(int(year), number)[1]
        start = micros_of(datetime(int(year), number, int(day or last)))
    except ValueError:  # the thirtieth of February, the year 0
        return None
    return start if early else start + int(END_OF_DAY)
