"""The study: the shared definition of one training effort.

A study holds no path and no patient data. It is written once as TOML, resolved with its
defaults, identified by its fingerprint, and travels inside every message.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import tomli_w
from pydantic import Field, PositiveInt, model_validator

from federation.arrival import ArrivalSection
from federation.combinations import conflicts
from federation.errors import UserError
from federation.faults import FaultsSection
from federation.metrics.grid import THRESHOLDS
from federation.metrics.recalibration import Method
from federation.modalities import ModalitiesSection, Modality
from federation.models.registry import FUSIONS
from federation.strategies import StrategySection
from federation.strategies.averaging import FedAvg
from federation.tasks import TaskSection
from federation.training import PersonalisationSection, SelectionSection, TrainingSection
from federation.validation import Section, read_toml, validate
from federation.windows import WindowsSection

Split = Literal["train", "tuning", "held_out"]


if TYPE_CHECKING:
    FusionKind: TypeAlias = str
else:
    FusionKind = Literal[tuple(FUSIONS)]


class StudySection(Section):
    """Who the study is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    seed: int = Field(default=42, ge=0, lt=2**63)
    intended_use: str = ""


class Fractions(Section):
    """Shares of a site's patients; they sum to one."""

    train: float = Field(default=0.6, gt=0, le=1)
    tuning: float = Field(default=0.2, ge=0, lt=1)
    held_out: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Fractions:
        total = self.train + self.tuning + self.held_out
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + tuning + held_out is {total:g}; it must be 1")
        return self


class SplitSection(Section):
    """How a site's patients are divided.

    ``patient``: by a keyed hash, the same for every study at a site. ``time``: the past
    trains, the future tests. ``given``: the site's MEDS ``subject_splits.parquet``.
    """

    by: Literal["patient", "time", "given"] = "patient"
    fractions: Fractions = Fractions()


class FusionSection(Section):
    """How what the encoders found becomes one prediction.

    ``tokens``: whether encoders give one vector of a patient, or all that they have.
    ``absent``: what stands for a modality that a patient lacks.
    """

    kind: FusionKind = "late"
    tokens: Literal["one", "all"] = "one"
    absent: Literal["token", "imputed"] = "token"
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _tokens_are_taken(self) -> FusionSection:
        if self.tokens == "all" and not FUSIONS[self.kind].several:
            takers = [f'"{name}"' for name, fusion in FUSIONS.items() if fusion.several]
            raise ValueError(f'tokens = "all" is for kind {" and ".join(takers)}: leave it away')
        if self.tokens == "all" and self.absent == "imputed":
            raise ValueError(
                'absent = "imputed" guesses one vector, not all tokens: give tokens = "one"'
            )
        return self


class PrivacySection(Section):
    """The privacy mechanism of the study.

    ``dp_sgd``: each site clips every patient's gradient and adds noise before anything leaves; the
    unit is a patient. ``central``: the coordinator clips every site's update and adds noise to
    their sum; the unit is a hospital, and the coordinator itself sees the updates.
    """

    mechanism: Literal["none", "dp_sgd", "central"] = "none"
    epsilon: float | None = Field(default=None, gt=0, strict=True)
    delta: float = Field(default=1e-5, gt=0, lt=1, strict=True)
    max_grad_norm: float = Field(default=1.0, ge=0.001, le=10_000, strict=True)
    accountant: Literal["pld", "rdp"] = "pld"
    participation: float = Field(default=1.0, gt=0, le=1)
    adaptive_clipping: bool = False
    clipped_sum: Literal["auto", "book_keeping", "hooks", "functorch", "ew", "per_patient"] = "auto"
    physical_batch: PositiveInt = 512

    @model_validator(mode="after")
    def _epsilon_where_it_counts(self) -> PrivacySection:
        if self.mechanism == "none" and self.epsilon is not None:
            raise ValueError(
                f'epsilon is {self.epsilon:g}, but mechanism "none" protects nobody. Give '
                'mechanism = "dp_sgd", or leave epsilon away'
            )
        if self.mechanism != "none" and self.epsilon is None:
            raise ValueError(f'mechanism "{self.mechanism}" needs an epsilon, for example 4.0')
        if self.adaptive_clipping and self.mechanism != "central":
            raise ValueError('adaptive_clipping is an option of mechanism "central"')
        return self


class ThresholdSection(Section):
    """How the one threshold is chosen at which decisions are judged.

    ``youden``: largest sensitivity + specificity; ``sensitivity``: the highest threshold that
    keeps the sensitivity ``value``, both on the sites' tuning splits together; ``fixed``:
    ``value`` itself.
    """

    rule: Literal["youden", "sensitivity", "fixed"] = "youden"
    value: float | None = Field(default=None, gt=0, lt=1, strict=True)

    @model_validator(mode="after")
    def _value_where_it_counts(self) -> ThresholdSection:
        if (self.rule == "youden") != (self.value is None):
            told = "takes no value" if self.rule == "youden" else "needs a value, for example 0.9"
            raise ValueError(f'rule "{self.rule}" {told}')
        if self.rule == "fixed" and self.value not in THRESHOLDS:
            near = min(THRESHOLDS, key=lambda one: abs(one - (self.value or 0.0)))
            raise ValueError(
                f"{self.value:g} is not a threshold at which sites count exactly; the nearest is "
                f"{near:g} (0.01, 0.02, 0.03, and 0.05 to 0.95 in steps of 0.05)"
            )
        return self


class RecalibrationSection(Section):
    """A line through the final model's logits that makes its risks right, from the tuning split.

    ``temperature``: slope alone; ``platt``: slope and intercept.
    """

    method: Method


