"""The round loop and the whole run: failures, rejections, quorum, resumption, comparators."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from federation.errors import NoUsableModel, Refused, UserError
from federation.messages import TRAIN, Reply
from federation.models.build import build_model
from federation.vocabulary import Scale, Vocabulary, agreed_vocabulary
from server.coordinator import Progress, run_study
from server.course import Standing
from server.exchange import Exchange
from server.report import write_report
from server.rounds import run_rounds
from server.run_folder import RunFolder
from server.task import Task
from simulations.grids import LocalGrid
from simulations.runner import simulate


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    return {
        name: write_site(folder / name, 50, first_id=1000 * i + 1, seed=i, images=name == "ash")
        / "site.toml"
        for i, name in enumerate(["ash", "birch", "cedar"])
    }


@pytest.fixture(scope="module")
def folder(sites):
    return sites["ash"].parent.parent


class TamperedGrid(LocalGrid):
    """A grid in which some sites' training replies are replaced."""

    def __init__(self, sites, tamper):
        super().__init__(sites)
        self.tamper, self.known = tamper, dict(self.names)
        self.rounds = 0

    def _answer(self, messages, end):
        training = messages[0].metadata.message_type == TRAIN
        if training:
            self.rounds = int(messages[0].metadata.group_id)
        asked = {m.metadata.message_id: m for m in messages}
        for reply in super()._answer(messages, end):
            message = asked[reply.metadata.reply_to_message_id]
            site = self.known[message.metadata.dst_node_id]
            changed = self.tamper(site, self.rounds, message, reply) if training else reply
            if changed is not None:
                yield changed


def with_update(reply, change):
    """Return the reply with another update."""
    update = Reply.from_records(reply.content, TRAIN).update
    values = change(update.copy())
    data = values.tobytes()
    reply.content["update"] = ArrayRecord(
        {"flat": Array(values.dtype.name, values.shape, "raw", data)}
    )
    return reply


def spoil(index):
    def change(update):
        update[index] = np.nan
        return update

    return change


def run(sites, study, tamper):
    records = []
    task = Task(
        Exchange(TamperedGrid(sites, tamper)), study, agreed_vocabulary(study.modalities.ehr)
    )
    result = run_rounds(task, on_round=lambda record, _: records.append(record))
    return result, records


def without(sites, *names):
    return {name: file for name, file in sites.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (spoil(3), "not finite"),
        (lambda update: update[:-1], "wrong shape"),
        (lambda update: update * np.float32(1e6) + 1e6, "out of range"),
    ],
)
def test_bad_update_is_rejected_with_its_reason_and_changes_nothing(
    sites, make_study, change, reason
):
    study = make_study(training={"rounds": 2})

    def tamper(site, round_, message, reply):
        return with_update(reply, change) if site == "birch" else reply

    result, records = run(sites, study, tamper)
    clean, _ = run(without(sites, "birch"), study, lambda site, round_, message, reply: reply)
    assert [record["rejected"] for record in records] == [{"birch": reason}] * 2
    assert records[0]["answered"] == ["ash", "cedar"]
    assert np.array_equal(result.weights, clean.weights)


def test_update_above_the_norm_limit_is_rejected(sites, make_study):
    study = make_study(training={"rounds": 1}, strategy={"maximum_update_norm": 5.0})

    def tamper(site, round_, message, reply):
        return with_update(reply, lambda u: u + np.float32(1)) if site == "ash" else reply

    _, records = run(sites, study, tamper)
    assert records[0]["rejected"] == {"ash": "norm above the study's limit"}


