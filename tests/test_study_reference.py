"""The reference of the study file lists what there is, and its first study works."""

import json
import re
import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin

import pandas as pd
import pytest
from pydantic import BaseModel

from federation.strategies import STRATEGIES, Strategy
from federation.study import Study, load_study
from federation.tasks import TASKS, BinaryTask
from simulations.consortium import synthesize
from simulations.runner import simulate

PAGE = Path(__file__).parents[1] / "docs" / "studies.md"
FAULTS = PAGE.with_name("faults.md")
STRATEGY_PAGE = PAGE.with_name("strategies.md")
COLUMNS = "| key | type | default | what it does |"


def documented():
    """Return (type, default, text) by dotted key, as the pages' tables give them.

    An option of one strategy has the strategy's name in its key: strategy.fedprox.mu.
    """
    found = {}
    text = PAGE.read_text() + FAULTS.read_text()
    text += STRATEGY_PAGE.read_text().replace("### ", "## strategy.")
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        table = re.match(r"(?:\[{1,2})?([a-z_.]+)(?:\]{1,2})?\n", section)
        if table is None or COLUMNS not in section:
            continue
        rows = section.split(COLUMNS)[1].strip().split("\n\n")[0].splitlines()[1:]
        for row in rows:
            key, kind, default, text = (cell.strip() for cell in row.strip("| ").split(" | "))
            name = f"{table[1]}.{key.strip('`')}"
            assert name not in found
            found[name] = (kind, default.strip("`"), text)
    return found


def fields(model, path=()):
    """Yield (dotted key, field) of every value that a study file can hold."""
    for name, field in model.model_fields.items():
        options = (field.annotation, *get_args(field.annotation))
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if model is Study and name == "strategy":
            yield from fields(Strategy, ("strategy",))
            for kind, options in STRATEGIES.items():
                own = [k for k in options.model_fields if k not in Strategy.model_fields]
                yield from ((f"strategy.{kind}.{k}", options.model_fields[k]) for k in own)
        elif model is Study and name == "task":
            yield "task.kind", BinaryTask.model_fields["kind"]
            yield "task.label", BinaryTask.model_fields["label"]
            for kind, options in TASKS.items():
                own = [k for k in options.model_fields if k not in BinaryTask.model_fields]
                yield from ((f"task.{kind}.{k}", options.model_fields[k]) for k in own)
        elif nested:
            yield from fields(nested[0], (*path, name))
        else:
            yield ".".join((*path, name)), field


FIELDS = dict(fields(Study))
UNSET = (
    "simulation.",
    "strategy.screening.",
    "evaluation.windows.",
    "evaluation.noise.",
    "strategy.compression.",
    "modalities.image.weights.",
    "modalities.text.pretrained.",
    *(f"strategy.{kind}." for kind in STRATEGIES),
    *(f"task.{kind}." for kind in TASKS),
)
"""Tables that are optional and need a value of their own; options of one strategy or task."""


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The page's first study, as a file."""
    file = tmp_path_factory.mktemp("study") / "first.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    return file


def test_page_lists_every_key_of_every_section_and_no_other():
    assert len(FIELDS) > 40
    assert documented().keys() == FIELDS.keys()


@pytest.mark.parametrize("key", FIELDS)
def test_page_gives_the_default_that_a_study_gets(first, key):
    _, default, _ = documented()[key]
    if FIELDS[key].is_required() and key != "strategy.name":
        assert default == "required"
        return
    if key.startswith(UNSET):
        value = FIELDS[key].get_default(call_default_factory=True)
        value = list(value) if isinstance(value, tuple) else value
    else:
        bare = ["modalities={ehr={}, image={}, text={}}"]
        value = load_study(first, bare).model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
    assert default == ("none" if value is None else json.dumps(value))


@pytest.mark.parametrize("key", FIELDS)
def test_page_gives_the_choices_and_bounds_that_are_checked(key):
    kind, _, text = documented()[key]
    assert len(text) > 15
    chosen = choices(FIELDS[key].annotation)
    expected = {json.dumps(choice) for choice in chosen if isinstance(choice, str)}
    if key == "task.kind":
        expected = {json.dumps(kind) for kind in TASKS}
    if key == "modalities.ehr.aggregates":  # listed in a table of their own
        kind = " ".join(re.findall(r"^\| (`\"\w+\"`) \|", PAGE.read_text(), re.MULTILINE))
    if key == "strategy.name":  # the other page's headings
        page = STRATEGY_PAGE.read_text()
        assert all(f"### {name}\n" in page or f"`{name}`" in page for name in STRATEGIES)
        return
    assert set(re.findall(r'"\w+"', kind)) == expected
    stated = {float(number) for number in re.findall(r"`(-?\d+(?:\.\d+)?)`", kind)}
    assert stated == {*bounds(FIELDS[key]), *(c for c in chosen if not isinstance(c, str))}


def choices(annotation):
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {choice for argument in get_args(annotation) for choice in choices(argument)}


def bounds(field):
    """Yield the smallest and largest number allowed; of whole numbers, the ends included."""
    options = (field.annotation, *get_args(field.annotation))
    # PositiveInt | None keeps its type and bound inside.
    whole = any(int in (option, *get_args(option)) for option in options)
    inside = [bound for option in options for bound in getattr(option, "__metadata__", ())]
    inside += [bound for info in inside for bound in getattr(info, "metadata", ())]
    for bound in (*field.metadata, *inside):
        for name, step in (("ge", 0), ("gt", 1), ("le", 0), ("lt", -1)):
            limit = getattr(bound, name, None)
            if limit is not None:
                yield float(limit + step if whole else limit)


def test_first_study_of_the_page_gives_ranges_beside_what_is_required_and_no_more(first):
    study = load_study(first)
    given = tomllib.loads(first.read_text())
    ranges = given.pop("modalities")["ehr"].pop("reference_ranges")
    assert given == {"study": {"name": study.study.name}, "task": {"label": study.task.label}}
    assert study.modalities.names == ("ehr",)
    assert study.modalities.ehr.reference_ranges.keys() == ranges.keys()


def test_first_study_of_the_page_trains_on_synthetic_hospitals(first, tmp_path):
    synthesize(tmp_path / "sites", sites=3, patients=60, seed=1, image_size=16)
    study = load_study(first, ["training.rounds=2"])
    simulate(study, tmp_path / "sites", tmp_path / "run", workers=0)
    rounds = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["answered"]) for line in rounds] == [3, 3]
    assert load_study(tmp_path / "run" / "study.toml") == study
    events = pd.concat(pd.read_parquet(f) for f in tmp_path.glob("sites/*/data/meds/data/**/*"))
    assert set(study.modalities.ehr.reference_ranges) <= set(events["code"])


def test_options_of_the_page_are_taken(first):
    commands = re.findall(r"--set (?:'([^']+)'|([^'\s`]+))", PAGE.read_text())
    overrides = [quoted or plain for quoted, plain in commands if "KEY" not in quoted + plain]
    assert len(overrides) == 6
    for override in overrides:
        assert load_study(first, [override]).fingerprint != load_study(first).fingerprint
