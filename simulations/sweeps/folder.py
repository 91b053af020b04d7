"""The folder of a sweep: its trials' run folders, and whether it may be continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clients.site import find_sites, load_site
from federation.errors import UserError
from federation.study import Study, load_study
from simulations.sweeps.plan import Plan, Trial
from simulations.sweeps.populations import Population, write_population
from simulations.sweeps.settings import shown_value

MANIFEST, TRIALS, FAILED, REPORT = "sweep.json", "trials", "failed.json", "report.html"
REMEDY = "Give another --out, or the sweep as it was. Further seeds and values may be added."


def prepare_folder(out: Path, plan: Plan, tell: Callable[[str], None]) -> dict[str, Path]:
    """Make the folder of a sweep, or check that the sweep there may be continued.

    Returns:
        The folder of the sites by name of the population: synthesized or reshaped into the
        sweep's folder where the plan says so.

    Raises:
        UserError: if the folder holds something else, or a sweep that differs in more than added
            seeds and values; if the sites cannot be used.
    """
    manifest = _manifest(plan)
    if (out / MANIFEST).is_file():
        check_continues(out / MANIFEST, manifest)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            out, "is in use: expected a new or empty folder, or this sweep's", remedy=REMEDY
        )
    if plan.sites is not None:
        _check_sites(plan.sites, plan)
    try:
        (out / TRIALS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(out, f"cannot be made: {error.strerror}") from None
    write_json(out / MANIFEST, manifest)
    return {name: _sites(one, out, plan, tell) for name, one in plan.populations.items()}


def check_continues(file: Path, now: Mapping[str, Any]) -> None:
    """Refuse a sweep that is not the one of the folder with seeds or values added.

    Raises:
        UserError: saying what differs.
    """
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        differences = list(_differences(before, now))
        same = before["fingerprints"].items() <= now["fingerprints"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(file, "it is damaged", remedy="Give another --out.") from None
    if not (differences or same):  # another version of this software resolves it differently
        differences = ["its studies resolve differently now"]
    if differences:
        raise UserError(
            file, f"another sweep was run here: {'; '.join(differences)}", remedy=REMEDY
        )


def is_finished(folder: Path, study: Study) -> bool:
    """Whether a trial's run folder is complete and of this study."""
    if not (folder / REPORT).is_file():  # written last
        return False
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(metrics["fingerprint"] == study.fingerprint)


def is_resumable(folder: Path, study: Study) -> bool:
    """Whether a trial that was cut short has a checkpoint of this study."""
    if not any((folder / "checkpoints").glob("round-*")):
        return False
    try:
        return load_study(folder / "study.toml").fingerprint == study.fingerprint
    except UserError:
        return False


def trial_folder(out: Path, trial: Trial) -> Path:
    """Return a trial's run folder."""
    return out / TRIALS / trial.name


def write_json(file: Path, document: Any) -> None:
    """Write a document whole or not at all; numbers that are not finite are a bug and raise."""
    draft = file.with_name(f".{file.name}")
    draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(file)


def _sites(population: Population, out: Path, plan: Plan, tell: Callable[[str], None]) -> Path:
    if population.shifts is None and plan.sites is not None:
        return plan.sites
    folder = out / "sites" / population.name
    arguments = {} if plan.synthetic is None else plan.synthetic.arguments()
    write_population(population, folder, plan.sites, arguments, plan.task, tell)
    _check_sites(folder, plan)
    return folder


def _manifest(plan: Plan) -> dict[str, Any]:
    """What a sweep is: for the folder, and to tell later whether it is still the same."""
    synthetic = plan.synthetic and plan.synthetic.model_dump()
    return {
        "schema": "wardround.sweep-plan/1",
        "name": plan.name,
        "sites": {"path": str(plan.sites)} if plan.sites else {"synthetic": synthetic},
        "shifts": {
            "file": plan.shifts,
            "populations": {name: one.text for name, one in plan.populations.items()},
        },
        "set": {key: shown_value(value) for key, value in plan.fixed.items()},
        "grid": {key: [shown_value(v) for v in values] for key, values in plan.grid.items()},
        "seeds": list(plan.seeds),
        "study": {key: shown_value(value) for key, value in _flat(plan.base)},
        "fingerprints": {trial.name: trial.study.fingerprint for trial in plan.trials},
    }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["sites"] != now["sites"]:
        yield f"sites: {_told(before['sites'])} before, {_told(now['sites'])} now"
    old_shifts, new_shifts = before["shifts"], now["shifts"]
    if old_shifts["file"] != new_shifts["file"]:
        yield f"shifts: {old_shifts['file']} before, {new_shifts['file']} now"
    for name, text in old_shifts["populations"].items():
        if new_shifts["populations"].get(name, text) != text:
            yield f"the shifts of the sites {name} are other ones now"
    yield from _changed("set.", before["set"], now["set"])
    for key in before["grid"].keys() | now["grid"].keys():
        old, new = before["grid"].get(key), now["grid"].get(key)
        if old is None or new is None:
            yield f"grid.{key}: only {'now' if old is None else 'before'}"
        elif gone := [value for value in old if value not in new]:
            yield f"grid.{key}: without {', '.join(gone)} now"
    if gone := sorted(set(before["seeds"]) - set(now["seeds"])):
        yield f"seeds: without {', '.join(map(str, gone))} now"
    if not before["fingerprints"].items() <= now["fingerprints"].items():
        yield from _changed("the study's ", before["study"], now["study"])


def _changed(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            was, is_ = (_told(side[key]) if key in side else "not given" for side in (old, new))
            yield f"{what}{key}: {was} before, {is_} now"


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_sites(folder: Path, plan: Plan) -> None:
    """Refuse sites that no trial could use, before any is run."""
    found = len({load_site(file).name for file in find_sites(folder)})
    needed = max(trial.study.strategy.minimum_sites for trial in plan.trials)
    if found < needed:
        raise UserError(
            folder,
            f"{found} sites were found, a trial needs {needed}",
            field="strategy.minimum_sites",
        )
