"""The ClientApp of a site, asked with Flower messages: answers, refusals, and nothing more."""

import dataclasses
import struct
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asking import Asked
from flwr.app import ConfigRecord, RecordDict

from clients.workbench import Workbench
from federation.messages import DESCRIBE, EVALUATE, PREPARE, TRAIN, Instruction
from federation.metrics.summary import ScoreSummary
from federation.models.build import build_model
from federation.vocabulary import Vocabulary, agreed_vocabulary
from simulations.host import SimulatedWorkbench


def instruction_for(study, **more):
    ehr = study.modalities.ehr
    vocabulary = agreed_vocabulary(ehr) if ehr else None
    weights = build_model(study, vocabulary).weights()
    return Instruction(study, round=1, vocabulary=vocabulary, weights=weights, **more)


@pytest.fixture
def site(tmp_path, write_site):
    return lambda patients=100, **more: write_site(tmp_path / "bern", patients, **more)


def test_describe_counts_patients_and_suppresses_small_counts(site, make_study):
    splits = dict.fromkeys(range(1, 61), "train") | dict.fromkeys(range(61, 70), "tuning")
    labels = [(i, datetime(2024, 6, 1), True) for i in range(1, 70)] + [(70, None, True)]
    folder = site(100, splits=splits, labels=labels)
    reply = Asked(folder).ask(DESCRIBE, instruction_for(make_study(split={"by": "given"})))
    assert reply.body.patients == {"train": 60, "tuning": "suppressed", "held_out": 0}
    assert reply.body.modalities == {"ehr": "suppressed"}, "69 - 60 would tell of the tuning split"
    assert reply.body.excluded == {"no label": 30, "no prediction time": "suppressed"}
    assert reply.body.minimum_cell == 10


def test_prepare_sends_common_codes_and_leaves_out_what_is_no_code(site, make_study):
    when = datetime(2020, 1, 1)
    extra = [(i, when, "LAB//Crea, serum", 1.0, None) for i in range(1, 101)]
    extra += [(3, when, "RARE//CODE", 1.0, None)]
    study = make_study(modalities={"ehr": {"vocabulary": "prepared"}})
    reply = Asked(site(more_events=extra)).ask(PREPARE, Instruction(study))
    assert reply.status == "ok"
    assert set(reply.body.codes) == {"GENDER//F", "GENDER//M", "LAB//CRP"}


@pytest.mark.parametrize("modality", ["text", "ehr"])
def test_prepare_is_not_answered_unless_the_study_asks_for_it(site, make_study, modality):
    reply = Asked(site(notes=True)).ask(PREPARE, Instruction(make_study(modality)))
    assert (reply.status, reply.body) == ("not an instruction of this version", None)


def test_vocabulary_that_is_not_the_study_s_is_refused(site, make_study):
    """What is asked must be covered by the study's fingerprint."""
    asked = dataclasses.replace(
        instruction_for(make_study()), vocabulary=Vocabulary(("ICD10CM//B20",), {}, 0)
    )
    assert Asked(site()).ask(DESCRIBE, asked).status == "not an instruction of this version"


def test_study_whose_update_would_be_that_of_few_patients_is_refused(site, make_study):
    study = make_study(training={"rounds": 1, "local_steps": 3, "batch_size": 3})
    assert Asked(site()).ask(TRAIN, instruction_for(study)).status == "refused by the site's policy"


@pytest.mark.parametrize(
    "simulation", [{"faults": {"crash": {"probability": 0.5}}}, {"arrival": {"kind": "window"}}]
)
@pytest.mark.parametrize("kind", [DESCRIBE, TRAIN, EVALUATE])
def test_deployed_site_refuses_what_only_a_simulation_plays_and_a_simulated_one_answers(
    site, make_study, kind, simulation, tmp_path
):
    folder = site()
    study = make_study(simulation=simulation)
    instruction = instruction_for(study, split="tuning" if kind == EVALUATE else None)
    reply = Asked(folder).ask(kind, instruction)
    assert (reply.status, reply.body) == ("refused by the site's policy", None)
    bench = SimulatedWorkbench([str(folder)], tmp_path / "store")
    assert Asked(folder, bench).ask(kind, instruction).status == "ok"


