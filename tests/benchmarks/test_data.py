"""The benchmark of data preparation measures what it says, on a small site."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def data(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import data

    yield data
    sys.modules.pop("data")


def test_site_is_prepared_and_opened_again_with_the_same_tensor(data, tmp_path):
    site = data.write_site(tmp_path / "small", 20_000)
    study = tmp_path / "study.toml"
    study.write_text(data.STUDY)
    first, again = (data.prepared(site, study) for _ in range(2))
    assert first["patients"] == again["patients"] == 20
    assert first["hash"] == again["hash"]
    assert again["seconds"] < min(first["seconds"], 1)
    assert 100 < first["peak_mb"] < 4096
