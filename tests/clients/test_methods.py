"""What a site does in a round under each strategy, on real cohorts and through its ClientApp."""

import numpy as np
import pytest
from asking import Asked

from clients.app import Asked as Question
from clients.app import answer
from clients.workbench import Workbench
from federation.layout import LOCAL, Layout
from federation.messages import EVALUATE, TRAIN, Instruction
from federation.models.build import build_model
from federation.vocabulary import agreed_vocabulary
from simulations.workbench import SimulatedWorkbench

SGD = {"name": "sgd", "lr": 0.3}
METHODS = {
    "fedavg": {},
    "fedprox": {"mu": 0.5},
    "scaffold": {},
    "feddyn": {"alpha": 0.2},
    "qfedavg": {},
    "afl": {},
    "fedper": {},
    "fedrep": {},
    "ditto": {"pull": 0.3},
    "apfl": {"share": 0.6, "share_lr": 2.0},
}
SIZES = {"ash": 70, "birch": 45, "cedar": 58}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    return {
        name: str(write_site(folder / name, size, seed=i, notes=name != "cedar") / "site.toml")
        for i, (name, size) in enumerate(SIZES.items())
    }


@pytest.fixture
def study_of(make_study):
    def study_of(name, **more):
        training = {"batch_size": 8, "optimizer": SGD, "rounds": 4, **more.pop("training", {})}
        return make_study(
            "ehr",
            "text",
            strategy={"name": name, **METHODS.get(name, {})},
            training=training,
            **more,
        )

    return study_of


def instruction_of(study, round_, seed=0, **more):
    """What a coordinator could send in a round: weights, and where it has one a control variate."""
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    start = build_model(study, vocabulary).weights()
    rng = np.random.default_rng([seed, round_])
    drift, control = rng.normal(0, 0.02, (2, len(start))).astype(np.float32)
    if study.strategy.name != "scaffold":
        control = None
    return Instruction(
        study, round=round_, vocabulary=vocabulary, weights=start + drift, control=control, **more
    )


def rounds_of(study, files, store, together, rounds=3):
    """Train rounds at sites of one process; return what each sent in each round."""
    bench = SimulatedWorkbench(sorted(files), store, together)
    bench.use_memories(store / "personal")
    found = []
    for round_ in range(1, rounds + 1):
        records = instruction_of(study, round_).to_records()
        replies = answer([Question(TRAIN, records, file) for file in files], bench)
        assert [reply.status for reply in replies] == ["ok"] * len(files)
        found.append(replies)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_sites_trained_together_send_what_each_would_alone_in_any_company(
    folders, study_of, tmp_path, name
):
    study, files = study_of(name), list(folders.values())
    whole = rounds_of(study, files, tmp_path / "whole", True)
    alone = rounds_of(study, files, tmp_path / "alone", False)
    for together, single in zip(whole, alone, strict=True):
        for one, other in zip(together, single, strict=True):
            assert one.update == pytest.approx(other.update, abs=1e-5)
            assert one.body.steps == other.body.steps
    for place in (2, 0):
        some = rounds_of(study, [files[place]], tmp_path / f"some-{place}", True)
        for together, (one,) in zip(whole, some, strict=True):
            assert np.array_equal(one.update, together[place].update)
            assert one.body == together[place].body


class Site(Asked):
    """A deployed site, whose process can be started anew."""

    def __init__(self, file):
        super().__init__(file, Workbench())


@pytest.fixture
def deployed(tmp_path, write_site):
    folder = write_site(tmp_path / "bern", 80, notes=True)
    return folder


KEEPING = ["scaffold", "feddyn", "fedper", "fedrep", "ditto", "apfl"]


