"""Who took part in which round, who failed and why."""

from __future__ import annotations

from collections.abc import Sequence

from federation.pages.elements import COLOURS, FILL, Figure, Part, Section, Table, Td, Text, axes
from server.report.documents import Round
from server.report.run_folder import RunFolder
from server.report.sections.faults import faults_table


def participation(run: RunFolder) -> Section | None:
    """By round as a figure, by hospital as a table, and every failure with its reason."""
    if not run.rounds:
        return None
    parts: list[Part] = [participation_figure(run.rounds), participation_table(run.rounds)]
    failures, faults = failures_table(run.rounds), faults_table(run.rounds)
    if failures.rows:
        parts.append(failures)
    else:
        parts.append(Text("No hospital failed and no update was rejected.", note=True))
    if faults.rows:
        parts.append(faults)
    return Section("participation", "Participation and failures", parts)


def participation_figure(rounds: Sequence[Round]) -> Figure:
    """Hospitals by what became of them in each round: stacked bars, told apart by pattern too."""
    numbers = [one.round for one in rounds]
    counts = {
        "Answered": [len(one.answered) for one in rounds],
        "Failed": [len(one.failed) for one in rounds],
        "Rejected": [len(one.rejected) for one in rounds],
    }
    looks = {"Answered": (FILL, ""), "Failed": (COLOURS[1], "x"), "Rejected": (COLOURS[4], "\\")}
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": numbers,
            "y": values,
            "marker": {"color": looks[name][0], "pattern": {"shape": looks[name][1]}},
            "hovertemplate": "round %{x}: %{y}",
        }
        for name, values in counts.items()
    ]
    layout = axes("Round", "Hospitals", height=300) | {"barmode": "stack", "bargap": 0.15}
    layout["yaxis"] |= {"rangemode": "tozero", "tickformat": "d"}
    troubled = sum(bool(one.failed or one.rejected) for one in rounds)
    words = f"in {troubled} rounds one failed or was rejected" if troubled else "none failed"
    rows = [
        [
            Td(str(one.round)),
            Td(str(len(one.asked))),
            *(Td(str(counts[name][k])) for name in counts),
        ]
        for k, one in enumerate(rounds)
    ]
    return Figure(
        "participation-by-round",
        "Hospitals by round",
        f"Hospitals that answered, failed or were rejected in each of {len(rounds)} rounds; "
        f"{words}.",
        {"data": traces, "layout": layout},
        Table("Hospitals by round", ["Round", "Asked", *counts], rows),
    )


def participation_table(rounds: Sequence[Round]) -> Table:
    """How often each hospital was asked and answered."""
    sites = sorted({site for one in rounds for site in (*one.asked, *one.answered, *one.failed)})
    rows = []
    for site in sites:
        counts = [
            sum(site in getattr(one, part) for one in rounds)
            for part in ("asked", "answered", "failed", "rejected")
        ]
        rows.append([Td(site), *(Td(str(count)) for count in counts)])
    return Table(
        "Participation by hospital, in rounds",
        ["Hospital", "Asked", "Answered", "Failed", "Rejected"],
        rows,
    )


def failures_table(rounds: Sequence[Round]) -> Table:
    """Every failure and every rejected update, with its reason."""
    rows = [
        [Td(str(one.round)), Td(site, look="text"), Td(kind, look="text"), Td(why, look="text")]
        for one in rounds
        for kind, reasons in (("failed", one.failed), ("rejected", one.rejected))
        for site, why in sorted(reasons.items())
    ]
    return Table("Failures and rejected updates", ["Round", "Hospital", "What", "Reason"], rows)
