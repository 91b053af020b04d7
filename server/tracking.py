"""A run folder in MLflow: parameters, metrics by round and by site, and the files to keep."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.errors import UserError
from server.report.documents import Cell, Metric
from server.report.run_folder import RunFolder, read_run_folder
from server.report.several import runs_of_tasks
from server.report.spending import reported
from server.report.text import METRICS, flattened, shown

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KIND = "mlflow"
LOCAL = "mlruns"
ARTEFACTS = (
    *("study.toml", "environment.json", "rounds.jsonl", "metrics.json", "privacy.json"),
    *("sites.json", "warnings.json", "vocabulary.json", "normalisation.json"),
    *("model.safetensors", "recalibration.json", "report.html", "model_card.md", "model_card.json"),
)
LONGEST = 500
AT_ONCE = 90
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""MLflow reports its use to its makers unless told not to; a server that is not there is given up
soon; plain files are what a laptop keeps runs in."""

Measured = tuple[str, float, int]
"""Name, value and step of a metric."""


def check_target(target: str) -> None:
    """Refuse a target that cannot be tracked to, before anything is trained.

    Args:
        target: ``mlflow``, or ``mlflow:URI``.

    Raises:
        UserError: saying what is missing.
    """
    if target.partition(":")[0] != KIND:
        raise UserError("--track", f'expected mlflow or mlflow:URI, not "{target}"')
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    try:
        import mlflow  # noqa: F401
    except ImportError:
        raise UserError(
            "--track", "MLflow is not installed", remedy="pip install 'wardround[mlflow]'"
        ) from None


def track(run: Path, target: str = KIND) -> str:
    """Log a finished run to MLflow; a second time makes a second run there.

    Args:
        run: the run folder.
        target: ``mlflow`` keeps runs as files in ``mlruns`` beside the run folder; ``mlflow:URI``
            takes a tracking server or another store.

    Returns:
        The id of MLflow's run, and where it is.

    Raises:
        UserError: if the folder cannot be read, or MLflow cannot be reached.
    """
    check_target(target)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    folder = read_run_folder(run)
    uri = target.partition(":")[2] or (run.resolve().parent / LOCAL).as_uri()
    try:
        return f"{_log(MlflowClient(tracking_uri=uri), folder)} ({uri})"
    except (MlflowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError("--track", f"{uri}: {first[:LONGEST]}") from None


def parameters(run: RunFolder) -> dict[str, str]:
    """Every setting of the study, by its dotted key; of a code's slashes each becomes ``_``."""
    return {
        _name(key).replace("/", "_"): shown(value)[:LONGEST] for key, value in flattened(run.study)
    }


def measured(run: RunFolder) -> Iterator[Measured]:
    """Every metric: of each round, and at the end of the held-out patients.

    Names are paths: ``round/auroc``, ``round/site/bern/loss``, ``held_out/auroc``,
    ``held_out/site/bern/auroc_low``, ``held_out/subgroup/sex=female/auroc``, ``epsilon/bern``. Of
    several tasks ``held_out/task/died/auroc``, and so on.
    """
    for one in run.rounds:
        numbers = {"loss": one.loss, "seconds": one.seconds, **(one.metrics or {})}
        numbers["sites"] = float(len(one.answered))
        yield from _numbers("round", numbers, one.round)
        for site, metrics in (one.site_metrics or {}).items():
            yield from _numbers(f"round/site/{site}", metrics, one.round)
    last = run.rounds[-1].round if run.rounds else 0
    for task, one_task in runs_of_tasks(run).items():
        yield from _held_out(f"held_out/task/{task}", one_task, last)
    yield from _held_out("held_out", run, last)
    for site, spent in run.privacy.sites.items():
        yield from _numbers("epsilon", {site: reported(spent)[1]}, last)


def _log(client: MlflowClient, run: RunFolder) -> str:
    from mlflow.entities import Metric as Logged
    from mlflow.entities import Param, RunTag

    study, now = run.metrics.study, int(time.time() * 1000)
    known = client.get_experiment_by_name(study)
    experiment = known.experiment_id if known else client.create_experiment(study)
    made = client.create_run(experiment, run_name=run.path.resolve().name).info.run_id
    tags = {"fingerprint": run.metrics.fingerprint, "run": str(run.environment.get("run", ""))}
    client.log_batch(made, tags=[RunTag(key, value) for key, value in tags.items()])
    params = [Param(key, value) for key, value in parameters(run).items()]
    metrics = [Logged(_name(name), value, now, step) for name, value, step in measured(run)]
    for start in range(0, len(params), AT_ONCE):
        client.log_batch(made, params=params[start : start + AT_ONCE])
    for start in range(0, len(metrics), AT_ONCE):
        client.log_batch(made, metrics=metrics[start : start + AT_ONCE])
    for name in ARTEFACTS:
        if (run.path / name).is_file():
            client.log_artifact(made, str(run.path / name))
    client.set_terminated(made)
    return str(made)


def _held_out(prefix: str, run: RunFolder, step: int) -> Iterator[Measured]:
    yield from _cell(prefix, run.model.overall, step)
    for site, cell in run.model.sites.items():
        yield from _cell(f"{prefix}/site/{site}", cell, step)
    for name, cell in run.model.subgroups.items():
        yield from _cell(f"{prefix}/subgroup/{name}", cell, step)


def _cell(prefix: str, cell: Cell, step: int) -> Iterator[Measured]:
    if cell.suppressed:
        return
    yield from _numbers(prefix, {"patients": cell.n, "events": cell.positives}, step)
    for name in METRICS:
        metric: Metric | None = getattr(cell, name)
        if metric is not None:
            ends = {f"{name}_low": metric.low, f"{name}_high": metric.high}
            yield from _numbers(prefix, {name: metric.value, **ends}, step)


def _numbers(prefix: str, numbers: Mapping[str, Any], step: int) -> Iterator[Measured]:
    for name, value in numbers.items():
        if isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value), step


def _name(name: str) -> str:
    """A name as MLflow takes it: letters, digits, and a few signs."""
    return "".join(x if x.isalnum() or x in "_-./ " else "_" for x in name)
