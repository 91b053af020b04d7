"""The report of a sweep: one HTML file that needs nothing but a browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from federation.pages.elements import Fact
from federation.pages.render import render as from_template
from simulations.sweeps import plots, tables
from simulations.sweeps.folder import REPORT, TRIALS
from simulations.sweeps.results import SITE, SUBGROUP, Results, Summary
from simulations.sweeps.settings import MECHANISM

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Link:
    """A trial and where its own report lies, relative to the page."""

    text: str
    target: str


def write_page(results: Results, file: Path) -> None:
    """Write the page; it is the same for the same trials.

    The page carries plotly.js once and forbids itself the network.
    """
    draft = file.with_name(f".{file.name}")
    draft.write_text(render(results), encoding="utf-8")
    draft.replace(file)


def render(results: Results) -> str:
    """The page as text."""
    plan = results.plan
    return from_template(
        HERE / "sweep.html.jinja",
        title=plan.name,
        rank=results.rank,
        lead=lead(results),
        facts=facts(results),
        seeds=plan.seeds,
        private=any(one.no_dp for one in plan.settings),
        two_units=len(set(map(str, plan.grid.get(MECHANISM, ())))) > 1,
        auroc=plots.auroc_figures(results),
        calibration=plots.calibration_figures(results),
        hospitals=tables.pays_tables(results, SITE, "hospital"),
        subgroups=tables.pays_tables(results, SUBGROUP, "subgroup"),
        settings=tables.settings_table(results),
        failed=tables.failed_table(results),
        links=[
            Link(row.trial.name, f"{TRIALS}/{row.trial.name}/{REPORT}")
            for row in results.rows
            if row.values is not None
        ],
    )


def lead(results: Results) -> str:
    """What was varied, in a sentence or two."""
    plan = results.plan
    varied = " and ".join(
        f"{key} ({', '.join(tables.value_text(value) for value in values)})"
        for key, values in plan.grid.items()
    )
    study = plan.trials[0].study
    outcome = study.task.label.replace("_", " ")
    seeds = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "one seed"
    deltas = {t.study.privacy.delta for t in plan.trials if t.study.privacy.mechanism != "none"}
    private = ""
    if deltas:
        told = " or ".join(f"{delta:g}" for delta in sorted(deltas))
        private = (
            f" Epsilon is at δ = {told}. The noise is seeded, so that runs repeat: they show what "
            "privacy costs, and protect nobody."
        )
    return (
        f"The study {study.study.name}, which predicts {outcome}, was run with every combination "
        f"of {varied}, each with the same {seeds}: {len(results.rows)} runs. All figures are for "
        f"held-out patients.{private}"
    )


def facts(results: Results) -> list[Fact]:
    """The first screen: the reference, the extremes, and how many runs there are."""
    known = [one for one in results.summaries if _auroc(one) is not None]
    ok = len(results.rows) - len(results.failed)
    count = Fact("Runs", f"{ok}", f"of {len(results.rows)} succeeded.")
    if not known:
        return [count]
    best, worst = max(known, key=_order), min(known, key=_order)
    chosen = results.plan.reference(results.plan.settings[0])
    reference = next((one for one in known if one.setting is chosen), known[0])
    return [
        _fact("Reference", reference),
        _fact(f"Highest {results.rank}", best),
        _fact(f"Lowest {results.rank}", worst),
        count,
    ]


def _fact(name: str, one: Summary) -> Fact:
    shown = tables.mean_text(one.means["auroc"])
    interval = f"95% interval {shown.note}" if one.means["auroc"].low is not None else shown.note
    return Fact(name, shown.text, f"{one.setting.label}; {interval}")


def _auroc(one: Summary) -> float | None:
    return one.means["auroc"].value if "auroc" in one.means else None


def _order(one: Summary) -> float:
    value = _auroc(one)
    assert value is not None
    return value
