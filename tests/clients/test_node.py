"""How a site connects: with its own kit, and its own programs before Flower's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clients.node import load_connection, write_programs
from clients.site import load_site
from federation.errors import UserError
from federation.flower import COMMANDS


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "connection.toml").write_text('consortium = "c"\nsite = "bern"\naddress = "h:8443"\n')
    (kit / "ca.crt").write_text("certificate")
    (kit / "node.key").write_text("key")
    (kit / "node.key").chmod(0o600)
    return kit


@pytest.fixture
def site(tmp_path: Path, write_site):
    return load_site(write_site(tmp_path / "bern", 20))


def test_a_kit_of_another_site_is_refused(kit, tmp_path, write_site):
    other = load_site(write_site(tmp_path / "basel", 20))
    with pytest.raises(UserError, match='kit of "bern", and the site file is that of "basel"'):
        load_connection(kit, other)


def test_a_key_that_others_may_read_is_refused(kit, site):
    assert load_connection(kit, site).address == "h:8443"
    (kit / "node.key").chmod(0o640)
    with pytest.raises(UserError, match=r"others than its owner.*\n.*chmod 600"):
        load_connection(kit, site)


def test_every_program_that_flower_may_start_is_one_of_ours(tmp_path):
    own = tmp_path / "bin"
    write_programs(own)
    assert "flwr-clientapp" in COMMANDS and len(COMMANDS) >= 6
    for command in COMMANDS:
        assert shutil.which(command, path=f"{own}{os.pathsep}{os.environ['PATH']}") == str(
            own / command
        )
    for command in set(COMMANDS) - {"flwr-clientapp"}:
        ran = subprocess.run([own / command, "--token", "x"], capture_output=True, text=True)
        assert ran.returncode == 1
        assert f"runs no {command} for a coordinator" in ran.stderr
    assert "clients.clientapp" in (own / "flwr-clientapp").read_text()
