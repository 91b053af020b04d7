"""A report in a browser: no serious accessibility violation, no network, usable by keyboard."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from run_folder import write_run_folder

from server.report import write_report

CHECK = Path(__file__).parents[1] / "pages" / "check.mjs"
TOOLS = Path(os.environ.get("WARDROUND_PAGES", Path.home() / ".cache" / "wardround-pages"))

missing = [
    what
    for what, there in (
        ("node", shutil.which("node")),
        ("chromium", shutil.which("chromium")),
        ("axe-core", (TOOLS / "node_modules/axe-core").is_dir()),
        ("playwright-core", (TOOLS / "node_modules/playwright-core").is_dir()),
    )
    if not there
]


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (CONTRIBUTING.md)")
def test_report_can_be_used_by_everybody(tmp_path):
    page = write_report(write_run_folder(tmp_path / "run"))
    done = subprocess.run(
        ["node", str(CHECK), str(page)],
        env={**os.environ, "WARDROUND_PAGES": str(TOOLS)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == []
