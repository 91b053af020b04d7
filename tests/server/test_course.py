"""A model's course through rounds under the strategies: what sites tell, screening, going on."""

import json

import numpy as np
import pytest

from federation.messages import TRAIN
from federation.vocabulary import agreed_vocabulary
from server.course import Standing
from server.exchange import Exchange
from server.rounds import run_rounds
from server.task import Task
from simulations.grids import LocalGrid

SGD = {"name": "sgd", "lr": 0.1}
POLICY = {"minimum_cell": 2}
"""So that the small tuning splits are always measured."""


class Tampered(LocalGrid):
    """A grid of deployed sites, in which one site's bodies are changed."""

    def __init__(self, sites, changes):
        super().__init__(sites)
        self.changes = changes

    def _answer(self, messages, end):
        asked = {m.metadata.message_id: m for m in messages}
        training = messages[0].metadata.message_type == TRAIN
        for reply in super()._answer(messages, end):
            message = asked[reply.metadata.reply_to_message_id]
            if training and self.names[message.metadata.dst_node_id] == "ash":
                body = {**json.loads(reply.content["reply"]["body"]), **self.changes}
                reply.content["reply"]["body"] = json.dumps(body)
            yield reply


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    return {
        name: write_site(folder / name, 60, first_id=1000 * i + 1, seed=i, policy=POLICY)
        / "site.toml"
        for i, name in enumerate(["ash", "birch", "cedar"])
    }


@pytest.fixture
def study_of(make_study):
    def study_of(rounds=2, strategy=(), **more):
        training = {"rounds": rounds, "batch_size": 16, "optimizer": SGD}
        return make_study(strategy=dict(strategy), training=training, **more)

    return study_of


def run(grid, study, simulated=False, standing=None, start=1):
    """Return how the rounds ended, their records, and how things stood after each."""
    task = Task(Exchange(grid, simulated), study, agreed_vocabulary(study.modalities.ehr))
    records, standings = [], []

    def on_round(record, standing):
        records.append(record)
        standings.append(standing)

    result = run_rounds(task, standing, start, on_round)
    return result, records, standings


@pytest.mark.parametrize(
    ("strategy", "changes", "verdict"),
    [
        ({"name": "fednova"}, {"steps": 10**6}, "out of range"),
        ({"name": "fednova"}, {"steps": 0}, "an update of no steps"),
        ({"name": "fednova"}, {"steps": 10**400}, "the reply could not be read"),
        ({"name": "qfedavg", "q": 2.0}, {"initial_loss": 1e6}, "out of range"),
        ({"name": "qfedavg"}, {"initial_loss": None}, "the loss is missing"),
        ({"name": "afl"}, {"initial_loss": None}, "the loss is missing"),
        ({"name": "afl"}, {"initial_loss": 1e7}, "the reply could not be read"),
        ({"weighting": "inverse_variance"}, {"gradient_variance": -1.0}, "the reply could not"),
        ({"name": "fedavg"}, {"patients": {}}, "a weight is missing"),
    ],
)
def test_numbers_beside_an_update_fail_their_site_alone(
    sites, study_of, strategy, changes, verdict
):
    study = study_of(strategy=strategy)
    result, records, _ = run(Tampered(sites, changes), study)
    without = {name: file for name, file in sites.items() if name != "ash"}
    honest, _, _ = run(LocalGrid(without), study)
    for record in records:
        assert (record["rejected"] | record["failed"])["ash"].startswith(verdict)
        assert record["answered"] == ["birch", "cedar"]
    assert np.array_equal(result.weights, honest.weights)


def test_not_a_number_cannot_be_told(sites, study_of):
    for name in ("loss", "initial_loss", "gradient_variance"):
        _, records, _ = run(Tampered(sites, {name: float("nan")}), study_of(1))
        assert records[0]["failed"] == {"ash": "the reply could not be read"}