def test_lost_garbled_and_silent_sites_are_told_apart_and_the_run_goes_on(sites, make_study):
    strategy = {"minimum_sites": 1, "round_deadline_seconds": 0.5}
    study = make_study(training={"rounds": 1}, strategy=strategy)

    def tamper(site, round_, message, reply):
        if site == "ash":
            return Message(Error(1, "secret of a patient"), reply_to=message)
        if site == "birch":
            garbled = RecordDict({"reply": ConfigRecord({"status": "John Smith", "rejected": ""})})
            return Message(garbled, reply_to=message)
        return reply

    _, records = run(sites, study, tamper)
    assert records[0]["failed"] == {
        "ash": "the site's process was lost",
        "birch": "the reply could not be read",
    }
    _, records = run(sites, study, lambda s, round_, m, reply: None if s == "cedar" else reply)
    assert records[0]["failed"] == {"cedar": "no reply before the deadline"}


def test_site_that_claims_a_sum_of_many_or_a_reason_of_its_own_is_not_believed(sites, make_study):
    """Partial sums come from a simulation's host alone, never from a deployed site."""
    study = make_study(training={"rounds": 1})
    honest, _ = run(sites, study, lambda site, round_, message, reply: reply)

    def tamper(site, round_, message, reply):
        if site == "ash":
            reply.content["partial"] = ArrayRecord(
                {"flat": Array("int64", (1,), "raw", (2**60).to_bytes(8, "little"))}
            )
            reply.content["reply"]["rejected"] = "John Smith"
        return reply

    result, records = run(sites, study, tamper)
    assert np.array_equal(result.weights, honest.weights)
    assert "John Smith" not in json.dumps(records)


def test_site_that_disconnects_is_recorded_as_not_connected(sites, make_study):
    study = make_study(training={"rounds": 2}, strategy={"minimum_sites": 1})

    def tamper(site, round_, message, reply):
        grid.names = {node: name for node, name in grid.names.items() if name != "elm"}
        return reply

    grid = TamperedGrid({**sites, "elm": sites["ash"]}, tamper)
    records = []
    task = Task(Exchange(grid), study, agreed_vocabulary(study.modalities.ehr))
    run_rounds(task, on_round=lambda record, _: records.append(record))
    assert records[0]["answered"] == ["ash", "birch", "cedar", "elm"]
    assert records[1]["answered"] == ["ash", "birch", "cedar"]
    assert records[1]["failed"] == {"elm": "not connected"}


def test_round_waits_for_a_site_that_is_away_for_a_moment(sites, make_study):
    study = make_study(training={"rounds": 2}, strategy={"minimum_sites": 3})
    away = {"cedar": 3}  # how often it is looked for in vain

    class Blinking(TamperedGrid):
        def get_nodes(self):
            nodes = list(super().get_nodes())
            if self.rounds == 0 or away["cedar"] == 0:
                return nodes
            away["cedar"] -= 1
            return [node for node in nodes if node.name != "cedar"]

    grid = Blinking(sites, lambda site, round_, message, reply: reply)
    records = []
    task = Task(Exchange(grid), study, agreed_vocabulary(study.modalities.ehr), measured=False)
    result = run_rounds(task, on_round=lambda record, _: records.append(record))
    assert result.lost_quorum == ""
    assert away["cedar"] == 0
    assert [record["answered"] for record in records] == [["ash", "birch", "cedar"]] * 2


def test_two_nodes_of_one_name_are_not_asked(sites):
    """Flower lets two nodes register under one name; neither can be told to be the hospital."""
    grid = LocalGrid(sites)
    node = next(node for node, name in grid.names.items() if name == "cedar")
    grid.names[node] = "ash"
    assert list(Exchange(grid).sites()) == ["birch"]


def test_quorum_lost_later_keeps_the_last_model(sites, make_study):
    strategy = {"minimum_sites": 3, "round_deadline_seconds": 0.5}
    study = make_study(training={"rounds": 4}, strategy=strategy)

    def tamper(site, round_, message, reply):
        return None if site == "birch" and round_ == 3 else reply

    result, records = run(sites, study, tamper)
    shorter = make_study(training={"rounds": 2}, strategy=strategy)
    whole, _ = run(sites, shorter, lambda site, round_, message, reply: reply)
    assert result.rounds == 2
    assert "round 3: 2 of 3 sites" in result.lost_quorum
    assert len(records) == 3
    # The studies differ in name only by their rounds; weights of two rounds are the same.
    assert np.array_equal(result.weights, whole.weights)


