"""The same study and sites in simulation and through a real SuperLink, in real processes."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deployment import Deployment, DeploymentError, deployment
from planted import RECORD, Planted
from safetensors.numpy import load_file

from federation.bundle import write_bundle
from federation.study import load_study

# One group: several workers would each start a consortium of their own.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("superlink")]

ROOT = Path(__file__).parents[2]
NAMES = ["bayview", "st-elsewhere"]
PREPARED = "modalities.ehr.vocabulary=prepared"
RECALIBRATED = (
    "evaluation.recalibration.method=platt",
    "split.fractions={train=0.4,tuning=0.4,held_out=0.2}",
)
ATTENTION = "the site's files need attention"
WITNESSED = "the site's privacy ledger does not extend the one that was witnessed"
ONE_MODALITY = (
    'modalities={ehr={width=8, reference_ranges={"LAB//CRP"=[0, 50]}}}',
    "fusion={kind='late'}",
)
PLANTED = Planted()
"""What stands in the texts, tags, names and numbers of the sites: nothing of it may leave."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals") / "sites"
    wardround("synthesize", folder, "--sites", 2, "--patients", 60, "--seed", 3)
    for name in NAMES:
        PLANTED.plant(folder / name)
        file = folder / name / "site.toml"
        file.write_text(file.read_text().replace("[policy]\n", "[policy]\napprove = false\n"))
    return folder


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, sites: Path) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("consortium")
    with deployment(folder, [sites / name for name in NAMES]) as running:
        yield running


def test_simulation_and_superlink_end_in_the_same_model_and_metrics(
    consortium: Deployment, sites: Path, tmp_path: Path
) -> None:
    study = write_study(tmp_path, "training.rounds=2", PREPARED, *RECALIBRATED)
    simulated, deployed = tmp_path / "simulated", tmp_path / "deployed"
    wardround("simulate", study, "--sites", sites, "--out", simulated, "--workers", 0)
    consortium.run(study, deployed)

    assert read(deployed / "environment.json")["grid"] == "superlink"
    assert [record["answered"] for record in rounds(deployed)] == [NAMES, NAMES]
    losses = [record["loss"] for record in rounds(simulated)]
    assert [record["loss"] for record in rounds(deployed)] == pytest.approx(losses, abs=1e-6)
    expected = load_file(simulated / "model.safetensors")
    found = load_file(deployed / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6, err_msg=name)
    measured = read(simulated / "metrics.json")
    assert measured["models"]["federated"]["sites"].keys() == set(NAMES)
    assert differences(read(deployed / "metrics.json"), measured) == {}
    assert measured["models"]["federated"]["recalibration"]["n"] > 40
    lines = read(simulated / "recalibration.json")
    assert differences(read(deployed / "recalibration.json"), lines) == {}
    received = [*deployed.rglob("*"), *consortium.coordinator.rglob("*")]
    assert PLANTED.found_in(received) == {}


def test_a_deployed_site_spends_from_its_ledger_and_cannot_begin_another(
    consortium: Deployment, sites: Path, tmp_path: Path
) -> None:
    privacy = "privacy={mechanism='dp_sgd', epsilon=2.0}"
    study = write_study(tmp_path, "training.rounds=2", privacy, *ONE_MODALITY)
    consortium.run(study, tmp_path / "first")

    document = read(tmp_path / "first/privacy.json")
    assert document["seeded"] is False
    for name in NAMES:
        row = document["sites"][name]
        assert row["rounds"] == 2
        assert row["epsilon"]["pld"] <= 2.0
        told = json.loads(wardround("ledger", sites / name, "--json"))
        assert (told["verified"], told["seeded"]) == (True, False)
        assert told["epsilon"]["pld"] == pytest.approx(row["epsilon"]["pld"], rel=1e-4)
        assert told["head"] == read(tmp_path / "witness.json")[name]

    (sites / NAMES[0] / "state/ledger.sqlite").unlink()
    study.write_text(load_study(study, ["study.name=again", "training.rounds=1"]).to_toml())
    consortium.run(study, tmp_path / "second")
    (record,) = rounds(tmp_path / "second")
    assert record["answered"] == NAMES[1:]
    assert record["failed"] == {NAMES[0]: WITNESSED}
    assert "older copy restored" in consortium.services[NAMES[0]].log.read_text()
    received = [*tmp_path.rglob("*"), *consortium.coordinator.rglob("*")]
    assert PLANTED.found_in(received) == {}


