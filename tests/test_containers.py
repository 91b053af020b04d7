"""Container files cannot be built where tests run; they are linted and kept in step instead."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from federation.study import load_study
from server.consortium import load_consortium
from server.provision import provision

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
REHEARSAL = yaml.safe_load((DEPLOY / "compose.rehearsal.yaml").read_text())
USER = "10001:10001"


def test_hadolint_has_no_complaint():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "it is one of the dev extra's packages"
    told = subprocess.run([hadolint, str(DEPLOY / "Containerfile")], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


def test_python_is_one_that_the_project_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least, below = re.findall(r"3\.(\d+)", project["requires-python"])
    used = re.findall(r"^FROM docker.io/library/python:3\.(\d+)-", CONTAINERFILE, re.MULTILINE)
    assert len(used) == 2
    assert all(int(least) <= int(minor) < int(below) for minor in used)


def test_every_installation_takes_the_exact_versions():
    installing = re.findall(r"pip install[^&]*?(?=\n[A-Z]|&&|\Z)", CONTAINERFILE)
    assert len(installing) == 2
    assert all("--constraint constraints.txt" in one for one in installing)


def test_every_package_is_copied_and_let_in():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {one.rstrip("*") for one in found}
    copied = set(re.findall(r"^COPY (\w+) \1$", CONTAINERFILE, re.MULTILINE))
    ignore = (ROOT / ".containerignore").read_text()
    assert copied == packages
    assert packages <= set(re.findall(r"^!(\w+)$", ignore, re.MULTILINE))
    assert (ROOT / ".dockerignore").read_text() == ignore, "docker and podman see the same"


def test_images_run_as_nobody_in_particular_and_say_how_they_are():
    stages = re.split(r"^FROM ", CONTAINERFILE, flags=re.MULTILINE)
    names = {stage.split()[2]: stage for stage in stages[1:]}
    assert re.findall(r"^USER (.*)$", names["base"], re.MULTILINE) == [USER]
    for party in ("server", "site"):
        assert names[party].startswith("base ")
        assert "USER" not in names[party]
        assert f'CMD ["wardround", "{party}", "health", "/kit"]' in names[party]
        assert f'ENTRYPOINT ["wardround", "{party}", "run", "/kit"]' in names[party]


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits")
    provision(load_consortium(DEPLOY / "consortium.rehearsal.toml"), folder)
    return {
        party: yaml.safe_load((folder / where / "compose.yaml").read_text())["services"][service]
        for party, where, service in (
            ("server", "server", "server"),
            ("site", "sites/bayview", "site"),
        )
    }


def services(kits):
    return {**REHEARSAL["services"], "kit of the server": kits["server"], "kit": kits["site"]}


def test_every_service_is_hardened(kits):
    for name, service in services(kits).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] == USER, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name


def test_kits_run_the_images_of_their_version(kits):
    for party, service in kits.items():
        assert service["image"] == f"wardround-{party}:{version('wardround')}"
    assert "ports" not in kits["site"], "a hospital opens none"
    assert "./state:/kit/state" in kits["site"]["volumes"]
    assert ".:/kit:ro" in kits["site"]["volumes"]


def test_the_rehearsal_s_services_are_its_consortium_s_sites():
    consortium = load_consortium(DEPLOY / "consortium.rehearsal.toml")
    sites = REHEARSAL["services"].keys() - {"prepare", "server"}
    assert sites == set(consortium.names)
    assert consortium.server.host == "server"
    for site in sites:
        (volume,) = REHEARSAL["services"][site]["volumes"]
        assert volume["volume"]["subpath"] == f"sites/{site}", "its own folder alone"
    assert REHEARSAL["networks"]["consortium"] == {"internal": True}
    load_study(ROOT / "examples/studies/synthetic.toml")


@pytest.mark.faults
def test_the_rehearsal_s_preparation_makes_what_the_services_mount(tmp_path):
    """The script of the service `prepare`, in a folder in place of the volume."""
    (script,) = REHEARSAL["services"]["prepare"]["command"]
    study = tmp_path / "synthetic.toml"
    shutil.copyfile(ROOT / "examples/studies/synthetic.toml", study)
    changes = {
        "$$": "$",
        "/consortium.toml": str(DEPLOY / "consortium.rehearsal.toml"),
        "/studies/synthetic.toml": str(study),
        "/rehearsal/": f"{tmp_path}/",
        "--patients 80": "--patients 20",
    }
    for old, new in changes.items():
        script = script.replace(old, new)
    script = f'wardround() {{ {sys.executable} -P -m wardround "$@"; }}\n{script}'
    for _ in range(2):  # the second time there is nothing to do
        subprocess.run(["/bin/sh", "-euc", script], check=True, capture_output=True, timeout=100)
    for site in load_consortium(DEPLOY / "consortium.rehearsal.toml").names:
        folder = tmp_path / "sites" / site
        assert (folder / "node.key").stat().st_mode & 0o777 == 0o600
        assert "approved" in (folder / "state/audit.jsonl").read_text()
    assert (tmp_path / "kits/server/server.crt").exists()
