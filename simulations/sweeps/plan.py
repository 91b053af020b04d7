"""A sweep file, and the trials that it stands for: every setting with the same seeds."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from federation.errors import UserError
from federation.study import Study
from federation.tasks import Task
from federation.validation import Section, read_toml, validate
from simulations.sweeps.populations import (
    Population,
    check_shift_keys,
    choose_population,
    is_study_key,
)
from simulations.sweeps.settings import (
    Setting,
    grid_settings,
    is_public,
    shared_values,
    shown_value,
)


class SweepSection(Section):
    """What is swept; ``study`` is relative to the sweep file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    study: str = Field(min_length=1)
    seeds: int = Field(default=10, ge=1, le=1000)
    quick_seeds: int = Field(default=3, ge=1, le=1000)


class SyntheticSection(Section):
    """Arguments of ``wardround synthesize``."""

    sites: PositiveInt = 6
    patients: PositiveInt = 300
    seed: int = Field(default=7, ge=0)
    image_size: PositiveInt = 64
    epsilon_per_patient: PositiveFloat | None = None
    shifts: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return what says how the hospitals are without shifts."""
        return self.model_dump(exclude={"shifts"})


class SitesSection(Section):
    """Where the trials run: hospitals made for the sweep, or a folder of sites."""

    synthetic: SyntheticSection | None = None
    path: str | None = None
    shifts: str | None = None

    @model_validator(mode="after")
    def _not_both(self) -> SitesSection:
        if self.synthetic is not None and self.path is not None:
            raise ValueError("give synthetic or path, not both")
        if self.synthetic is not None and self.shifts is not None:
            raise ValueError("shifts stands beside path; of synthetic hospitals, in its table")
        return self

    @property
    def shifts_file(self) -> str | None:
        """Where the shifts between the hospitals are, relative to the sweep file."""
        return self.shifts if self.synthetic is None else self.synthetic.shifts


class SweepFile(Section):
    """A sweep file; ``grid`` and ``set`` hold study keys."""

    sweep: SweepSection
    sites: SitesSection = SitesSection()
    grid: dict[str, Any] = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One setting with one seed, at its hospitals: one run."""

    setting: Setting
    seed: int
    study: Study
    population: Population

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"{self.setting.slug}-seed-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep, resolved and checked.

    Attributes:
        sites: a folder of sites; None if ``synthetic`` says how to make them.
        shifts: the shifts file of ``[sites]``.
        base: the study file as it stands.
        fixed: study keys that every trial overrides.
        trials: in the order in which they run.
    """

    name: str
    file: Path
    sites: Path | None
    synthetic: SyntheticSection | None
    shifts: str | None
    base: Mapping[str, Any]
    fixed: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]

    @property
    def populations(self) -> dict[str, Population]:
        """The hospitals of all trials, by name."""
        return {trial.population.name: trial.population for trial in self.trials}

    @property
    def task(self) -> Task:
        """What all trials predict."""
        return self.trials[0].study.task

    def reference(self, setting: Setting) -> Setting:
        """Return what a setting is compared with: itself without privacy, or the first one."""
        others = shared_values(setting.values)
        for one in self.settings:
            if one.no_dp and shared_values(one.values) == others:
                return one
        return self.settings[0]


def load_plan(file: Path, *, quick: bool = False, sites: Path | None = None) -> Plan:
    """Read a sweep file and resolve the study of every trial.

    Args:
        file: the TOML file.
        quick: take ``quick_seeds`` seeds.
        sites: replaces the file's ``[sites]``.

    Raises:
        UserError: naming the file, the field and what was expected; also where one of the
            settings is not a valid study.
    """
    sweep = validate(SweepFile, read_toml(file), file)
    grid = {key: _choices(file, key, values) for key, values in _flat(sweep.grid)}
    fixed = dict(_flat(sweep.set))
    if both := sorted(grid.keys() & fixed.keys()):
        raise UserError(file, "is in [grid] too; give it once", field=f"set.{both[0]}")
    shifts = sweep.sites.shifts_file
    check_shift_keys(file, grid, shifts)
    study_file = file.parent / sweep.sweep.study
    base = _base_study(file, sweep.sweep)
    settings = tuple(grid_settings(grid))
    studies = {one.slug: _resolve(file, study_file, base, fixed, one) for one in settings}
    _check_one_kind(file, studies)
    populations = {one.slug: choose_population(file, shifts, one.values) for one in settings}
    for one in populations.values():
        if one.shifts is not None:
            one.shifts.check_task(next(iter(studies.values())).task)
    _check_all_differ(file, settings, studies, populations)
    first = next(iter(studies.values())).study.seed
    number = min(sweep.sweep.quick_seeds, sweep.sweep.seeds) if quick else sweep.sweep.seeds
    seeds = tuple(range(first, first + number))
    trials = [
        Trial(one, seed, _seeded(studies[one.slug], seed), populations[one.slug])
        for seed in seeds
        for one in settings
    ]
    folder = sites or (file.parent / sweep.sites.path if sweep.sites.path else None)
    if folder is None and sweep.sites.synthetic is None:
        raise UserError(
            file,
            "missing",
            field="sites",
            remedy="Give [sites] with synthetic = {} or path, or --sites DIR.",
        )
    return Plan(
        sweep.sweep.name,
        file,
        folder and folder.resolve(),
        None if folder else sweep.sites.synthetic,
        shifts,
        base,
        fixed,
        grid,
        settings,
        seeds,
        # A process keeps what it read for one choice of patients and modalities.
        tuple(sorted(trials, key=lambda one: (one.population.name, cohort_key(one.study)))),
    )


def cohort_key(study: Study) -> str:
    """Return what decides which tensors a study reads: equal for studies that can share them."""
    data = study.to_dict()
    return json.dumps([data["task"], data["split"], data["modalities"]], sort_keys=True)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); ``a.b`` without quotes is a table, ``"a.b"`` is taken whole."""
    for key, value in table.items():
        if isinstance(value, dict) and "." not in key:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choices(file: Path, key: str, values: Any) -> tuple[Any, ...]:
    field, remedy = f"grid.{key}", 'Give a list, as in "training.rounds" = [10, 20].'
    if not isinstance(values, list) or not values:
        raise UserError(file, "expected a list of values", field=field, remedy=remedy)
    if key == "study.seed":
        raise UserError(
            file, "every setting runs with the same seeds", field=field, remedy="Use sweep.seeds."
        )
    shown = [shown_value(value) for value in values]
    for value in shown:
        if shown.count(value) > 1:
            raise UserError(file, f"{value} is listed twice", field=field)
    return tuple(values)


def _base_study(file: Path, sweep: SweepSection) -> dict[str, Any]:
    path = file.parent / sweep.study
    if not path.is_file():
        raise UserError(
            file,
            f'there is no study file "{sweep.study}" (looked for {path})',
            field="sweep.study",
            remedy="The path is relative to the sweep file.",
        )
    data = read_toml(path)
    if isinstance(data.get("study"), dict):
        data["study"].pop("fingerprint", None)
    return data


def _resolve(
    file: Path,
    study_file: Path,
    base: Mapping[str, Any],
    fixed: Mapping[str, Any],
    setting: Setting,
) -> Study:
    """Return a setting's study.

    Raises:
        UserError: naming the key of the sweep file that is wrong, or the study file if that is.
    """
    data = copy.deepcopy(dict(base))
    known = {k: v for k, v in setting.values.items() if is_study_key(k)}
    chosen = {k: v for k, v in known.items() if not setting.no_dp or is_public(k)}
    overrides = (("set", fixed), ("grid", chosen))
    for table, values in overrides:
        for key, value in values.items():
            _put(data, key, value, file, f"{table}.{key}")
    privacy = data.get("privacy")
    if setting.no_dp or (isinstance(privacy, dict) and _is_infinite(privacy.get("epsilon"))):
        data["privacy"] = {"mechanism": "none"}
    try:
        return validate(Study, data, file)
    except UserError as error:
        wrong = error
    keys = [f"{table}.{key}" for table, values in overrides for key in values]
    near = [key for key in keys if _same_place(key.partition(".")[2], wrong.field)]
    if not near:
        validate(Study, base, study_file)  # then the mistake is that file's
    field, told = (near or ["grid"])[0], wrong.problem
    if wrong.field and not field.endswith(f".{wrong.field}"):
        told = f"{wrong.field}: {told}"
    message = f"the setting {setting.label} is not a valid study: {told}"
    raise UserError(file, message, field=field, remedy=wrong.remedy)


def _put(data: dict[str, Any], key: str, value: Any, file: Path, field: str) -> None:
    *parents, last = key.split(".")
    if not all([*parents, last]):
        raise UserError(file, "not a study key, as training.rounds is", field=field)
    table = data
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(file, f'"{part}" is a value in the study, not a table', field=field)
    table[last] = copy.deepcopy(value)


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and value == math.inf


def _same_place(key: str, field: str) -> bool:
    """Whether a wrong field lies below the key, or is the table that the key is in.

    >>> _same_place("training.rounds", "training"), _same_place("fusion", "training")
    (True, False)
    """
    return f"{key}.".startswith(f"{field}.") or f"{field}.".startswith(f"{key}.")


def _seeded(study: Study, seed: int) -> Study:
    data = study.to_dict()
    data["study"]["seed"] = seed
    return Study.model_validate(data)


def _check_one_kind(file: Path, studies: Mapping[str, Study]) -> None:
    """The hospitals have labels of one kind, and figures of several are not compared."""
    kinds = sorted({study.task.kind for study in studies.values()})
    if len(kinds) > 1:
        told = f"the settings have tasks of several kinds: {', '.join(kinds)}"
        raise UserError(file, told, field="grid", remedy="Make a sweep of each.")
    if kinds == ["several"]:
        told = "a sweep compares one figure, and a study of several tasks has one for each"
        raise UserError(file, told, field="sweep.study", remedy="Make a sweep of each task.")


def _check_all_differ(
    file: Path,
    settings: Sequence[Setting],
    studies: Mapping[str, Study],
    populations: Mapping[str, Population],
) -> None:
    known: dict[tuple[str, str], str] = {}
    for one in settings:
        run = studies[one.slug].fingerprint, populations[one.slug].text
        if run in known:
            told = f"the settings {known[run]} and {one.label} are the same study"
            raise UserError(file, told, field="grid", remedy="Leave one of the two away.")
        known[run] = one.label
