"""Studies: resolved the same everywhere, wrong ones explained."""

import copy
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UserError
from federation.models.registry import ENCODERS, foreign_options
from federation.study import Study, load_study

MINIMAL = """
[study]
name = "minimal"
[task]
label = "sick"
[modalities.ehr]
"""


def load(tmp_path, text, *overrides, seed=None):
    file = tmp_path / "study.toml"
    file.write_text(text)
    return load_study(file, overrides, seed)


def complaint(tmp_path, text, *overrides, seed=None):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *overrides, seed=seed)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_minimal_study_gets_the_documented_defaults(tmp_path):
    study = load(tmp_path, MINIMAL)
    assert study.study.seed == 42
    assert (study.split.by, study.split.fractions.train) == ("patient", 0.6)
    assert study.modalities.names == ("ehr",)
    assert (study.training.rounds, study.training.local_epochs) == (20, 1)
    assert study.training.local_steps is None
    assert (study.strategy.name, study.strategy.minimum_sites) == ("fedavg", 2)
    assert study.privacy.mechanism == "none"


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("training.local_epoch=2", "local_epochs"),
        ("strategy.minimum_site=2", "minimum_sites"),
        ("modalities.ehr.bucket=3", "buckets"),
        ("modalities.images.size=64", "image"),
        ("training.optimizer.learning=1", None),
        ("trainin.rounds=2", "training"),
    ],
)
def test_unknown_key_names_the_nearest_valid_one(tmp_path, key, guess):
    message = complaint(tmp_path, MINIMAL, key)
    assert str(tmp_path / "study.toml") in message
    assert "unknown key" in message
    assert "Valid keys here: " in message
    if guess:
        assert f'Did you mean "{guess}"?' in message


@pytest.mark.parametrize(
    ("override", "field", "words"),
    [
        ("training.rounds=0", "training.rounds", "greater than 0"),
        ("training.rounds=many", "training.rounds", "integer"),
        ("training.local_steps=3", None, None),
        ("study.name=Not A Name", "study.name", "pattern"),
        ("study.seed=-1", "study.seed", "greater than or equal to 0"),
        ("task.kind=regression", "task.kind", '"regression" is not one of'),
        ('task.label=""', "task.label", "at least 1"),
        ("split.fractions.train=0.9", "split.fractions", "it must be 1"),
        ("split.by=patients", "split.by", 'Did you mean "patient"?'),
        ("fusion.kind=lately", "fusion.kind", 'Did you mean "late"?'),
        ("fusion.modality_dropout=1.0", "fusion.modality_dropout", "less than 1"),
        ("training.optimizer.momentum=0.9", "training.optimizer", "option of sgd, not of adamw"),
        ("training.optimizer.lr=0", "training.optimizer.lr", "greater than 0"),
        ("training.optimizer.lr=nan", "training.optimizer.lr", "finite"),
        ("training.optimizer.lr=inf", "training.optimizer.lr", "finite"),
        ("modalities.ehr.vocabulary=listed", "modalities.ehr", "needs codes or reference_ranges"),
        ("modalities.ehr.reference_ranges.CRP=[5, 5]", "reference_ranges", "low must be below"),
        ("modalities.ehr.reference_ranges.CRP=[0, nan]", "reference_ranges", "finite"),
        ("modalities.ehr.aggregates=[]", "modalities.ehr.aggregates", "at least 1"),
        ("modalities.ehr.aggregates=['mode']", "modalities.ehr.aggregates", "is not one of"),
        ("modalities.image.size=8", "modalities.image.size", "greater than or equal to 32"),
        ("modalities.image.channels=2", "modalities.image.channels", '"2" is not one of 1 or 3'),
        ("modalities.image.spacing_mm=[5.0, 3.0]", "modalities.image", "is of a volume"),
        ("modalities.image.planes=300", "modalities.image.planes", "less than or equal to 256"),
        ("privacy.mechanism=dp_sgd", "privacy", "needs an epsilon"),
        ("privacy.epsilon=2.0", "privacy", 'mechanism "none" protects nobody'),
        ("privacy.epsilon=-1.0", "privacy.epsilon", "greater than 0"),
        ("privacy.delta=1", "privacy.delta", "less than 1"),
        ("privacy.accountant=gdp", "privacy.accountant", "is not one of"),
        ("privacy.participation=1.5", "privacy.participation", "less than or equal to 1"),
        ("privacy.mechanism=magic", "privacy.mechanism", "is not one of"),
        ("evaluation.baselines=['locl']", "evaluation.baselines", "is not one of"),
        ("evaluation.threshold.rule=f1", "evaluation.threshold.rule", "is not one of"),
        ("evaluation.threshold.rule=sensitivity", "evaluation.threshold", "needs a value"),
        ("evaluation.threshold.value=0.5", "evaluation.threshold", "takes no value"),
        ("evaluation.threshold={rule='fixed', value=0.12}", "evaluation.threshold", "is 0.1 ("),
        ("evaluation.threshold={rule='fixed', value=1.0}", "evaluation.threshold", "less than 1"),
        ("evaluation.subgroups=['gender']", "evaluation.subgroups", "is not one of"),
        ("modalities.ehr=3", "modalities.ehr", "dictionary"),
    ],
)
def test_wrong_value_names_file_field_and_what_was_expected(tmp_path, override, field, words):
    if field is None:
        load(tmp_path, MINIMAL, override)
        return
    message = complaint(tmp_path, MINIMAL, override)
    assert message.startswith(f"{tmp_path / 'study.toml'}: ")
    assert field in message
    assert words in message


@pytest.mark.parametrize(
    ("field", "largest"),
    [
        ("modalities.ehr.width", 4096),
        ("modalities.image.width", 4096),
        ("modalities.text.width", 4096),
        ("modalities.ehr.buckets", 1_048_576),
        ("modalities.text.buckets", 1_048_576),
        ("modalities.ehr.vocabulary_size", 131_072),
        ("modalities.text.max_tokens", 4096),
    ],
)
def test_size_that_could_exhaust_memory_is_refused_before_anything_is_built(
    tmp_path, field, largest
):
    load(tmp_path, MINIMAL, f"{field}={largest}")
    message = complaint(tmp_path, MINIMAL, f"{field}={largest + 1}")
    assert f"{field}: " in message
    assert f"less than or equal to {largest}" in message


def test_a_study_without_any_modality_is_refused(tmp_path):
    message = complaint(tmp_path, MINIMAL.replace("[modalities.ehr]", "[modalities]"))
    assert "at least one of [modalities.ehr]" in message


def test_local_epochs_and_local_steps_exclude_each_other(tmp_path):
    message = complaint(tmp_path, MINIMAL, "training.local_steps=3", "training.local_epochs=1")
    assert "give local_epochs or local_steps, not both" in message
    study = load(tmp_path, MINIMAL, "training.local_steps=3")
    assert (study.training.local_steps, study.training.local_epochs) == (3, None)


def test_every_mistake_is_listed_at_once(tmp_path):
    message = complaint(tmp_path, MINIMAL, "training.rounds=0", "fusion.kind=none")
    assert "training.rounds" in message
    assert "fusion.kind" in message


def test_missing_required_tables_are_named(tmp_path):
    message = complaint(tmp_path, '[study]\nname = "x"\n')
    assert "task: missing" in message
    assert "modalities: missing" in message


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("training.rounds=3", lambda s: s.training.rounds, 3),
        ("training.optimizer.lr = 1e-2", lambda s: s.training.optimizer.lr, 0.01),
        ("study.name=other", lambda s: s.study.name, "other"),
        ('study.intended_use="a = b"', lambda s: s.study.intended_use, "a = b"),
        ("study.intended_use=a=b", lambda s: s.study.intended_use, "a=b"),
        ("modalities.ehr.age=false", lambda s: s.modalities.ehr.age, False),
        ("modalities.ehr.codes=['A//B', 'C']", lambda s: s.modalities.ehr.codes, ("A//B", "C")),
        ("modalities.image={size=32}", lambda s: s.modalities.image.size, 32),
        ("modalities.text.buckets=8", lambda s: s.modalities.text.buckets, 8),
    ],
)
def test_set_takes_toml_values_into_nested_tables(tmp_path, override, read, value):
    assert read(load(tmp_path, MINIMAL, override)) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.rounds", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("training..rounds=3", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("study.name.first=x", '"name" is a value, not a table'),
    ],
)
def test_set_explains_what_it_cannot_apply(tmp_path, override, words):
    message = complaint(tmp_path, MINIMAL, override)
    assert message.startswith(f"--set {override}")
    assert words in message


def test_later_overrides_win_and_the_seed_option_wins_over_all(tmp_path):
    study = load(tmp_path, MINIMAL, "study.seed=1", "study.seed=2", seed=3)
    assert study.study.seed == 3


