"""``wardround models`` tells what there is."""

import json
import re
import subprocess
import sys
from pathlib import Path

from federation.models.registry import ENCODERS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def run(*arguments):
    command = [sys.executable, "-m", "wardround", "models", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_all_encoders_are_listed_with_their_options_and_one_alone_too():
    told = json.loads(run("--json").stdout)
    names = [(one["modality"], one["name"]) for one in told]
    assert names == [(m, name) for m, encoders in ENCODERS.items() for name in encoders]
    one = json.loads(run("transformer", "--json").stdout)
    assert one in told
    assert one["options"] == {"max_events": 256, "layers": 2, "heads": 4}
    assert "max_events = 256" in run("transformer").stdout


def test_unknown_encoder_is_refused_with_the_nearest_name():
    ended = run("resnet11")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert 'Did you mean "resnet1' in ended.stderr


def test_page_of_models_lists_every_encoder():
    table = PAGE.read_text().split("| encoder |")[1].split("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines())))
    assert {name for encoders in ENCODERS.values() for name in encoders} <= listed