@pytest.mark.parametrize("name", KEEPING)
def test_memory_survives_a_restart_and_a_repeated_round_gives_the_same_bits(
    deployed, study_of, name, tmp_path, write_site
):
    study, run = study_of(name), "a1"
    site = Site(deployed)
    first = site.ask(TRAIN, instruction_of(study, 1, run=run))
    again = site.ask(TRAIN, instruction_of(study, 1, run=run))
    assert np.array_equal(first.update, again.update)
    second = site.ask(TRAIN, instruction_of(study, 2, run=run))
    restarted = Site(deployed).ask(TRAIN, instruction_of(study, 2, run=run))
    assert np.array_equal(second.update, restarted.update)
    forgetful = Site(deployed).ask(TRAIN, instruction_of(study, 2, run="b2"))
    if name not in ("ditto", "apfl"):  # what these send does not follow from their own models
        assert not np.array_equal(second.update, forgetful.update)
    files = sorted((deployed / "state" / "personal" / run / "federated").iterdir())
    assert [file.name for file in files] == ["000001.safetensors", "000002.safetensors"]


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [
        ("fedper", "none"),
        ("fedrep", "none"),
        ("fedbn", "none"),
        ("fedper", "dp_sgd"),
        ("fedbn", "dp_sgd"),
    ],
)
def test_a_sites_own_part_never_leaves(tmp_path, write_site, make_study, name, mechanism):
    """Its update is zero there, and numbers planted there are in no byte that leaves."""
    folder = write_site(tmp_path / "bern", 60, images=True)
    privacy = {"mechanism": mechanism} | ({"epsilon": 4.0} if mechanism == "dp_sgd" else {})
    training = {"batch_size": 8, "optimizer": SGD, "rounds": 2}
    study = make_study("ehr", "image", strategy={"name": name}, privacy=privacy, training=training)
    site, run = Site(folder), "a1"
    site.ask(TRAIN, instruction_of(study, 1, run=run))
    memory = site_memory(folder, run)
    planted = memory.last()
    model = build_model(study, agreed_vocabulary(study.modalities.ehr))
    own = np.zeros(len(model.vector), bool)
    for part in model.parts:
        own[part.start : part.stop] = part.name == LOCAL
    assert own.any()
    assert not planted["own"][~own].any()
    marks = np.linspace(0.01, 0.02, own.sum(), dtype=np.float32)
    planted["own"][own] = marks
    memory.keep(1, planted)
    reply = site.ask(TRAIN, instruction_of(study, 2, run=run))
    assert reply.status == "ok"
    assert not reply.update[own].any()
    assert reply.update[~own].any()
    assert set(reply.body.patients) == {part.name for part in model.parts} - {LOCAL}
    kept = site_memory(folder, run).last()["own"][own]
    for secret in (marks, kept):
        for start in range(0, len(secret) - 3, 4):
            assert secret[start : start + 4].tobytes() not in site.sent
    assert reply.update[:4].tobytes() in site.sent


def site_memory(folder, run):
    return Workbench().memory(str(folder), run, "federated")


def test_a_part_that_few_patients_moved_does_not_leave_with_a_control_variate(
    tmp_path, write_site, study_of
):
    """SCAFFOLD sends two vectors: what is withheld of the update is withheld of both."""
    notes = [(i, None, "NOTE//RADIOLOGY", None, "Clear lungs.") for i in range(1, 5)]
    folder = write_site(tmp_path / "bern", 60, more_events=notes)
    text = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(text + '\n[data.notes]\nformat = "meds"\n')
    study = study_of("scaffold")
    reply = Site(folder).ask(TRAIN, instruction_of(study, 1))
    model = build_model(study, agreed_vocabulary(study.modalities.ehr))
    assert reply.body.patients["text"] == 0
    for part in Layout.of(study.strategy, model.parts).update:
        assert reply.update[part.start : part.stop].any() == (part.name != "text")


def test_apfl_learns_its_share_and_each_site_its_own(folders, study_of, tmp_path):
    rounds_of(study_of("apfl"), list(folders.values()), tmp_path, True)
    shares = {}
    for name in folders:
        memory = SimulatedWorkbench(list(folders.values()), tmp_path)
        memory.use_memories(tmp_path / "personal")
        shares[name] = float(memory.memory(folders[name], "", "federated").last()["share"][0])
    assert len(set(shares.values())) == 3
    assert all(0 < share <= 1 and share != 0.6 for share in shares.values())


def test_a_diverged_round_does_not_spoil_those_that_follow(deployed, study_of):
    """A control variate that is not a number would make every later update one."""
    study, run = study_of("scaffold"), "a1"
    site = Site(deployed)
    first = instruction_of(study, 1, run=run)
    assert site.ask(TRAIN, first).status == "ok"
    wild = Instruction(
        study, round=2, vocabulary=first.vocabulary, run=run, control=first.control,
        weights=np.full_like(first.weights, 3e37),
    )  # fmt: skip
    assert not np.isfinite(site.ask(TRAIN, wild).update).all()
    after = site.ask(TRAIN, instruction_of(study, 3, run=run))
    assert np.isfinite(after.update).all()


def test_a_damaged_memory_stops_the_site_with_a_status_and_no_word_more(deployed, study_of):
    study, run = study_of("ditto"), "a1"
    Site(deployed).ask(TRAIN, instruction_of(study, 1, run=run))
    (file,) = (deployed / "state" / "personal" / run / "federated").iterdir()
    file.write_bytes(b"broken")
    for kind, more in ((TRAIN, {}), (EVALUATE, {"split": "held_out"})):
        reply = Site(deployed).ask(kind, instruction_of(study, 2, run=run, **more))
        assert (reply.status, reply.body) == ("the site's files need attention", None)