def test_seed_on_a_study_whose_study_is_no_table_is_explained(tmp_path):
    assert "study" in complaint(tmp_path, 'study = "x"\n', seed=3)


def test_resolved_toml_reads_back_as_the_same_study(tmp_path, make_study):
    study = make_study(
        "ehr",
        "image",
        "text",
        training={"local_steps": 4, "optimizer": {"name": "sgd", "momentum": 0.9}},
        strategy={"maximum_update_norm": 3.5},
        fusion={"kind": "cross_attention"},
    )
    again = load(tmp_path, study.to_toml())
    assert again == study
    assert again.fingerprint == study.fingerprint
    assert tomllib.loads(study.to_toml())["study"]["fingerprint"] == study.fingerprint


def test_spelling_out_defaults_does_not_change_the_fingerprint(tmp_path):
    plain = load(tmp_path, MINIMAL)
    spelled = load(tmp_path, MINIMAL, "training.rounds=20", "fusion.kind=late", "study.seed=42")
    assert spelled.fingerprint == plain.fingerprint
    assert len(plain.fingerprint) == 64


def leaves(table, path=()):
    for key, value in table.items():
        if isinstance(value, dict) and key != "reference_ranges":
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


CHANGED = {
    "intended_use": "other",
    "label": "other",
    "name": "other",
    "reference_ranges": {"LAB//CRP": [0.0, 10.5]},
    "codes": ["A"],
    "negations": ["kein"],
    "absent": "imputed",
    "aggregates": ["last"],
    "subgroups": ["sex"],
    "baselines": ["local"],
    "encoder": {"mlp": "linear"},
    "vocabulary": "prepared",
    "by": "time",
    "kind": {"late": "early"},
    "class_weight": "balanced",
    "weighting": "uniform",
    "window_hours": 24.0,
    "metric": "brier",
    "keep": "best",
    "calibration": "platt",
    "sampling": "balanced",
    "precision": "bfloat16",
}
ONLY_ONE = {
    ("task", "kind"),
    ("strategy", "name"),
    ("training", "loss", "name"),
    ("modalities", "image", "encoder"),
    ("modalities", "text", "encoder"),
}


def test_every_single_value_changes_the_fingerprint(make_study):
    base = make_study("ehr", "image", "text", strategy={"maximum_update_norm": 2.0})
    fingerprints = {base.fingerprint}
    seen = 0
    for path, value in leaves(base.to_dict()):
        if path in ONLY_ONE or path[0] == "privacy" or {"participation", "schedule"} & {*path}:
            continue  # of the last three, values depend on one another; below
        document = copy.deepcopy(base.to_dict())
        table = document
        for part in path[:-1]:
            table = table[part]
        encoder = document["modalities"][path[1]]["encoder"] if path[0] == "modalities" else ""
        if encoder and path[-1] in foreign(path[1], encoder):
            continue  # an option of another encoder; below
        if path[:2] == ("split", "fractions"):
            other = "train" if path[-1] != "train" else "tuning"
            table[path[-1]] += 0.1
            table[other] -= 0.1
        elif path == ("training", "optimizer", "name"):
            table["name"] = "adam"
        elif path == ("evaluation", "threshold", "rule"):
            table |= {"rule": "fixed", "value": 0.5}
        elif path == ("training", "optimizer", "momentum"):
            continue  # an option of sgd alone; below
        elif path == ("fusion", "tokens"):
            table |= {"kind": "cross_attention", "tokens": "all"}
        elif path[-1] == "channels":
            table["channels"] = 3
        elif isinstance(value, bool):
            table[path[-1]] = not value
        elif isinstance(value, int):
            table[path[-1]] = value + 1
        elif isinstance(value, float):
            table[path[-1]] = value + 0.125
        else:
            new = CHANGED[path[-1]]
            table[path[-1]] = new[value] if path[-1] in ("encoder", "kind") else new
        fingerprints.add(Study.model_validate(document).fingerprint)
        seen += 1
    assert seen > 35
    assert len(fingerprints) >= seen  # the two that only swap fractions may coincide


def foreign(modality, encoder):
    return foreign_options(ENCODERS[modality], encoder)


