"""What a sweep leaves for other programs: results.csv, summary.csv and results.json."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulations.sweeps.folder import write_json
from simulations.sweeps.results import Mean, Results, Row, Summary
from simulations.sweeps.settings import shown_value

Named = Callable[[str], str]


def write_results(results: Results, out: Path) -> None:
    """Write results.csv, summary.csv and results.json."""
    documents = [_row_document(row, results.column) for row in results.rows]
    keys = list(results.plan.grid)
    told = ["seed", "status", "reason", "seconds", "worst_site", "worst_subgroup"]
    named = map(results.column, results.names)
    _write_csv(out / "results.csv", ["trial", *keys, *told, *named], documents)
    summaries = [_summary_document(one, results.column) for one in results.summaries]
    columns = [c for n in results.names for c in _columns(results.column(n))]
    _write_csv(
        out / "summary.csv",
        ["setting", *keys, "seeds", "failed", "reference", *columns],
        [_wide(one, results.column) for one in results.summaries],
    )
    write_json(
        out / "results.json",
        {
            "schema": "wardround.sweep/1",
            "name": results.plan.name,
            "grid": {k: [_plain(v) for v in values] for k, values in results.plan.grid.items()},
            "seeds": list(results.plan.seeds),
            "trials": documents,
            "settings": summaries,
        },
    )


def _row_document(row: Row, named: Named) -> dict[str, Any]:
    return {
        "trial": row.trial.name,
        **{key: _plain(value) for key, value in row.trial.setting.values.items()},
        "seed": row.trial.seed,
        "status": "failed" if row.values is None else "ok",
        "reason": row.reason,
        "seconds": row.seconds,
        "worst_site": row.worst_site,
        "worst_subgroup": row.worst_subgroup,
        **{named(name): value for name, value in (row.values or {}).items()},
    }


def _plain(value: Any) -> Any:
    """A grid value as JSON and a cell can hold it; infinity has no number in JSON."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite and isinstance(value, str | int | float) else shown_value(value)


def _mean_document(mean: Mean) -> dict[str, float | int | None]:
    return {"value": mean.value, "low": mean.low, "high": mean.high, "seeds": mean.seeds}


def _summary_document(one: Summary, named: Named) -> dict[str, Any]:
    return {
        "setting": one.setting.slug,
        **{key: _plain(value) for key, value in one.setting.values.items()},
        "seeds": one.ok,
        "failed": one.failed,
        "reference": one.reference.slug,
        "means": {named(name): _mean_document(mean) for name, mean in one.means.items()},
        "differences": {named(n): _mean_document(mean) for n, mean in one.differences.items()},
    }


def _columns(name: str) -> list[str]:
    return [f"{name}{part}" for part in ("", "_low", "_high", "_diff", "_diff_low", "_diff_high")]


def _wide(summary: Summary, named: Named) -> dict[str, Any]:
    document = _summary_document(summary, named)
    for name, mean in summary.means.items():
        difference = summary.differences.get(name, Mean())
        numbers = [n for one in (mean, difference) for n in (one.value, one.low, one.high)]
        document |= dict(zip(_columns(named(name)), numbers, strict=True))
    return document


def _write_csv(file: Path, columns: Sequence[str], documents: Iterable[Mapping[str, Any]]) -> None:
    draft = file.with_name(f".{file.name}")
    with draft.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(documents)
    draft.replace(file)
