"""Drift: how patients and figures changed over windows of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from federation.pages.elements import TOTAL, Folded, Part, Section, Table, Td, Text
from server.report.documents import Drift, DriftOf, DriftWindow
from server.report.run_folder import RunFolder
from server.report.text import ALL, metric_text, number, plain, withheld

MEASURES = {
    "scores": "scores",
    "prevalence": "share with the outcome",
    "auroc": "AUROC",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}
INPUT = "input:"
OF_RUN = "The federated model on held-out patients, by window of time"


def drift(run: RunFolder) -> Section | None:
    """Each window of all hospitals and of each, and how far its inputs moved."""
    found = run.metrics.drift
    if found is None:
        return None
    scopes = {**({ALL: found.overall} if found.overall else {}), **found.sites}
    shown = windows_table(scopes, OF_RUN, f"Alarm: {found.rule}.")
    parts: list[Part] = [Text(_how(found)), shown]
    inputs = inputs_table(scopes)
    if inputs.rows:
        parts.append(Folded("Inputs by window", [inputs]))
    return Section("drift", "Drift over time", parts)


def windows_table(scopes: Mapping[str, DriftOf], caption: str, note: str, first: str = "") -> Table:
    """Every window of every scope, against its reference.

    Args:
        scopes: windows by whose patients they are of.
        caption: of the table.
        note: the rule of the alarm.
        first: what to call the reference; empty for its number.
    """
    rows = []
    for name, one in scopes.items():
        for number_, window in _ordered(one.windows):
            is_reference = number_ == one.reference
            label = first if first and is_reference else str(number_)
            head = [
                Td(name, look=TOTAL if name == ALL else ""),
                Td(label, "the reference" if is_reference and not first else ""),
            ]
            rows.append([*head, *_figures(window, is_reference, one.reason)])
    return Table(
        caption,
        [
            *("Hospital", "Window", "Patients", "With the outcome", "AUROC"),
            *("Calibration slope", "Calibration intercept", "PSI", "Alarm"),
        ],
        rows,
        f"PSI is of the scores, against the hospital's reference. {note}",
    )


def inputs_table(scopes: Mapping[str, DriftOf]) -> Table:
    """The population stability of every input, the least stable first."""
    found = [
        (change, name, number_, measure.removeprefix(INPUT))
        for name, one in scopes.items()
        for number_, window in _ordered(one.windows)
        for measure, change in window.changes.items()
        if measure.startswith(INPUT)
    ]
    found.sort(key=lambda row: (-(row[0].value or 0.0), *row[1:]))
    return Table(
        "Inputs by window: no value, below, within or above the reference range",
        ["Hospital", "Window", "Input", "PSI", "Alarm"],
        [
            [
                Td(name),
                Td(str(number_)),
                Td(code, look="text"),
                plain(change.value, 2),
                Td("yes" if change.alarm else "no", look="text"),
            ]
            for change, name, number_, code in found
        ],
    )


def alarms(window: DriftWindow) -> list[str]:
    """What raised an alarm in a window, in words."""
    return [
        MEASURES.get(measure, measure.removeprefix(INPUT))
        for measure, change in window.changes.items()
        if change.alarm
    ]


def _how(found: Drift) -> str:
    edges = found.windows.get("edges") or ()
    if edges:
        dates = ", ".join(str(edge) for edge in edges)
        return f"Windows of the calendar, the same at all hospitals, parted at {dates}."
    return (
        f"Each hospital's own patients in the order of their times, in "
        f"{found.windows.get('number')} windows; window 1 is the oldest."
    )


def _figures(window: DriftWindow, is_reference: bool, reason: str) -> Iterable[Td]:
    if window.suppressed:
        return [withheld(window.suppressed, 7)]
    share = window.prevalence.value if window.prevalence else None
    note = "" if share is None else f"{100 * share:.0f}%"
    scores, raised = window.changes.get("scores"), alarms(window)
    if is_reference or scores is None:
        last = [Td("–", reason), Td("–", look="text")]
    else:
        last = [plain(scores.value, 2), Td(", ".join(raised) or "no", look="text")]
    return [
        number(window.n),
        Td("–" if window.positives is None else f"{window.positives:,}", note),
        metric_text(window.auroc),
        metric_text(window.calibration_slope, 2),
        metric_text(window.calibration_intercept, 2),
        *last,
    ]


def _ordered(windows: Mapping[str, DriftWindow]) -> Iterator[tuple[int, DriftWindow]]:
    for number_ in sorted(map(int, windows)):
        yield number_, windows[str(number_)]
