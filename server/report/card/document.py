"""The model card as JSON and as Markdown."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from federation.pages.elements import Table, Td
from server.report.card.answers import ANSWERS, given_answers, known_answers, who_answers
from server.report.card.change import Change, kept
from server.report.card.questions import CHAI, TRIPOD_AI, Question
from server.report.documents import Cell
from server.report.run_folder import RunFolder
from server.report.sections.comparators import comparators_table
from server.report.sections.data import characteristics_table, patients_table
from server.report.sections.decisions import decision_table, gap_table
from server.report.sections.hospitals import sites_table
from server.report.sections.outcomes import outcomes
from server.report.sections.privacy import privacy_table
from server.report.sections.subgroups import subgroups_table
from server.report.sections.survival import survival
from server.report.several import runs_of_tasks
from server.report.text import METRICS, metric_text, shown

HERE = Path(__file__).parent
SCHEMA = "wardround.model-card/1"
NOT_GIVEN = "not given"


def write_card(run: RunFolder) -> tuple[Path, Path]:
    """Write model_card.json and model_card.md into the run folder.

    Both are the same for the same run folder. What only people know is marked as not given, until
    they write it into ``model_card_answers.toml`` there.

    Raises:
        UserError: if that file, or the kept comparison, is broken.
    """
    card = card_document(run, given_answers(run.path), kept(run.path))
    as_json, as_text = run.path / "model_card.json", run.path / "model_card.md"
    as_json.write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    as_text.write_text(markdown(card, run), encoding="utf-8")
    return as_json, as_text


def card_document(run: RunFolder, given: dict[str, str], change: Change | None) -> dict[str, Any]:
    """The card as plain values.

    Args:
        run: what the run itself answers comes from.
        given: answers of people, by key.
        change: since the predecessor, where there is one.
    """
    known = known_answers(run)

    def item(question: Question) -> dict[str, Any]:
        answers = [_answer(key, known, given) for key in question.keys]
        numbered = {"item": question.number} if question.number else {}
        return {**numbered, "title": question.title, "answers": answers}

    return {
        "schema": SCHEMA,
        "study": run.metrics.study,
        "fingerprint": run.metrics.fingerprint,
        "chai": {part: [item(one) for one in asked] for part, asked in CHAI.items()},
        "performance": _performance(run),
        "tripod_ai": [item(one) for one in TRIPOD_AI],
        "change_control": None if change is None else change.model_dump(),
        "reproduce": {
            "seed": run.metrics.seed,
            "environment": run.environment,
            "command": "wardround simulate study.toml --sites FOLDER --out RUN"
            if run.environment.get("grid") != "superlink"
            else "wardround submit study.toml --server DIR",
            "study": "study.toml of the run folder, with every default",
        },
    }


def markdown(card: dict[str, Any], run: RunFolder) -> str:
    """The card as Markdown, with the tables of the report."""
    model = run.model
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False,  # Markdown: `text` escapes
    )  # fmt: skip
    environment.filters["text"] = lambda value: escaped(shown(value))
    return environment.get_template("model_card.md.jinja").render(
        card=card,
        answers_file=ANSWERS,
        performance="\n".join(_table(one) for one in _performance_tables(run) if one.rows),
        data="\n".join(
            _table(t) for t in (characteristics_table(model), patients_table(run.sites))
        ),
        spending=_table(privacy_table(run.privacy)),
        settings=_table(_changed_table("Settings of the study", card, "settings")),
        versions=_table(_changed_table("Versions", card, "versions")),
        differences=_table(_difference_table(card)),
    )


def escaped(text: Any) -> str:
    """Text that is neither markup nor a table's border, in one line.

    >>> escaped("a|<b>")
    'a\\\\|&lt;b&gt;'
    """
    one_line = " ".join(html.escape(str(text), quote=False).split())
    for sign in "\\`*[]|":
        one_line = one_line.replace(sign, f"\\{sign}")
    return one_line


def _answer(key: str, known: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    found = " ".join(one for one in (known.get(key, ""), given.get(key, "")) if one)
    if found:
        return {"key": key, "answer": found, "by": "people" if key in given else "the run"}
    return {"key": key, "missing": f"{NOT_GIVEN}: to be filled by {who_answers(key)}"}


def _performance_tables(run: RunFolder) -> list[Table]:
    """The report's own tables of how well the model does."""
    if each := runs_of_tasks(run):
        return [
            replace(table, caption=f"{name}: {table.caption}")
            for name, one in each.items()
            for table in _performance_tables(one)
        ]
    model = run.model
    if run.task != "binary":
        shown = (outcomes(run), survival(run))
        return [table for section in shown if section for table in section.tables]
    return [
        sites_table(model),
        subgroups_table(model),
        decision_table(model),
        gap_table(model),
        comparators_table(run.metrics.models),
    ]


def _performance(run: RunFolder) -> dict[str, Any]:
    """Overall, by hospital and by subgroup; of tasks that have other cells, those as they are."""
    model, kept_keys = run.model, {"n", "positives", "suppressed", "excludes", "at_threshold"}
    if run.task != "binary":
        found = run.document["models"][run.main]
        return {part: found[part] for part in ("overall", "sites", "subgroups")}

    def cell(one: Cell) -> dict[str, Any]:
        shown: dict[str, Any] = one.model_dump(
            include={*kept_keys, *METRICS}, exclude_defaults=True
        )
        return shown

    return {
        "overall": cell(model.overall),
        "sites": {name: cell(one) for name, one in sorted(model.sites.items())},
        "subgroups": {name: cell(one) for name, one in sorted(model.subgroups.items())},
    }


def _changed_table(title: str, card: dict[str, Any], part: str) -> Table:
    changed = (card["change_control"] or {}).get(part, [])
    rows = [[Td(one["key"]), Td(one["before"]), Td(one["after"])] for one in changed]
    return Table(title, ["What", "Before", "Now"], rows)


def _difference_table(card: dict[str, Any]) -> Table:
    change = card["change_control"]
    found = Change.model_validate(change).differences if change else []
    rows = [
        [
            Td(one.group, "paired" if one.paired else ""),
            Td(one.metric),
            *map(metric_text, (one.before, one.after, one.difference)),
        ]
        for one in found
    ]
    return Table("Metrics", ["Patients of", "Metric", "Before", "Now", "Difference"], rows)


def _table(table: Table) -> str:
    """A table of the report in Markdown; empty without rows."""
    if not table.rows:
        return ""
    width = len(table.columns)
    lines = [f"**{escaped(table.caption)}**", "", _line(map(escaped, table.columns))]
    lines.append(_line(["---"] * width))
    lines += [_line(_cells(row, width)) for row in table.rows]
    return "\n".join([*lines, "", *([escaped(table.note), ""] if table.note else [])])


def _cells(row: Sequence[Td], width: int) -> list[str]:
    cells = [escaped(f"{td.text} ({td.note})" if td.note else td.text) for td in row]
    return cells + [""] * (width - len(cells))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
