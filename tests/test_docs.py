"""What the documentation says can be run, runs; what it lists is what there is."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from clients.cohort import read_patients
from clients.site import SiteFile, load_site
from clients.sources.settings import LabelRule, TableSection, WideColumn
from federation.study import SplitSection
from federation.tasks import BinaryTask
from federation.validation import validate
from simulations.datasets import DATASETS
from simulations.runner import simulate
from simulations.shifts.kind import ShiftSection
from simulations.shifts.plan import load_shifts
from simulations.shifts.registry import KINDS
from simulations.sweeps.plan import SitesSection, SweepSection, SyntheticSection, load_plan

ROOT = Path(__file__).parents[1]
SITE_DATA = ROOT / "docs" / "site-data.md"


def test_example_of_the_site_data_page_makes_two_sites_that_train(tmp_path):
    text = SITE_DATA.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "make_sites.py").write_text(code)
    run(tmp_path, "make_sites.py")
    for name in ("north", "south"):
        site = load_site(tmp_path / "sites" / name)
        patients = read_patients(site, BinaryTask(label="deterioration"), SplitSection())
        assert len(patients) == 40
        assert (patients.excluded, patients.notices) == ({}, {})

    (command,) = re.findall(r"\.venv/bin/wardround (simulate .*?)\n```", text, re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    quick = ["--set", "training.rounds=1", "--set", "evaluation.baselines=[]"]
    run(tmp_path, "-m", "wardround", *shlex.split(command.replace("\\\n", " ")), *quick)
    folder = tmp_path / "runs" / "first"
    told = json.loads((folder / "sites.json").read_text())
    assert {name: site["notices"] for name, site in told.items()} == {"north": {}, "south": {}}
    (record,) = (folder / "rounds.jsonl").read_text().splitlines()
    assert sorted(json.loads(record)["answered"]) == ["north", "south"]


def test_site_data_page_describes_every_key_of_the_site_file():
    described = set(re.findall(r"`([a-z_.]+)`", SITE_DATA.read_text()))
    for table, section in SiteFile.model_fields.items():
        assert issubclass(section.annotation, BaseModel)
        assert {f"{table}.{key}" for key in section.annotation.model_fields} <= described


def test_every_mapping_of_the_formats_page_is_a_valid_site_file():
    text = (ROOT / "docs/data-formats.md").read_text()
    codes = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(codes) == 7
    for code in codes:
        document = tomllib.loads(code)
        data = document["data"]
        data.setdefault("events", {"format": "omop", "path": "x"})
        data.setdefault("labels", "labels.csv")
        validate(SiteFile, {**document, "site": {"name": "x"}}, "data-formats.md")


def test_formats_page_describes_every_key_of_a_table_a_rule_and_every_dataset():
    text = (ROOT / "docs/data-formats.md").read_text()
    described = set(re.findall(r"`([A-Za-z_-]+)`", text)) | set(
        re.findall(r"^(\w+) = ", text, re.M)
    )
    for section in (TableSection, LabelRule):
        assert set(section.model_fields) <= described
    assert set(DATASETS) <= described
    for kind in get_args(WideColumn.model_fields["kind"].annotation):
        assert f"| `{kind}` |" in text


def test_sweep_of_the_sweeps_page_resolves_and_every_key_is_described(tmp_path):
    text = (ROOT / "docs/sweeps.md").read_text()
    (code,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "studies").symlink_to(ROOT / "examples/studies")
    (tmp_path / "sweeps/sweep.toml").write_text(code)
    plan = load_plan(tmp_path / "sweeps/sweep.toml")
    assert (len(plan.settings), len(plan.trials)) == (6, 30)
    described = set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE))
    keys = {f"sweep.{name}" for name in SweepSection.model_fields}
    keys |= {f"sites.{name}" for name in SitesSection.model_fields}
    assert keys | {"grid", "set"} <= described
    assert set(SyntheticSection.model_fields) <= set(re.findall(r"`([a-z_]+)`", text))


def test_shifts_page_gives_every_kind_with_its_keys_and_defaults(tmp_path):
    text = (ROOT / "docs/shifts.md").read_text()
    rows = dict(
        re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", text.split("## Other labels")[0], re.MULTILINE)
    )
    common = set(ShiftSection.model_fields)
    for name, kind in KINDS.items():
        fields = {k: f for k, f in kind.section.model_fields.items() if k not in common}
        defaults = {k: f.get_default(call_default_factory=True) for k, f in fields.items()}
        shown = [
            f"`{k}`" if fields[k].is_required() else f"`{k} = {json.dumps(default)}`"
            for k, default in defaults.items()
        ]
        assert rows[name] == ", ".join(shown)
    (code,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "shifts.toml").write_text(code)
    assert len(load_shifts(tmp_path / "shifts.toml").shifts) == 2


def test_script_of_the_privacy_page_recomputes_a_run_s_figures(tmp_path, write_site, make_study):
    for name in ("bern", "basel"):
        write_site(tmp_path / "sites" / name, 100, seed=len(name))
    study = make_study(privacy={"mechanism": "dp_sgd", "epsilon": 3.0})
    simulate(study, tmp_path / "sites", tmp_path / "run", workers=0)
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/privacy.md").read_text(), re.DOTALL)
    (tmp_path / "recompute.py").write_text(code)
    lines = run(tmp_path, "recompute.py", "run/privacy.json").splitlines()
    assert [line.split()[0] for line in lines] == ["basel", "bern"]
    for line in lines:
        _, theirs, ours = line.split()
        assert float(ours) == pytest.approx(float(theirs), rel=2e-3)
        assert 2.9 < float(ours) <= 3.0


def run(folder, *arguments):
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout
