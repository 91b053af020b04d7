"""The table of what a simulation made go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from federation.pages.elements import Table, Td
from server.report.documents import Round

_KINDS = {
    "dropped": "Dropped out",
    "crashed": "Crashed",
    "lost": "Reply lost",
    "duplicated": "Reply twice",
    "delays": "Delayed",
    "corrupted": "Damaged",
    "hostile": "Hostile",
    "skewed": "Clock wrong",
}


def faults_table(rounds: Sequence[Round]) -> Table:
    """In how many rounds each kind of fault struck each hospital; a column for each that did."""
    kinds = [kind for kind in _KINDS if any(kind in one.faults for one in rounds)]
    kinds += sorted({kind for one in rounds for kind in one.faults} - _KINDS.keys())
    sites = sorted({site for one in rounds for struck in one.faults.values() for site in struck})
    return Table(
        "Faults that were simulated, in rounds",
        ["Hospital", *(_KINDS.get(kind, kind) for kind in kinds)],
        [[Td(site), *(_struck(rounds, kind, site) for kind in kinds)] for site in sites],
        "They were declared in the study and drawn from its seed. What they did to the run is in "
        "the tables above.",
    )


def _struck(rounds: Sequence[Round], kind: str, site: str) -> Td:
    found = [one.faults[kind] for one in rounds if site in one.faults.get(kind, ())]
    told = [struck[site] for struck in found if isinstance(struck, dict)]
    seconds = [one for one in told if isinstance(one, int | float)]
    what = Counter(str(one) for one in told if isinstance(one, str))
    note = ", ".join(f"{name} {count}" for name, count in sorted(what.items()))
    if seconds:
        most = max(seconds, key=abs)
        shown = f"{most:,.0f}" if abs(most) >= 10 else f"{most:.2g}"
        note = f"up to {shown} s".replace("-", "−")
    return Td(str(len(found)), note)