def test_a_site_that_names_no_patients_under_central_privacy_breaks_nothing(sites, study_of):
    """There each counts once, so that the body's counts are not needed for the sum."""
    privacy = {"mechanism": "central", "epsilon": 50.0}
    study = study_of(strategy={"weighting": "uniform"}, privacy=privacy)
    _, records, _ = run(Tampered(sites, {"patients": {}}), study)
    assert records[0]["answered"] == ["ash", "birch", "cedar"]
    assert records[0]["sites"]["ash"]["patients"] == 0


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize(
    "strategy",
    [{"name": "fedavg"}, {"name": "scaffold"}, {"name": "afl"}, {"weighting": "inverse_variance"}],
    ids=str,
)
def test_screening_that_leaves_nobody_out_changes_no_bit(sites, study_of, strategy, simulated):
    plain = study_of(3, strategy=strategy)
    loose = study_of(3, strategy={**strategy, "screening": {"norm_ratio": 1000.0}})
    one, _, _ = run(LocalGrid(sites), plain, simulated)
    other, records, _ = run(LocalGrid(sites), loose, simulated)
    assert np.array_equal(one.weights, other.weights)
    assert not any(record["rejected"] for record in records)


PATIENT = {"patience": 1, "metric": "auroc", "minimum_change": 0.9}


def test_a_run_that_ended_of_itself_is_not_trained_on_when_it_is_resumed(sites, study_of):
    """It may have been stopped after the last round, before its results were written."""
    study = study_of(6, selection=PATIENT)
    whole, records, standings = run(LocalGrid(sites), study, True)
    assert "has not improved since round 1" in whole.stopped
    assert len(records) == 2
    resumed, more, _ = run(LocalGrid(sites), study, True, standings[-1], start=3)
    assert more == []
    assert resumed.stopped == whole.stopped
    assert np.array_equal(resumed.weights, whole.weights)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
@pytest.mark.parametrize("simulated", [False, True])
def test_a_site_goes_on_from_its_last_update_that_counted(
    sites, study_of, tmp_path, name, simulated
):
    """A site that was refused is told, and goes on as if it had not been asked."""
    seconds = 600.0 if simulated else 0.5  # only a deployed round waits for the lost answer
    options = {"name": name, "minimum_sites": 1, "round_deadline_seconds": seconds}
    study = study_of(3, strategy=options)
    found = []
    for refused in (True, False):
        grid = Refusing(sites, refused)
        grid.use_memories(tmp_path / str(refused))
        found.append(run(grid, study, simulated)[0].weights)
    assert np.array_equal(*found)


class Refusing(LocalGrid):
    """In the second round, a site's answer is lost after it has trained; or it is not asked."""

    def __init__(self, sites, trains):
        super().__init__(sites)
        self.trains, self.rounds = trains, 0

    def _answer(self, messages, end):
        training = messages[0].metadata.message_type == TRAIN
        self.rounds += training
        ash = next(node for node, name in self.names.items() if name == "ash")
        if not training or self.rounds != 2:
            yield from super()._answer(messages, end)
            return
        if self.trains:
            list(super()._answer([m for m in messages if m.metadata.dst_node_id == ash], end))
        yield from super()._answer([m for m in messages if m.metadata.dst_node_id != ash], end)


STATEFUL = {
    "momentum": {"strategy": {"name": "fedavgm", "ema": 0.6}},
    "adam": {"strategy": {"name": "fedadam"}, "selection": {"keep": "best"}},
    "mixture": {"strategy": {"name": "afl"}, "selection": {"patience": 2}},
    "losses": {
        "strategy": {
            "participation": {"kind": "power_of_choice", "sites": 2, "candidates": 3}
        }
    },
    "variances": {"strategy": {"weighting": "inverse_variance"}},
    "fair": {"strategy": {"name": "qfedavg", "q": 2.0}},
    "clip": {
        "strategy": {"weighting": "uniform"},
        "privacy": {"mechanism": "central", "epsilon": 50.0, "adaptive_clipping": True},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", STATEFUL)
def test_rounds_after_any_standing_are_those_of_the_unbroken_course(sites, study_of, kind):
    study = study_of(5, **STATEFUL[kind])
    whole, records, standings = run(LocalGrid(sites), study, True)
    for done in (1, 3):
        after, more, _ = run(LocalGrid(sites), study, True, copied(standings[done - 1]), done + 1)
        assert np.array_equal(after.weights, whole.weights)
        assert [r["asked"] for r in more] == [r["asked"] for r in records[done:]]
        assert (after.kept, after.stopped) == (whole.kept, whole.stopped)


def copied(standing):
    """As it comes back from disk: nothing in it is shared with the course that goes on."""
    state = {name: np.array(array) for name, array in standing.state.items()}
    return Standing(standing.weights.copy(), state, standing.clip)