@pytest.fixture
def failing(sites: Path) -> Iterator[str]:
    """A site whose own error message quotes something that must stay there."""
    unlabelled, _ = NAMES
    labels = sites / unlabelled / "data/labels.parquet"
    kept = labels.read_bytes()
    pq.write_table(pa.table({"subject_id": [1], RECORD: [True]}), labels)
    yield unlabelled
    labels.write_bytes(kept)


def test_no_word_of_a_site_s_error_reaches_the_coordinator(
    consortium: Deployment, failing: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    consortium.run(write_study(tmp_path, "training.rounds=1"), out)

    for record in rounds(out):
        assert record["answered"] == NAMES[1:]
        assert record["failed"] == {failing: ATTENTION}
    assert (out / "model.safetensors").exists()
    assert RECORD in consortium.services[failing].log.read_text(), "a site's own log tells why"
    received = [*consortium.coordinator.rglob("*"), *out.rglob("*")]
    assert PLANTED.found_in(received) == {}
    # What was deleted from the database still stands in its free pages and in its log, so that
    # the search sees every reply.
    assert any(file.name.startswith("state.db") for file in containing(ATTENTION, received))


def test_no_code_of_a_bundle_runs_at_a_site_and_its_log_says_so(
    consortium: Deployment, sites: Path, tmp_path: Path
) -> None:
    bundle, ran = write_bundle(tmp_path / "bundle"), tmp_path / "ran"
    (bundle / "clients").mkdir()
    (bundle / "clients/__init__.py").touch()  # `flwr run` itself imports this, at the coordinator
    code = f"open({str(ran)!r}, 'w').write('x')\napp = None\n"
    (bundle / "clients/app.py").write_text(code)
    with pytest.raises(DeploymentError, match="the run failed"):
        consortium.run(write_study(tmp_path, "training.rounds=1"), tmp_path / "run", bundle=bundle)

    assert not ran.exists()
    for folder in consortium.sites.values():
        assert not list(folder.rglob("clients/app.py")), "the bundle was unpacked"
    other = "not an instruction of this version"
    (record,) = rounds(tmp_path / "run")
    assert record["failed"] == dict.fromkeys(NAMES, other)
    for name in NAMES:
        told = json.loads(wardround("site", "log", sites / name, "--json"))
        *_, refused, sent = told["entries"]
        assert (refused["event"], refused["status"], sent["status"]) == ("refused", other, other)


def wardround(*arguments: object) -> str:
    command = [str(Path(sys.executable).parent / "wardround"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def write_study(folder: Path, *changes: str) -> Path:
    """The example study, shorter; an exchange with the sites costs seconds here."""
    changes += ("strategy.minimum_sites=1", "evaluation.baselines=[]", "evaluation.every=0")
    file = folder / "study.toml"
    file.write_text(load_study(ROOT / "examples/studies/synthetic.toml", changes).to_toml())
    return file


def containing(text: str, paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file() and text.encode() in path.read_bytes()]


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def rounds(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def differences(found: Any, expected: Any) -> dict[str, tuple[Any, Any]]:
    """Where two JSON documents differ by more than 1e-6, by path."""
    ours, theirs = leaves(found), leaves(expected)
    pairs = {key: (ours.get(key, "absent"), theirs.get(key, "absent")) for key in ours | theirs}
    return {key: pair for key, pair in pairs.items() if not same(*pair)}


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float | int) and abs(a - b) <= 1e-6)


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict | list) or not tree:
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {k: v for name, value in items for k, v in leaves(value, f"{path}/{name}").items()}
