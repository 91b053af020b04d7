"""What the files of a run folder say, as far as the report shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Metric(BaseModel):
    """A value with its interval, or the reason why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Benefit(Metric):
    """Net benefit at one threshold."""

    threshold: float
    treat_all: float | None = None


class Decisions(BaseModel):
    """What decisions at a threshold achieve, or the reason why there is none."""

    threshold: float | None = None
    reason: str = ""
    sensitivity: Metric | None = None
    specificity: Metric | None = None
    ppv: Metric | None = None
    npv: Metric | None = None
    f1: Metric | None = None
    alert_rate: Metric | None = None
    number_needed_to_evaluate: Metric | None = None


class Ranked(BaseModel):
    """AUROC of some patients, or the reason why it is withheld: all that a large matrix shows."""

    suppressed: str = ""
    auroc: Metric | None = None


class Cell(Ranked):
    """The metrics of some patients, or the reason why they are withheld."""

    excludes: list[str] = []
    averaged_over_sites: bool = False
    n: int | None = None
    positives: int | None = None
    auprc: Metric | None = None
    sensitivity_at_90_specificity: Metric | None = None
    specificity_at_90_sensitivity: Metric | None = None
    brier: Metric | None = None
    ece: Metric | None = None
    calibration_slope: Metric | None = None
    calibration_intercept: Metric | None = None
    net_benefit: list[Benefit] = []
    at_threshold: Decisions | None = None


class Gap(Metric):
    """The largest gap between two groups."""

    lowest: str = ""
    highest: str = ""


class Between(BaseModel):
    """AUROC over hospitals, and of one more."""

    hospitals: int
    auroc: Metric
    prediction: dict[str, float] = {}
    i_squared: float | None = None


class ChosenThreshold(BaseModel):
    """The threshold of a model, or of each site's own."""

    rule: str
    sensitivity: float | None = None
    value: float | None = None
    reason: str = ""
    sites: dict[str, dict[str, Any]] = {}


class Recalibrated(BaseModel):
    """The line through a model's logits, or why there is none."""

    method: str
    slope: float | None = None
    intercept: float | None = None
    reason: str = ""
    n: int = 0
    excludes: list[str] = []
    before: dict[str, Metric] = {}


class Worst(BaseModel):
    """The lowest AUROC of some groups, with an interval that holds for all of them at once."""

    name: str
    of: int
    auroc: Metric = Metric()


class WorstOf(BaseModel):
    """The worst site and the worst subgroup of a model."""

    site: Worst | None = None
    subgroup: Worst | None = None


class Joined(BaseModel):
    """AUROC of the federated model and of a site's own at the site."""

    suppressed: str = ""
    paired: bool = False
    federated: Metric | None = None
    local: Metric | None = None
    difference: Metric | None = None


class Joining(BaseModel):
    """What sites gain by joining."""

    sites: dict[str, Joined] = {}
    mean: Metric = Metric()


class Succeeded(BaseModel):
    """AUROC of the federated model and of an earlier one at a site, which scored both at once."""

    suppressed: str = ""
    paired: bool = False
    federated: Metric | None = None
    predecessor: Metric | None = None
    difference: Metric | None = None


class Predecessor(BaseModel):
    """How the federated model does beside an earlier one.

    Args:
        model: digest of the earlier one.
    """

    model: str
    sites: dict[str, Succeeded] = {}
    mean: Metric


class ModelMetrics(BaseModel):
    """One model of metrics.json."""

    overall: Cell
    sites: dict[str, Cell] = {}
    subgroups: dict[str, Cell] = {}
    site_subgroups: dict[str, dict[str, Cell]] = {}
    threshold: ChosenThreshold | None = None
    recalibration: Recalibrated | None = None
    worst: WorstOf = WorstOf()
    fairness: dict[str, dict[str, Gap]] = {}
    between_sites: Between | None = None


class DriftChange(Metric):
    """How one measure of a window differs from the reference."""

    p: float | None = None
    p_adjusted: float | None = None
    alarm: bool = False


class DriftWindow(BaseModel):
    """One window of time, or the reason why it is withheld."""

    suppressed: str = ""
    n: int | None = None
    positives: int | None = None
    prevalence: Metric | None = None
    auroc: Metric | None = None
    calibration_slope: Metric | None = None
    calibration_intercept: Metric | None = None
    changes: dict[str, DriftChange] = {}


class DriftOf(BaseModel):
    """The windows of some patients."""

    windows: dict[str, DriftWindow]
    reference: int | None = None
    reason: str = ""


class Drift(BaseModel):
    """How patients and figures changed over time."""

    rule: str
    windows: dict[str, Any]
    overall: DriftOf | None = None
    sites: dict[str, DriftOf] = {}


class Metrics(BaseModel):
    """metrics.json."""

    study: str
    fingerprint: str
    seed: int
    models: dict[str, ModelMetrics] = Field(min_length=1)
    cross_site: dict[str, dict[str, Ranked]] = {}
    joining: Joining | None = None
    drift: Drift | None = None
    predecessor: Predecessor | None = None


class Round(BaseModel):
    """One line of rounds.jsonl."""

    round: int
    loss: float | None = None
    metrics: dict[str, Any] | None = None
    site_metrics: dict[str, dict[str, Any]] | None = None
    asked: list[str] = []
    answered: list[str] = []
    failed: dict[str, str] = {}
    rejected: dict[str, str] = {}
    seconds: float | None = None
    bytes: dict[str, int] | None = None
    faults: dict[str, list[str] | dict[str, float | str]] = {}
    outstanding: list[str] | None = None


class Privacy(BaseModel):
    """privacy.json; what else a mechanism writes is kept and shown."""

    model_config = ConfigDict(extra="allow")
    mechanism: str
    unit: str = ""
    adjacency: str = ""
    adversary: str = ""
    covers: str = ""
    seeded: bool = False
    sites: dict[str, dict[str, Any]] = {}
    comparators: dict[str, dict[str, dict[str, Any]]] = {}
    patient_of_every_site: dict[str, Any] = {}
    other_uses: list[dict[str, str]] = []
    evaluation: dict[str, Any] | None = None


class SiteData(BaseModel):
    """One site of sites.json; a small number may be given as "<10"."""

    patients: dict[str, int | str] = {}
    modalities: dict[str, int | str] = {}
    excluded: dict[str, int | str] = {}
    notices: dict[str, int | str] = {}
    counted: bool = True
    failure: str = ""


class ShiftedOutcome(BaseModel):
    """One outcome at one moment of one site of shifts.json; null: known of nobody."""

    prevalence: Metric | None = None


class ShiftDistances(BaseModel):
    """One moment of one site of shifts.json: how far it is from the others; null: not known."""

    patients: int
    outcomes: dict[str, ShiftedOutcome]
    prevalence_gap: float | None = None
    total_variation: dict[str, float | None] = {}
    values: float | None = None
    dependence: float | None = None
    image_intensity: float | None = None
    image_texture: float | None = None


class ShiftDone(BaseModel):
    """What one shift did at one site of shifts.json."""

    number: int
    kind: str
    on: str = "records"
    drawn: dict[str, Any] = {}
    touched: dict[str, int] = {}
    note: str = ""


class ShiftedSite(BaseModel):
    """One site of shifts.json."""

    shifts: list[ShiftDone] = []
    images: dict[str, int] = {}
    before: ShiftDistances
    after: ShiftDistances


class Shifts(BaseModel):
    """shifts.json: the distribution shifts of simulated sites."""

    seed: int
    shifts: list[dict[str, Any]] = []
    sites: dict[str, ShiftedSite] = {}
