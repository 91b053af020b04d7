"""The file for Ray's launcher is what the launcher takes, and the page says what it needs."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[1]
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


@pytest.fixture
def launcher():
    return yaml.safe_load((ROOT / "examples/cluster.yaml").read_text())


def test_example_for_ray_s_launcher_follows_its_schema(launcher):
    jsonschema.validate(launcher, json.loads(SCHEMA.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(launcher | {"workers": 2}, json.loads(SCHEMA.read_text()))


def test_example_installs_what_is_constrained_and_starts_ray_with_the_token(launcher):
    assert launcher["max_workers"] == len(launcher["provider"]["worker_ips"])
    installs = [command for command in launcher["setup_commands"] if " install " in command]
    assert installs and all("--constraint constraints.txt" in command for command in installs)
    for who in ("head", "worker"):
        commands = launcher[f"{who}_start_ray_commands"]
        assert not [command for command in commands if "ray stop" in command]
        assert all("RAY_AUTH_MODE=token" in command for command in commands)


def test_cluster_page_is_named_where_the_option_is():
    readme = (ROOT / "README.md").read_text()
    assert "`--ray-address` on a cluster ([docs/cluster.md](docs/cluster.md))" in readme
    assert "examples/cluster.yaml" in (ROOT / "docs/cluster.md").read_text()