@pytest.mark.parametrize(
    ("modality", "base", "changes"),
    [
        ("ehr", {"encoder": "transformer"}, {"max_events": 99, "layers": 3, "heads": 2}),
        ("image", {"encoder": "vit"}, {"patch": 16, "layers": 3, "heads": 2}),
    ],
)
def test_options_of_single_encoders_change_the_fingerprint(make_study, modality, base, changes):
    document = make_study(modality).to_dict()
    section = document["modalities"][modality]
    assert {key for key in foreign(modality, section["encoder"]) if key in section} >= {*changes}
    studies = []
    for change in ({}, *({key: value} for key, value in changes.items())):
        document["modalities"][modality] = {**section, "width": 32, **base, **change}
        studies.append(Study.model_validate(document))
    assert len({study.fingerprint for study in studies}) == len(changes) + 1


def test_who_is_asked_changes_the_fingerprint(make_study):
    asked = [{}, {"kind": "random", "sites": 5}, {"kind": "random", "sites": 6}]
    asked.append({"kind": "random", "fraction": 0.5})
    studies = [make_study("ehr", strategy={"participation": some}) for some in asked]
    assert len({study.fingerprint for study in studies}) == len(asked)


def test_schedule_changes_the_fingerprint(make_study):
    schedules = [{}, {"warmup_rounds": 2}, {"kind": "cosine"}, {"kind": "cosine", "least": 0.1}]
    schedules += [{"kind": "step", "every": n, "factor_each": f} for n, f in ((2, 0.5), (3, 0.4))]
    studies = [make_study("ehr", training={"optimizer": {"schedule": s}}) for s in schedules]
    assert len({study.fingerprint for study in studies}) == len(schedules)


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": "central"},
        {"epsilon": 2.5},
        {"delta": 1e-6},
        {"max_grad_norm": 0.5},
        {"accountant": "rdp"},
        {"participation": 0.5},
        {"clipped_sum": "hooks"},
        {"physical_batch": 64},
    ],
)
def test_every_privacy_term_changes_the_fingerprint(make_study, change):
    terms = {"mechanism": "dp_sgd", "epsilon": 2.0}
    plain, other = (
        make_study(privacy=terms | more, strategy={"weighting": "uniform"}) for more in ({}, change)
    )
    assert plain.fingerprint != other.fingerprint


def test_momentum_changes_the_fingerprint(make_study):
    plain, heavy = (
        make_study(training={"optimizer": {"name": "sgd", "momentum": m}}) for m in (0.0, 0.9)
    )
    assert plain.fingerprint != heavy.fingerprint


@given(st.permutations(["A", "B//C", "LAB//CRP", "Z"]))
def test_order_of_reference_ranges_changes_neither_fingerprint_nor_features(make_study, order):
    from federation.vocabulary import agreed_vocabulary

    def ranges(codes):
        ehr = {"reference_ranges": {code: [0.0, float(ord(code[0]))] for code in codes}}
        return make_study(modalities={"ehr": ehr})

    one, other = ranges(sorted(order)), ranges(order)
    assert one.fingerprint == other.fingerprint
    assert (
        agreed_vocabulary(one.modalities.ehr).canonical
        == agreed_vocabulary(other.modalities.ehr).canonical
    )


@given(
    lr=st.floats(1e-12, 1e12),
    low=st.floats(-1e30, 1e30),
    seed=st.integers(0, 2**63 - 1),
    use=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
)
def test_any_study_survives_json_and_toml_to_the_last_bit(make_study, lr, low, seed, use):
    ehr = {"reference_ranges": {"X": [low, max(low + 1.0, low * 2 if low > 0 else low / 2)]}}
    if not low < ehr["reference_ranges"]["X"][1]:
        return
    study = make_study(
        study={"seed": seed, "intended_use": use},
        modalities={"ehr": ehr},
        training={"optimizer": {"lr": lr}},
    )
    assert Study.model_validate_json(study.canonical).fingerprint == study.fingerprint
    document = tomllib.loads(tomli_w.dumps(study.to_dict()))
    assert Study.model_validate(document) == study


def test_single_modality_study_has_its_own_fingerprint_and_all_else_equal(make_study):
    study = make_study("ehr", "text")
    whole = study.fingerprint
    alone = study.only("text")
    assert alone.modalities.names == ("text",)
    assert alone.fingerprint != whole
    assert {**alone.to_dict(), "modalities": None} == {**study.to_dict(), "modalities": None}
    assert study.only("text").fingerprint == alone.fingerprint
    assert study.only("ehr").fingerprint not in (alone.fingerprint, whole)


def test_a_study_cannot_be_changed_after_it_was_resolved(make_study):
    with pytest.raises(ValueError, match="frozen"):
        make_study().training.rounds = 3
