"""Cohorts kept on disk; what happens when there is no room for them."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from clients import store
from federation.errors import UserError
from simulations.runner import simulate


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_full_disk_is_one_error_before_the_first_round_and_leaves_nothing(
    scratch, tmp_path, write_site, make_study, monkeypatch
):
    for name in ("bern", "basel"):
        write_site(tmp_path / "sites" / name)

    def full(arrays, path, **options):
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(UserError, match="No space left on device") as refused:
        simulate(make_study(), tmp_path / "sites", tmp_path / "run", workers=0)
    assert "TMPDIR" in refused.value.remedy
    assert not list(scratch.glob("wardround-*"))
    assert not list((tmp_path / "run").glob("rounds.jsonl"))


def test_really_full_disk_is_the_same_error(tmp_path):
    """On a disk of one megabyte, in a mount namespace that only the child sees."""
    script = """
import torch
from pathlib import Path
from clients.features import ModalityTensor
from clients import store
from federation.errors import UserError
from clients.store import CohortStore
tensor = ModalityTensor(torch.zeros(1_000_000), torch.ones(1, dtype=torch.bool), {})
folder = Path("disk/store")
try:
    CohortStore(folder).keep_tensor(("a",), tensor)
except UserError as error:
    print(error, list(folder.iterdir()))
"""
    (tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=1m tmpfs disk || exit 77; exec "$@"'
    try:
        ended = subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if ended.returncode == 77 or ended.stderr.startswith("unshare:"):
        pytest.skip("needs the right to mount a disk")
    assert ended.returncode == 0, ended.stderr
    assert "cannot be kept here" in ended.stdout
    assert "No space left" in ended.stdout
    assert ended.stdout.strip().endswith("[]")


def test_kept_cohorts_are_for_this_user_alone(scratch, tmp_path, write_site, make_study):
    from simulations.grids import LocalGrid

    grid = LocalGrid({"bern": write_site(tmp_path / "bern") / "site.toml"})
    grid.inspect(make_study())
    modes = [entry.stat().st_mode & 0o077 for entry in [grid.store, *grid.store.iterdir()]]
    assert len(modes) > 1
    grid.close()
    assert modes[0] == 0
