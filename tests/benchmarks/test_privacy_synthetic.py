from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from federation.study import load_study

SEED = 5

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # where it finds `reporting`
synthetic = importlib.import_module("privacy_synthetic")


def test_prepared_sites_divide_patients_alike_and_have_the_cap_out_of_the_way(tmp_path):
    file = tmp_path / "bayview" / "site.toml"
    file.parent.mkdir()
    file.write_text("[policy]\nminimum_cell = 10\n")
    for _ in range(2):
        synthetic.prepare_site(file)
        assert file.read_text().count("epsilon_per_patient = 1000") == 1
    assert len(bytes.fromhex((file.parent / "state/patient.key").read_text())) == 32


def test_summary_compares_means_over_the_same_sites_and_holds_only_at_full_size():
    def model(overall, a, b):
        return synthetic.Trained(overall, {"a": a, "b": b}, {"a": 7.99, "b": 7.98})

    run = synthetic.Comparison(
        model(0.74, 0.78, 0.72),
        model(0.80, 0.81, 0.79),
        model(0.75, 0.75, 0.75),
        {"a": {"a": 0.79, "b": 0.60}, "b": {"a": 0.73, "b": 0.71}},
    )
    rows = {r.name.rpartition("/")[2]: r for r in synthetic.summary_rows([run], None, quick=False)}
    assert rows["share_of_non_private"].measured == pytest.approx(0.8)
    assert rows["share_of_non_private"].holds
    assert rows["best_local_auroc"].measured == pytest.approx(0.72)  # b's, not a's at home
    assert rows["better_than_any_site_alone"].measured == pytest.approx(0.03)
    assert rows["better_than_any_site_alone"].holds
    assert "1 of 2 sites" in rows["local_at_home_auroc"].note
    assert "a 7.99" in next(
        r.note
        for r in synthetic.summary_rows([run], None, quick=True)
        if r.name == "privacy/synthetic/epsilon_8/federated_auroc"
    )
    assert all(r.holds is None for r in synthetic.summary_rows([run], None, quick=True))


def test_reference_study_has_the_same_modalities_and_no_privacy():
    private = load_study(synthetic.STUDIES / "synthetic-private.toml")
    plain = synthetic.without(
        synthetic.settled(synthetic.STUDIES / "synthetic.toml", SEED), "modalities", "image"
    )
    assert plain.modalities.names == private.modalities.names
    assert (plain.split, plain.training.rounds) == (private.split, private.training.rounds)
    assert (plain.privacy.mechanism, private.privacy.mechanism) == ("none", "dp_sgd")