class NoiseSection(Section):
    """Noise on the counts with which sites tell how a model does, paid from their ledgers.

    ``epsilon``: at ``privacy.delta``, for each patient of the tuning and of the held-out split, all
    evaluations of a run together.
    """

    epsilon: float = Field(gt=0, le=100, strict=True)


class EvaluationSection(Section):
    """When and for whom the model is measured.

    ``every``: rounds between evaluations on the tuning split; 0 for none.
    ``threshold``: at which decisions are judged.
    ``recalibration``: of the final model's risks; none by default.
    ``existing_score``: code of a risk that sites hold already, to compare with.
    ``baselines``: what else is trained for comparison, in simulation only.
    ``windows``: windows of time over which drift is looked for; none by default.
    ``predecessor``: digest of an earlier model, which sites score on the same patients.
    ``noise``: on what sites tell of the tuning and held-out patients; none by default.
    """

    every: int = Field(default=1, ge=0)
    subgroups: tuple[Literal["sex", "age_band", "ethnicity"], ...] = ("sex", "age_band")
    threshold: ThresholdSection = ThresholdSection()
    recalibration: RecalibrationSection | None = None
    existing_score: str | None = Field(default=None, min_length=1)
    baselines: tuple[
        Literal["local", "pooled", "single_modality", "leave_one_out", "logistic_regression"], ...
    ] = ()
    windows: WindowsSection | None = None
    predecessor: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    noise: NoiseSection | None = None

    @property
    def goes_by_tuning(self) -> bool:
        """Whether a finished model is scored on the tuning split too."""
        return self.threshold.rule != "fixed" or self.recalibration is not None


class SimulationSection(Section):
    """What only a simulation does; a deployed run refuses what is not itself."""

    faults: FaultsSection | None = None
    arrival: ArrivalSection | None = None

    @property
    def declared(self) -> tuple[str, ...]:
        """The keys of the tables that are there."""
        return tuple(f"simulation.{name}" for name, table in self if table is not None)


class Study(Section):
    """One training effort, fully resolved."""

    study: StudySection
    task: TaskSection
    split: SplitSection = SplitSection()
    modalities: ModalitiesSection
    fusion: FusionSection = FusionSection()
    training: TrainingSection = TrainingSection(local_epochs=1)
    strategy: StrategySection = FedAvg()
    selection: SelectionSection = SelectionSection()
    personalisation: PersonalisationSection = PersonalisationSection()
    privacy: PrivacySection = PrivacySection()
    evaluation: EvaluationSection = EvaluationSection()
    simulation: SimulationSection | None = None

    @model_validator(mode="after")
    def _nothing_excludes_another(self) -> Study:
        for conflict in conflicts(self):
            raise ValueError(conflict)
        return self

    @property
    def personal(self) -> bool:
        """Whether the model that a site uses is not the one that the coordinator has."""
        return self.strategy.personal or self.personalisation.personal

    @property
    def compares(self) -> bool:
        """Whether sites score the federated model and another on the same patients."""
        asked = "local" in self.evaluation.baselines or self.evaluation.predecessor is not None
        return asked and self.task.kind == "binary"

    def succeeding(self, predecessor: str) -> Study:
        """Return the same study, compared with the earlier model of a digest."""
        evaluation = self.evaluation.model_copy(update={"predecessor": predecessor})
        return self._with(evaluation=evaluation)

    @cached_property
    def canonical(self) -> str:
        """The resolved study as one canonical JSON text; this is what travels."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the resolved study: equal for equal studies, whatever their files say."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved study as plain values, without what is unset."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Return the resolved study as TOML, with its fingerprint for the reader."""
        data = self.to_dict()
        data["study"]["fingerprint"] = self.fingerprint
        return tomli_w.dumps(data)

    def only(self, modality: Modality) -> Study:
        """Return the same study with one modality alone, for the single-modality baselines."""
        alone = ModalitiesSection(**{modality: getattr(self.modalities, modality)})
        return self._with(modalities=alone)

    def logistic_regression(self) -> Study:
        """Return the same study of health records alone, with the simplest model there is."""
        assert self.modalities.ehr is not None
        linear = self.modalities.ehr.with_encoder("linear")
        return self._with(
            modalities=ModalitiesSection(ehr=linear), fusion=FusionSection(kind="late")
        )

    def plain(self) -> Study:
        """Return the same study without a federation's means, for what trains in one place."""
        plain = FedAvg(
            minimum_sites=self.strategy.minimum_sites,
            round_deadline_seconds=self.strategy.round_deadline_seconds,
            weighting="uniform" if self.privacy.mechanism == "central" else "patients",
        )
        return self._with(
            strategy=plain,
            selection=SelectionSection(),
            personalisation=PersonalisationSection(),
        )

    def _with(self, **sections: Any) -> Study:
        # Not model_copy: it would copy the cached fingerprint too.
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return Study(**{**own, **sections})


def load_study(path: Path, overrides: Iterable[str] = (), seed: int | None = None) -> Study:
    """Read, override, resolve and check a study file.

    Args:
        path: the TOML file.
        overrides: ``training.rounds=3``; values are TOML, or else taken as text.
        seed: replaces ``study.seed``.

    Raises:
        UserError: naming the file, the field and what was expected.
    """
    data = read_toml(path)
    if isinstance(data.get("study"), dict):
        data["study"].pop("fingerprint", None)  # derived; a resolved study.toml carries it
    for override in overrides:
        _apply_override(data, override)
    if seed is not None and isinstance(data.setdefault("study", {}), dict):
        data["study"]["seed"] = seed
    return validate(Study, data, path)


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"--set {override}", "expected KEY=VALUE, as in training.rounds=3")
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}", f'"{part}" is a value, not a table')
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