def test_stretches_of_the_update_that_too_few_patients_moved_do_not_leave(site, make_study):
    folder = site(60, images=True)
    for file in sorted((folder / "dicom").iterdir())[6:]:
        file.unlink()
    study = make_study("ehr", "image")
    instruction = instruction_for(study)
    reply = Asked(folder).ask(TRAIN, instruction)
    assert reply.body.patients["image"] == 0
    for part in build_model(study, instruction.vocabulary).parts:
        assert reply.update[part.start : part.stop].any() == (part.name != "image")


def test_training_answers_with_the_difference_and_the_patients_behind_each_part(site, make_study):
    study = make_study("ehr", "image", "text", fusion={"kind": "cross_attention"})
    asked = Asked(site(images=True, notes=True))
    instruction = instruction_for(study)
    reply = asked.ask(TRAIN, instruction)
    train = len(Workbench().patients(str(asked.context.node_config["site"]), study).splits["train"])
    assert reply.body.patients == dict.fromkeys(("ehr", "image", "text", "fusion"), train)
    assert reply.body.steps == -(-train // 16)
    assert reply.update.shape == instruction.weights.shape
    assert np.abs(reply.update).max() > 0


def test_part_with_few_patients_behind_it_gets_no_weight(site, make_study):
    extra = [(i, datetime(2020, 1, 1), "NOTE//X", None, "few words") for i in range(1, 8)]
    reply = Asked(site(notes=True, more_events=extra)).ask(
        TRAIN, instruction_for(make_study("ehr", "text"))
    )
    assert reply.body.patients["text"] > 10
    folder = site(more_events=extra)
    (folder / "site.toml").write_text(
        (folder / "site.toml").read_text() + '\n[data.notes]\nformat = "meds"\n'
    )
    reply = Asked(folder).ask(TRAIN, instruction_for(make_study("ehr", "text")))
    assert reply.body.patients["text"] == 0
    assert reply.body.patients["ehr"] > 10


def test_the_same_round_gives_the_same_update_and_another_round_another(site, make_study):
    folder, study = site(), make_study()
    one = instruction_for(study)
    updates = [Asked(folder).ask(TRAIN, one).update.tobytes() for _ in range(2)]
    assert updates[0] == updates[1]
    asked = Asked(folder)
    asked.ask(EVALUATE, instruction_for(study, split="tuning"))
    assert asked.ask(TRAIN, one).update.tobytes() == updates[0]  # nothing is left between messages
    later = dataclasses.replace(one, round=2)
    assert asked.ask(TRAIN, later).update.tobytes() != updates[0]


def test_evaluation_summarises_the_split_and_its_subgroups(site, make_study):
    folder, study = site(200), make_study()
    asked = Asked(folder)
    for split in ("tuning", "held_out"):
        body = asked.ask(EVALUATE, instruction_for(study, split=split)).body
        rows = Workbench().patients(str(folder), study).splits[split]
        assert ScoreSummary.from_json(body.cells[""]).n == len(rows)
        named = set(body.cells) | set(body.withheld)
        assert any(name.startswith("sex=") for name in named) == (split == "held_out")
        assert all(ScoreSummary.from_json(cell).n >= 10 for cell in body.cells.values())


@pytest.mark.parametrize(
    ("splits", "kind", "status"),
    [
        ({1: "held_out"}, TRAIN, "no training patients"),
        ({1: "train"}, TRAIN, "fewer training patients than the site's minimum_cell"),
        ({1: "train"}, EVALUATE, "no patients in this split"),
    ],
)
def test_site_with_too_few_patients_says_so_and_takes_no_part(
    site, make_study, splits, kind, status
):
    study = make_study(split={"by": "given"})
    split = "held_out" if kind == EVALUATE else None
    reply = Asked(site(9, splits=splits)).ask(kind, instruction_for(study, split=split))
    assert reply.status == status


def test_small_held_out_split_is_withheld_whole(site, make_study):
    splits = {i: "held_out" if i < 6 else "train" for i in range(1, 31)}
    study = make_study(split={"by": "given"})
    body = (
        Asked(site(30, splits=splits)).ask(EVALUATE, instruction_for(study, split="held_out")).body
    )
    assert body.cells == {}
    assert body.withheld == {"": "fewer than 10 patients"}


def test_policy_that_requires_privacy_refuses(site, make_study):
    asked = Asked(site(policy={"require_privacy": True}))
    for kind in (DESCRIBE, PREPARE, TRAIN):
        reply = asked.ask(kind, instruction_for(make_study()))
        assert reply.status == "refused by the site's policy"


def test_tampered_study_is_refused(site, make_study):
    records = instruction_for(make_study()).to_records()
    records["study"]["json"] = make_study(study={"seed": 1}).canonical
    assert Asked(site()).ask_records(TRAIN, records).status == "not an instruction of this version"


@pytest.mark.parametrize("kind", [DESCRIBE, PREPARE, TRAIN, EVALUATE])
def test_nonsense_is_answered_with_a_status(site, kind):
    asked = Asked(site())
    for records in (RecordDict(), RecordDict({"study": ConfigRecord({"json": "x"})})):
        assert asked.ask_records(kind, records).status == "not an instruction of this version"


@pytest.mark.parametrize("spoil", ["short", "nan", "none"])
def test_weights_that_do_not_fit_end_in_a_status(site, make_study, spoil):
    good = instruction_for(make_study())
    weights = {"short": good.weights[:-1], "nan": good.weights * np.nan, "none": None}[spoil]
    asked = Asked(site())
    reply = asked.ask(EVALUATE, dataclasses.replace(good, weights=weights, split="tuning"))
    assert reply.status == "not an instruction of this version"
    assert asked.ask(TRAIN, good).status == "ok"  # and it goes on with the next message


def test_node_that_names_no_site_answers_with_a_status(site, make_study):
    asked = Asked(site())
    asked.context.node_config.clear()
    reply = asked.ask(DESCRIBE, instruction_for(make_study()))
    assert reply.status == "the site's files need attention"


def test_missing_file_at_the_site_is_a_status(site, make_study):
    folder = site()
    (folder / "labels.parquet").unlink()
    reply = Asked(folder).ask(TRAIN, instruction_for(make_study()))
    assert reply.status == "the site's files need attention"


# --- planted identifiers

NAME, STREET, RECORD, FILE = "Zimmerblatt", "Elmstreet", "MRN-7731940", "quincy-zimmerblatt.dcm"
SUBJECT = 7_731_940_417
BORN = date(1951, 3, 17)
WHEN = datetime(2023, 11, 19, 4, 41, 37)
VALUE = 31337.25
TEXTS = [NAME, STREET, RECORD, FILE, "Quincy", "quincy", str(SUBJECT), "31337", "1951", "2023-11"]
NUMBERS = [
    struct.pack("<q", SUBJECT),
    struct.pack("<f", VALUE),
    struct.pack("<d", VALUE),
    struct.pack("<q", int(WHEN.timestamp() * 1e6)),
]


@pytest.fixture
def planted_site(tmp_path, write_site, write_dicom):
    """A site where one patient's identity stands in every column, note, tag and file name."""
    text = f"{NAME}, Quincy, {STREET} 12, {RECORD}, born {BORN}."
    hour = timedelta(hours=1)
    rows = [
        (SUBJECT, datetime(BORN.year, BORN.month, BORN.day), "MEDS_BIRTH", None, text),
        (SUBJECT, None, f"GENDER//{NAME}", None, text),
        (SUBJECT, None, f"ETHNICITY//{NAME} {STREET}", None, text),
        (SUBJECT, WHEN - hour, f"NAME//{NAME}", VALUE, text),
        (SUBJECT, WHEN - hour, RECORD, VALUE, RECORD),
        (SUBJECT, WHEN - hour, "LAB//CRP", VALUE, text),
        (SUBJECT, WHEN - hour, "NOTE//RADIOLOGY", None, text),
        (SUBJECT, WHEN - hour, "IMAGE//CR", None, FILE),
        (SUBJECT, WHEN - 2 * hour, "IMAGE//CR", None, f"{RECORD}.dcm"),
        (SUBJECT, WHEN - 3 * hour, "IMAGE//CR", None, f"../{NAME}.dcm"),
        (SUBJECT, WHEN + hour, f"NOTE//{NAME}", None, text),
    ]
    folder = tmp_path / f"{NAME}-{STREET}"
    write_site(folder, 80, images=True, notes=True)
    site = (folder / "site.toml").read_text().replace(f"{NAME}-{STREET}", "bern")
    default = pq.read_table(folder / "labels.parquet").to_pylist()
    labels = [tuple(row.values()) for row in default]
    labels += [(SUBJECT, WHEN, True), (SUBJECT + 1, WHEN, True), (SUBJECT, WHEN + hour, False)]
    write_site(
        folder,
        80,
        images=True,
        notes=True,
        more_events=rows,
        labels=labels,
        subgroups=("sex", "age_band", "ethnicity"),
    )
    (folder / "site.toml").write_text(
        (folder / "site.toml").read_text().replace(f"{NAME}-{STREET}", "bern")
    )
    assert NAME not in site
    (folder / "dicom" / FILE).write_bytes(text.encode())
    write_dicom(
        folder / "dicom" / f"{RECORD}.dcm",
        np.eye(32, dtype=np.uint8),
        PatientName=f"{NAME}^Quincy",
        PatientID=RECORD,
        PatientBirthDate=BORN.strftime("%Y%m%d"),
        PatientComments=text,
        StudyDescription=text,
        InstitutionName=STREET,
    )
    return folder


def leaks(content):
    found = [text for text in TEXTS if text.encode() in content]
    return found + [number for number in NUMBERS if number in content]


def test_the_search_for_planted_identifiers_finds_them():
    assert leaks(f"a {NAME} b".encode()) == [NAME]
    assert leaks(b"x" + struct.pack("<q", SUBJECT)) == [struct.pack("<q", SUBJECT)]


@pytest.mark.parametrize(
    ("vocabulary", "privacy"),
    [
        ("hashed", {"mechanism": "none"}),
        ("prepared", {"mechanism": "none"}),
        ("hashed", {"mechanism": "dp_sgd", "epsilon": 2.0}),
    ],
)
def test_no_planted_identifier_leaves_in_any_reply(planted_site, make_study, vocabulary, privacy):
    study = make_study(
        "ehr",
        "image",
        "text",
        modalities={
            "ehr": {"vocabulary": vocabulary, "width": 8},
            "image": {"width": 8, "size": 32},
            "text": {"width": 8},
        },
        evaluation={"subgroups": ["sex", "age_band", "ethnicity"]},
        privacy=privacy,
    )
    asked = Asked(planted_site)
    replies = [
        asked.ask(DESCRIBE, instruction_for(study)),
        asked.ask(PREPARE, Instruction(study)),
        asked.ask(TRAIN, instruction_for(study)),
        asked.ask(EVALUATE, instruction_for(study, split="tuning")),
        asked.ask(EVALUATE, instruction_for(study, split="held_out")),
    ]
    prepare = "ok" if vocabulary == "prepared" else "not an instruction of this version"
    assert [reply.status for reply in replies] == ["ok", prepare, "ok", "ok", "ok"]
    assert len(asked.sent) > 10_000
    assert leaks(asked.sent) == []


BROKEN = {
    "labels of another type": ("labels.parquet", None),
    "truncated labels": ("labels.parquet", b"PAR1 Zimmerblatt"),
    "truncated events": ("meds/data/0.parquet", b"PAR1 Zimmerblatt"),
    "site file": ("site.toml", b'[site]\nname = "Zimmerblatt Quincy"\n'),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_no_planted_identifier_leaves_when_the_site_fails(planted_site, make_study, kind):
    name, content = BROKEN[kind]
    if content is None:
        columns = {"subject_id": [NAME], "prediction_time": [RECORD], "boolean_value": [STREET]}
        pq.write_table(pa.table(columns), planted_site / name)
    else:
        (planted_site / name).write_bytes(content)
    asked = Asked(planted_site)
    for message_type in (DESCRIBE, TRAIN):
        reply = asked.ask(message_type, instruction_for(make_study("ehr", "text")))
        assert reply.status == "the site's files need attention"
    assert leaks(asked.sent) == []


class Failing(Workbench):
    def cohort(self, file, study, vocabulary):
        raise ValueError(f"{NAME} {RECORD} {SUBJECT} in {file}")


def test_no_planted_identifier_leaves_in_an_unforeseen_error(planted_site, make_study):
    asked = Asked(planted_site, Failing())
    for kind in (DESCRIBE, TRAIN, EVALUATE):
        reply = asked.ask(kind, instruction_for(make_study(), split="tuning"))
        assert reply.status == "the site failed"
    assert leaks(asked.sent) == []


def test_few_who_lack_a_modality_cannot_be_told_by_subtraction(site, make_study):
    folder = site(60, images=True)
    kept = sorted((folder / "dicom").iterdir())
    for file in kept[:4]:
        file.unlink()
    study = make_study(
        "ehr", "image", split={"fractions": {"train": 1, "tuning": 0, "held_out": 0}}
    )
    asked = Asked(folder)
    described = asked.ask(DESCRIBE, instruction_for(study)).body
    assert described.patients["train"] == 60
    assert described.modalities == {"ehr": 60, "image": "suppressed"}


# --- comparing models on the same patients


def test_site_scores_two_models_and_sends_how_their_aurocs_hang_together(site, make_study):
    study = make_study(evaluation={"baselines": ["local"]})
    good = instruction_for(study, split="held_out")
    drawn = np.random.default_rng(0).normal(size=(2, len(good.weights))).astype(np.float32)
    good, other = dataclasses.replace(good, weights=0.3 * drawn[0]), 0.3 * drawn[1]
    asked = Asked(site(200, policy={"score_bins": "fine"}))
    body = asked.ask(EVALUATE, dataclasses.replace(good, reference=other)).body
    alone = asked.ask(EVALUATE, dataclasses.replace(good, weights=other)).body
    assert body.cells == asked.ask(EVALUATE, good).body.cells
    assert body.paired.reference == alone.cells[""]
    assert -1 <= body.paired.correlation <= 1
    same = asked.ask(EVALUATE, dataclasses.replace(good, reference=good.weights)).body
    assert same.paired.correlation == 1.0


@pytest.mark.parametrize("wrong", ["study", "split", "length", "nan"])
def test_second_model_is_scored_only_where_the_study_compares(site, make_study, wrong):
    baselines = [] if wrong == "study" else ["local"]
    study = make_study(evaluation={"baselines": baselines})
    good = instruction_for(study, split="tuning" if wrong == "split" else "held_out")
    spoilt = {"length": good.weights[:-1], "nan": good.weights * np.nan}
    reply = Asked(site()).ask(
        EVALUATE, dataclasses.replace(good, reference=spoilt.get(wrong, good.weights))
    )
    assert (reply.status, reply.body) == ("not an instruction of this version", None)
