"""The page on adding an encoder: its file and its line make one that passes the shared test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
PACKAGES = ("federation", "clients", "server", "simulations", "wardround", "tests")


def test_encoder_of_the_page_passes_the_test_that_every_encoder_passes(tmp_path):
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (where,) = re.findall(r"`(federation/models/encoders/\w+\.py)`:", PAGE.read_text())
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "end_to_end")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / where).write_text(file)
    registry = tmp_path / "federation/models/registry.py"
    text = registry.read_text()
    marker = "EHR: Mapping[str, Encoder] = {\n"
    assert marker in text
    registry.write_text(text.replace(marker, f"{marker}    {line}"))

    (command,) = re.findall(r"\.venv/bin/pytest (.*)\n", PAGE.read_text())
    ended = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *command.split())
    assert re.search(r"[6-9] passed", ended.stdout), ended.stdout
    ended = run(tmp_path, "-m", "wardround", "models", "squeezed")
    assert "a narrow layer" in ended.stdout


def run(folder, *arguments):
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended
