"""The commands: one clear message and exit code 2 for a mistake, the folder as the last line."""

import subprocess
import sys
from pathlib import Path

import pytest

from simulations.shifts.plan import load_shifts

EXAMPLES = sorted((Path(__file__).parents[3] / "examples/shifts").glob("*.toml"))


def wardround(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_reshape_synthetic_hospitals(consortium, tmp_path, file):
    assert load_shifts(file).shifts
    mild = tmp_path / "shifts.toml"
    strength = "strength = 0.2"  # hospitals of 60 patients bear no more
    text = file.read_text().replace("seed = 7\n", f"seed = 7\n{strength}\n", 1)
    mild.write_text(text.replace(f"{strength}\nstrength = 0.3", strength))
    ended = wardround("reshape", consortium, "--shifts", mild, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [str(tmp_path / "out")]
    assert (tmp_path / "out/shifts.json").is_file()


def test_synthesize_with_shifts_writes_the_record(tmp_path):
    file = tmp_path / "shifts.toml"
    file.write_text('[[shift]]\nkind = "prevalence"\nstrength = 0.3\n')
    size = ("--sites", 2, "--patients", 40)
    ended = wardround("synthesize", tmp_path / "out", *size, "--shifts", file)
    assert ended.returncode == 0, ended.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["bayview", "shifts.json", "st-elsewhere", "truth.json", "truth.parquet"]


def test_mistakes_end_in_one_message(consortium, tmp_path):
    file = tmp_path / "shifts.toml"
    file.write_text('[[shift]]\nkind = "prevalance"\n')
    for command in (
        ("reshape", consortium, "--shifts", file, "--out", tmp_path / "out"),
        ("synthesize", tmp_path / "out", "--shifts", file),
    ):
        ended = wardround(*command)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert 'kind: "prevalance" is not known' in ended.stderr
        assert 'Did you mean "prevalence"?' in ended.stderr
        assert not (tmp_path / "out").exists()
    ended = wardround("reshape", consortium, "--shifts", tmp_path / "no.toml", "--out", "x")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no such file" in ended.stderr


def test_shift_that_does_nothing_is_a_warning(write_site, tmp_path):
    for k, name in enumerate("ab"):
        write_site(tmp_path / "sites" / name, 40, seed=k)
    file = tmp_path / "shifts.toml"
    file.write_text('[[shift]]\nkind = "scanner"\n')
    ended = wardround("reshape", tmp_path / "sites", "--shifts", file, "--out", tmp_path / "out")
    assert ended.returncode == 0
    assert "warning: shift 1 (scanner) did nothing at a, b: no images" in ended.stderr
