"""Updates that are left out of a round: compared with the others', or judged by a trusted site."""

import json

import pytest

from federation.errors import UserError
from server.robust import ASTRAY, FAR
from server.screening import HARMFUL, NOT_JUDGED
from simulations.runner import simulate

NAMES = ("ash", "birch", "cedar", "elm", "fir")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_site):
    sites = tmp_path_factory.mktemp("sites")
    for i, name in enumerate(NAMES):
        given = {"first_id": 1000 * i + 1, "seed": i, "splits": splits(1000 * i + 1, 100)}
        write_site(sites / name, 100, notes=name == "fir", **given)
    return sites


def splits(first, patients):
    """Sick and well patients alike, the same in every session."""
    names = ["train"] * 6 + ["tuning"] * 2 + ["held_out"] * 2
    return {first + k: names[k % 10] for k in range(patients)}


@pytest.fixture
def rounds_of(folder, tmp_path, make_study):
    """Return a function: screening, hostile section -> the rounds' records."""

    def run(screening, hostile=None, modalities=("ehr",), workers=0, **strategy):
        faults = {"simulation": {"faults": {"hostile": [hostile]}}} if hostile else {}
        study = make_study(
            *modalities,
            split={"by": "given"},
            training={"rounds": 2, "local_epochs": 4, "optimizer": {"name": "sgd", "lr": 0.1}},
            strategy={"screening": screening, **strategy},
            **faults,
        )
        simulate(study, folder, tmp_path / "run", workers=workers)
        lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return run


def hostile(attack, scale):
    return {"attack": attack, "sites": ["birch"], "scale": scale}


@pytest.mark.parametrize(
    ("screening", "attack", "reason"),
    [
        ({"norm_ratio": 3.0}, hostile("scaled_update", 20.0), FAR),
        ({"least_cosine": 0.0}, hostile("sign_flip", 1.0), ASTRAY),
        ({"judge": "ash", "most_harm": 0.01}, hostile("sign_flip", 30.0), HARMFUL),
    ],
)
def test_hostile_update_is_left_out_and_the_honest_ones_count(rounds_of, screening, attack, reason):
    for record in rounds_of(screening, attack):
        assert record["rejected"] == {"birch": reason}
        assert record["answered"] == [name for name in NAMES if name != "birch"]
        assert "birch" not in record["sites"]


def test_honest_sites_stay_though_one_of_them_alone_has_notes(rounds_of):
    screening = {"norm_ratio": 20.0, "least_cosine": -0.5, "judge": "ash", "most_harm": 0.2}
    for record in rounds_of(screening, modalities=("ehr", "text")):
        assert not record["rejected"]
        assert record["answered"] == list(NAMES)


def test_judge_that_is_no_site_is_refused_before_anything_is_read(rounds_of):
    with pytest.raises(UserError, match=r'no site is named "oak"'):
        rounds_of({"judge": "oak", "most_harm": 0.01})


def test_record_says_so_where_the_judge_may_not_tell_of_its_few_patients(
    folder, rounds_of, write_site
):
    write_site(folder / "gum", 30, first_id=9001, seed=9, splits=splits(9001, 30))
    for record in rounds_of({"judge": "gum", "most_harm": 0.01}, hostile("sign_flip", 30.0)):
        assert record["screening"] == NOT_JUDGED
        assert not record["rejected"]