def test_run_without_any_counted_round_has_no_model(sites, make_study, tmp_path):
    study = make_study(strategy={"minimum_sites": 2, "round_deadline_seconds": 0.5})
    grid = TamperedGrid(sites, lambda site, round_, message, reply: None)
    with pytest.raises(NoUsableModel, match="round 1: 0 of 3 sites") as stopped:
        run_study(Exchange(grid), RunFolder(tmp_path / "run", study), {})
    assert stopped.value.exit_code == 3
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_sites_that_require_privacy_refuse_a_study_without(
    tmp_path, write_site, make_study, folder
):
    for i, name in enumerate(["one", "two"]):
        write_site(tmp_path / "sites" / name, 40, seed=i, policy={"require_privacy": True})
    with pytest.raises(Refused, match="one, two") as stopped:
        simulate(make_study(), tmp_path / "sites", tmp_path / "run", workers=0)
    assert stopped.value.exit_code == 4


def test_resumed_run_equals_one_that_was_not_broken(tmp_path, folder, make_study):
    study = make_study(training={"rounds": 5}, evaluation={"every": 2})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    simulate(study, folder, whole, workers=0)

    def stop_after_three(record, rounds):
        if record["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(study, folder, broken, workers=0, progress=Progress(round_done=stop_after_three))
    with (broken / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "cut')  # what a crash while writing leaves
    simulate(study, folder, broken, workers=0, resume=True)
    for name in ("metrics.json", "model.safetensors", "summaries.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    rounds = [json.loads(line)["round"] for line in (broken / "rounds.jsonl").open()]
    assert rounds == [1, 2, 3, 4, 5]
    assert len(list((broken / "checkpoints").iterdir())) == 5


def test_run_is_not_resumed_with_another_study(tmp_path, folder, make_study):
    simulate(make_study(training={"rounds": 1}), folder, tmp_path / "run", workers=0)
    with pytest.raises(UserError, match="belongs to another study"):
        simulate(
            make_study(training={"rounds": 2}), folder, tmp_path / "run", workers=0, resume=True
        )


def test_prepared_vocabulary_is_fitted_from_all_sites_and_kept(tmp_path, folder, make_study):
    study = make_study(modalities={"ehr": {"vocabulary": "prepared", "width": 8}})
    simulate(study, folder, tmp_path / "run", workers=0)
    vocabulary = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    scales = json.loads((tmp_path / "run" / "normalisation.json").read_text())
    assert "LAB//CRP" in vocabulary["codes"]
    assert vocabulary["buckets"] == 0
    center, width = scales["(value - center) / width"]["LAB//CRP"]
    assert 5 < center < 6
    assert 0.5 < width < 2


def test_site_without_images_does_not_move_the_image_encoder(sites, make_study):
    study = make_study("ehr", "image", training={"rounds": 1}, strategy={"minimum_sites": 1})
    task = Task(
        Exchange(LocalGrid(without(sites, "ash"))), study, agreed_vocabulary(study.modalities.ehr)
    )
    before = build_model(study, task.vocabulary)
    after = run_rounds(task).weights
    moved = before.weights() != after
    for part in before.parts:
        assert moved[part.start : part.stop].any() == (part.name != "image")


def test_comparators_are_trained_and_the_cross_site_matrix_is_complete(
    tmp_path, folder, make_study
):
    study = make_study(
        "ehr", "image", evaluation={"baselines": ["local", "pooled", "single_modality"]}
    )
    simulate(study, folder, tmp_path / "run", workers=0)
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(document["models"]) == {"federated", "local", "pooled", "ehr_only", "image_only"}
    names = {"ash", "birch", "cedar"}
    assert set(document["cross_site"]) == names
    assert all(set(tested) == names for tested in document["cross_site"].values())
    assert document["models"]["local"]["sites"]["ash"] == document["cross_site"]["ash"]["ash"]


def test_sites_learn_what_joining_brings_and_what_a_stranger_may_expect(
    tmp_path, folder, make_study
):
    study = make_study(
        training={"rounds": 6, "batch_size": 8},
        evaluation={"baselines": ["local", "leave_one_out", "logistic_regression"]},
    )
    simulate(study, folder, tmp_path / "run", workers=0)
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    models, names = document["models"], {"ash", "birch", "cedar"}
    assert set(models) == {"federated", "local", "leave_one_out", "logistic_regression"}
    assert set(models["leave_one_out"]["sites"]) == set(document["joining"]["sites"]) == names
    threshold = models["federated"]["threshold"]
    assert (threshold["rule"], threshold["split"]) == ("youden", "tuning")
    for site, one in models["federated"]["sites"].items():
        if "suppressed" not in one:
            assert one["at_threshold"]["threshold"] == threshold["value"]
            joined = document["joining"]["sites"][site]
            assert joined["federated"] == one["auroc"]
            assert joined["local"] == models["local"]["sites"][site]["auroc"]
    kept = json.loads((tmp_path / "run" / "summaries.json").read_text())["models"]
    assert set(kept["leave_one_out"]["sites"]) == names
    write_report(tmp_path / "run")


def test_deployment_leaves_comparators_out_and_says_so(tmp_path, sites, make_study):
    study = make_study(evaluation={"baselines": ["pooled"]})
    outcome = run_study(Exchange(LocalGrid(sites)), RunFolder(tmp_path / "run", study), {})
    assert any("simulation only" in warning for warning in outcome.warnings)


def changed_body(reply, **changes):
    """Return the reply with other values in its body, as a hostile site could send it."""
    body = {**json.loads(reply.content["reply"]["body"]), **changes}
    reply.content["reply"]["body"] = json.dumps(body)
    return reply


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": 1.7e308},
        {"loss": -1.0},
        {"patients": {"ehr": 10**400}},
        {"patients": {"ehr": 2**23, "fusion": 1}},
        {"patients": {"Jane Doe": 20}},
        {"patients": {"ehr": -5}},
    ],
)
def test_numbers_that_no_site_can_have_fail_that_site_alone(sites, make_study, changes):
    study = make_study(training={"rounds": 1})

    def tamper(site, round_, message, reply):
        return changed_body(reply, **changes) if site == "ash" else reply

    _, records = run(sites, study, tamper)
    assert records[0]["failed"] == {"ash": "the reply could not be read"}
    assert records[0]["answered"] == ["birch", "cedar"]
    json.dumps(records, allow_nan=False)


def test_comparator_that_lost_its_quorum_is_left_out_and_named(
    tmp_path, folder, make_study, monkeypatch
):
    """An untrained model must not be reported as the pooled one."""
    answer = LocalGrid._answer

    def without_pooled(grid, messages, end):
        kept = [m for m in messages if m.metadata.dst_node_id != grid.pooled_node]
        return answer(grid, kept, end)

    monkeypatch.setattr(LocalGrid, "_answer", without_pooled)
    study = make_study(evaluation={"baselines": ["pooled"]})
    outcome = simulate(study, folder, tmp_path / "run", workers=0)
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(document["models"]) == {"federated"}
    assert any("no model pooled" in warning for warning in outcome.warnings)


def test_run_stopped_before_its_first_round_is_not_resumed_with_another_study(
    tmp_path, folder, make_study
):
    def stop(text):
        if text.startswith("prepare"):
            raise KeyboardInterrupt

    prepared = {"vocabulary": "prepared", "width": 8}
    study = make_study(modalities={"ehr": prepared})
    with pytest.raises(KeyboardInterrupt):
        simulate(study, folder, tmp_path / "run", workers=0, progress=Progress(tell=stop))
    other = make_study(modalities={"ehr": {**prepared, "vocabulary_size": 1}})
    with pytest.raises(UserError, match="belongs to another study"):
        simulate(other, folder, tmp_path / "run", workers=0, resume=True)
    simulate(study, folder, tmp_path / "run", workers=0, resume=True)
    assert (tmp_path / "run" / "metrics.json").exists()


def test_run_is_not_resumed_on_other_sites(tmp_path, folder, write_site, make_study):
    study = make_study(training={"rounds": 1})
    simulate(study, folder, tmp_path / "run", workers=0)
    for i, name in enumerate(["ash", "oak"]):
        write_site(tmp_path / "others" / name, 40, seed=i)
    with pytest.raises(UserError, match="birch, cedar, oak"):
        simulate(study, tmp_path / "others", tmp_path / "run", workers=0, resume=True)


def test_site_that_joins_late_stands_in_the_privacy_record(tmp_path, sites, make_study):
    study = make_study(training={"rounds": 3})
    grid = LocalGrid(sites)
    everybody = dict(grid.names)
    grid.names = {node: name for node, name in everybody.items() if name != "cedar"}

    def join(record, rounds):
        grid.names = everybody

    folder = RunFolder(tmp_path / "run", study)
    run_study(Exchange(grid), folder, {}, Progress(round_done=join))
    for name in ("privacy.json", "sites.json"):
        told = json.loads((tmp_path / "run" / name).read_text())
        assert set(told.get("sites", told)) == {"ash", "birch", "cedar"}


def test_missing_modality_and_folders_without_a_site_are_warned_of(
    tmp_path, write_site, make_study
):
    for i, name in enumerate(["one", "two"]):
        write_site(tmp_path / "sites" / name, 40, seed=i)
    (tmp_path / "sites" / "three").mkdir()
    study = make_study("ehr", "image", training={"rounds": 1})
    outcome = simulate(study, tmp_path / "sites", tmp_path / "run", workers=0)
    assert any("The folder three was skipped" in warning for warning in outcome.warnings)
    assert any("No site has a patient with image" in warning for warning in outcome.warnings)


def test_vocabulary_reads_back_from_the_run_folder_exactly(tmp_path, make_study):
    folder = RunFolder(tmp_path / "run", make_study())
    assert folder.read_vocabulary() is None
    vocabulary = Vocabulary(("LAB//CRP", "SEX//F"), {"LAB//CRP": Scale(0.1 + 0.2, 1 / 3)}, 7)
    folder.write_vocabulary(vocabulary)
    assert folder.read_vocabulary() == vocabulary


def test_checkpoint_of_round_ten_thousand_is_newer_than_that_before(tmp_path, make_study):
    folder = RunFolder(tmp_path / "run", make_study())
    for round_ in (9999, 10000):
        folder.write_checkpoint(round_, Standing(np.full(3, round_, np.float32)))
    round_, standing = folder.last_checkpoint()
    assert (round_, standing.weights[0]) == (10000, 10000)


@pytest.mark.parametrize(
    "sections",
    [
        {"strategy": {"name": "ditto"}},
        {"personalisation": {"fine_tune_epochs": 1, "calibration": "platt"}},
    ],
)
def test_models_of_the_sites_own_have_thresholds_of_their_own(
    tmp_path, folder, make_study, sections
):
    study = make_study(evaluation={"baselines": ["local", "leave_one_out"]}, **sections)
    simulate(study, folder, tmp_path / "run", workers=0)
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    models, names = document["models"], {"ash", "birch", "cedar"}
    assert models["federated"]["threshold"]["value"] is None
    assert set(models["federated"]["threshold"]["sites"]) == names
    assert "sites" not in models["shared"]["threshold"]
    # a site that took no part is scored by the shared model: it has none of its own
    assert set(models["leave_one_out"]["sites"]) == names
    assert set(document["joining"]["sites"]) == names
    write_report(tmp_path / "run")
