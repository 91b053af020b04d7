"""Of a coordinator's app bundle a site reads the digest and nothing else."""

import io
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from federation.bundle import bundle_digest, write_bundle

PROGRAM = """
import io, sys
from pathlib import Path
from unittest import mock

import clients.clientapp as ours
from flwr.supernode.runtime import run_clientapp as process
from federation.flower import take_over_clientapp

take_over_clientapp(ours._see_bundle, ours._loader)
before = list(sys.path)
process.install_from_fab(Path(sys.argv[1]).read_bytes(), skip_prompt=True)
load = process.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
answer = load("wardround/wardround", "0.1.0", "0" * 64)
import clients.app
print(answer.keywords["expected_bundle"], sys.path == before, clients.app.__file__)
try:
    process.install_app_dependencies("x")
except RuntimeError as refusal:
    print(refusal)
"""


def answers(bundle: bytes, folder: Path) -> list[str]:
    file = folder / "bundle.fab"
    file.write_bytes(bundle)
    command = [sys.executable, "-P", "-c", PROGRAM, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_a_bundle_with_code_is_neither_unpacked_nor_imported(tmp_path):
    marker = tmp_path / "ran"
    evil = f"open({str(marker)!r}, 'w').write('x')\napp = None\n"
    ours = (write_bundle(tmp_path / "b") / "pyproject.toml").read_text()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as fab:
        fab.writestr("pyproject.toml", ours)
        fab.writestr("clients/__init__.py", evil)
        fab.writestr("clients/app.py", evil)
    told = answers(written.getvalue(), tmp_path)
    installed = Path(__file__).parents[2] / "clients/app.py"
    assert told == [f"False True {installed}", "a site installs nothing for a coordinator"]
    assert not marker.exists()


def test_the_bundle_that_is_submitted_is_the_one_that_sites_expect(tmp_path):
    assert sha256(build_fab_from_disk(write_bundle(tmp_path / "b"))).hexdigest() == bundle_digest()
