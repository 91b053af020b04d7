"""The report: from the run folder alone, self-contained, accessible, and safe to open."""

import base64
import gzip
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from run_folder import ROUNDS, SITES, write_run_folder

from federation.errors import UserError
from server.report import write_report
from server.report.documents import Between, Privacy
from server.report.first_screen import facts, privacy_fact
from server.report.run_folder import read_run_folder
from server.report.sections.comparators import between_table
from server.report.sections.data import characteristics_table
from server.report.text import subgroup_name

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a test asks of a page: elements with attributes, text, and proper nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, *tags):
        return [(tag, attributes) for tag, attributes in self.elements if tag in tags]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return write_run_folder(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def source(built):
    return write_report(built).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


@pytest.fixture
def run(tmp_path):
    return write_run_folder(tmp_path / "run")


def test_report_stays_under_six_megabytes_and_embeds_plotly_once(built, source):
    assert (built / "report.html").stat().st_size < 6_000_000
    (packed,) = re.findall(r'<script type="text/plain" id="plotly">([^<]*)</script>', source)
    assert "* plotly.js v" in gzip.decompress(base64.b64decode(packed)).decode()[:200]


def test_report_asks_the_network_for_nothing(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    policies = [a["content"] for _, a in page.all("meta") if "http-equiv" in a]
    assert policies
    assert "default-src 'none'" in policies[0]


def test_first_screen_says_what_how_well_and_how_private(built, page):
    start = page.text[: page.text.index("Performance by hospital")]
    metrics = json.loads((built / "metrics.json").read_text())
    overall = metrics["models"]["federated"]["overall"]["auroc"]
    assert "heart disease" in start
    assert f"{len(SITES)} hospitals" in start
    assert f"{overall['value']:.3f}" in start
    assert f"{overall['low']:.3f} to {overall['high']:.3f}" in start
    assert "No differential privacy" in start
    assert "Round 7 was aggregated from 4 of 6 hospitals." in start


def test_worst_hospital_and_subgroup_are_the_lowest_that_are_defined(built):
    folder = read_run_folder(built)
    model = folder.metrics.models["federated"]
    shown = {fact.name: fact for fact in facts(folder)}
    hospital = shown["Worst hospital, AUROC"]
    areas = {
        site: cell.auroc.value
        for site, cell in model.sites.items()
        if cell.auroc and cell.auroc.value is not None
    }
    worst = min(areas, key=areas.__getitem__)
    assert hospital.note.startswith(worst)
    assert hospital.value == f"{areas[worst]:.3f}"
    together = model.worst.site.auroc
    assert f"{together.low:.3f} to {together.high:.3f}, for all 4 at once" in hospital.note
    # the one withheld and the one of a single class are named as missing, not passed over
    assert "2 of 6 cannot be compared" in hospital.note


def test_every_section_has_its_content(page):
    text = page.text
    for site in SITES:
        assert site in text
    for words in (
        "withheld: fewer than 10 patients",
        "only one class",
        "age band: 65+",
        "Pooled in one place",
        "mean over hospitals, each on its own patients",
        "no answer within 600 s",
        "update not finite",
        "<10 no label",
        "9f2c41d07a6be1538c02",
        "modalities.image.encoder",
        "git_commit",
        "without zurich-cantonal (withheld)",
    ):
        assert words in text, words


def test_every_figure_is_described_and_has_its_numbers_in_a_table(source, page):
    figures = [a for tag, a in page.all("div") if a.get("class") == "plot"]
    assert {a["id"] for a in figures} == {
        "forest",
        "roc",
        "precision-recall",
        "calibration",
        "decision",
        "learning",
        "loss",
        "participation-by-round",
    }
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in figures)
    for part in source.split("<figure")[1:]:
        assert "<table>" in part[part.index("<details>") : part.index("</details>")]


def test_landmarks_headings_and_tables_are_in_order(page):
    tags = [tag for tag, _ in page.elements]
    assert tags.count("main") == tags.count("h1") == 1
    assert {"header", "nav", "footer"} <= set(tags)
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert tags.count("caption") == tags.count("table")
    assert all(a.get("scope") in ("col", "row") for _, a in page.all("th"))
    named = [a["id"] for _, a in page.elements if "id" in a]
    assert len(named) == len(set(named))
    for _, a in page.elements:
        assert a.get("aria-labelledby", named[0]) in named
        assert a.get("href", "#main").removeprefix("#") in [*named, "data:,"]
    assert page.open == []


def test_figures_hold_the_numbers_of_the_run(source):
    specs = {}
    for part in source.split('<script type="application/json" data-plot="')[1:]:
        name, rest = part.split('">', 1)
        specs[name] = json.loads(rest.split("</script>")[0])
    learning = {trace["name"]: trace for trace in specs["learning"]["data"]}
    assert learning["All hospitals"]["x"] == list(range(1, ROUNDS + 1))
    assert set(learning) - {"All hospitals"} == set(SITES) - {"switzerland", "zurich-cantonal"}
    assert "switzerland" not in {trace["name"] for trace in specs["roc"]["data"]}
    assert {trace["meta"]["of"] for trace in specs["decision"]["data"] if "meta" in trace} == {
        site for site in SITES if site != "zurich-cantonal"
    }
    forest = specs["forest"]["data"][0]
    lowest = min(
        x - arm for x, arm in zip(forest["x"], forest["error_x"]["arrayminus"], strict=True)
    )
    assert specs["forest"]["layout"]["xaxis"]["range"][0] < lowest


def test_choice_of_curves_names_every_hospital_that_has_some(page):
    values = [a["value"] for _, a in page.all("option")]
    assert values[:2] == ["together", "each"]
    assert {"of:cleveland", "of:switzerland"} <= set(values)  # of one class: a decision curve
    assert "of:zurich-cantonal" not in values


def test_characteristics_are_the_sizes_of_the_cells_that_left(built):
    model = read_run_folder(built).model
    table = characteristics_table(model)
    rows = {row[0].text: dict(zip(table.columns, row, strict=False)) for row in table.rows}
    shown = {
        (site, name)
        for site, cells in model.site_subgroups.items()
        for name, cell in cells.items()
        if not cell.suppressed
    }
    assert len(shown) > 8
    for site, name in shown:
        whole, cell = model.sites[site].n, model.site_subgroups[site][name]
        td = rows[site][subgroup_name(name)]
        assert (td.text, td.note) == (str(cell.n), f"{100 * cell.n / whole:.0f}%")
    assert rows["zurich-cantonal"]["Patients"].text == "withheld: fewer than 10 patients"
    hidden = [name for name, one in model.site_subgroups["switzerland"].items() if one.suppressed]
    assert hidden
    for name in hidden:
        assert rows["switzerland"][subgroup_name(name)].text == "withheld"
    female, told = model.subgroups["sex=female"], 0
    for site, cell in model.sites.items():
        told += 0 if site in female.excludes else cell.n
    assert rows["All hospitals"]["sex: female"].note == f"{100 * female.n / told:.0f}%"


def test_many_warnings_are_folded_below_the_first_ones(run):
    (run / "warnings.json").write_text(json.dumps([f"Number {k}." for k in range(40)]))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    start = page.text[: page.text.index("Number 6.")]
    assert "40 warnings" in start and start.endswith("34 more ")
    assert "Number 39." in page.text


def test_page_says_that_counts_have_noise(run):
    with (run / "study.toml").open("a") as file:
        file.write("\n[evaluation.noise]\nepsilon = 1.0\n")
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "which allow for the noise that the hospitals added" in text
    assert "within about 0.002 of the exact one" not in text


def test_same_run_folder_gives_the_same_page(built, source):
    assert write_report(built).read_text(encoding="utf-8") == source


def test_names_from_a_hospital_cannot_become_markup(run):
    hostile = "<img src=x onerror=alert(1)></script>"
    for name in ("metrics.json", "summaries.json", "sites.json", "rounds.jsonl"):
        file = run / name
        escaped = json.dumps(hostile)[1:-1]
        file.write_text(file.read_text().replace("cleveland", escaped))
    text = write_report(run).read_text(encoding="utf-8")
    assert "<img" not in text
    assert Page(text).open == []


@pytest.mark.parametrize(
    "name",
    [
        "study.toml",
        "environment.json",
        "metrics.json",
        "rounds.jsonl",
        "summaries.json",
        "privacy.json",
        "sites.json",
    ],
)
def test_missing_or_broken_file_is_named(run, name):
    (run / name).write_text('{"models": [1, ', encoding="utf-8")
    with pytest.raises(UserError, match=name):
        write_report(run)
    (run / name).write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=name):
        write_report(run)
    (run / name).unlink()
    with pytest.raises(UserError, match=f"{name}: the file is missing"):
        write_report(run)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_broken_line_of_rounds_is_given_by_number(run):
    with (run / "rounds.jsonl").open("a") as file:
        file.write('{"round": 13, "loss": NaN}\n')
    with pytest.raises(UserError, match=rf"line {ROUNDS + 1}: NaN"):
        write_report(run)


def test_impossible_summary_is_named_with_its_place(run):
    document = json.loads((run / "summaries.json").read_text())
    document["models"]["federated"]["sites"]["cleveland"]["cells"][""]["negatives"][0] = -1
    (run / "summaries.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"models\.federated\.sites\.cleveland"):
        write_report(run)


def test_run_without_rounds_comparators_or_usable_sites_still_has_a_report(run):
    (run / "warnings.json").unlink()
    (run / "rounds.jsonl").write_text("")
    hidden = {"suppressed": "every site withheld it", "excludes": ["cleveland"]}
    (run / "metrics.json").write_text(
        json.dumps(
            {
                "study": "heart-disease",
                "fingerprint": "f",
                "seed": 1,
                "models": {"federated": {"overall": hidden, "sites": {"cleveland": hidden}}},
            }
        )
    )
    (run / "summaries.json").write_text('{"models": {"federated": {"sites": {}}}}')
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "every site withheld it" in text
    assert "No round was run." in text


def test_privacy_spent_is_the_largest_of_any_hospital():
    spent = Privacy(
        mechanism="dp_sgd",
        sites={
            "a": {"epsilon": {"pld": 2.9, "rdp": 5.2}, "reported": "pld", "delta": 1e-5},
            "b": {"epsilon": {"pld": 3.991, "rdp": 4.4}, "reported": "pld", "delta": 1e-5},
        },
        unit="patient",
        seeded=True,
    )
    fact = privacy_fact(spent)
    assert fact.value == "ε = 4"
    assert "training patients only" in fact.note
    assert "protects no one" in fact.note


def test_decisions_gaps_and_hospitals_are_told_in_tables(page):
    for words in (
        "The threshold is 0.5, fixed by the study, for all alike.",
        "Number needed to evaluate",
        "sex: Share called positive",
    ):
        assert words in page.text


def test_hospital_to_come_has_its_prediction_beside_the_average(built):
    model = read_run_folder(built).metrics.models["federated"]
    found = Between(
        hospitals=7,
        auroc={"value": 0.81, "low": 0.77, "high": 0.84},
        prediction={"low": 0.7, "high": 0.89},
        i_squared=0.42,
    )
    table = between_table({"leave_one_out": model.model_copy(update={"between_sites": found})})
    (row,) = table.rows
    assert [td.text for td in row[1:]] == ["7", "0.810", "0.700 to 0.890", "42%"]
    assert "trained without" in row[0].text


def test_what_joining_brings_is_told_and_an_unpaired_site_named(run):
    metrics = run / "metrics.json"
    document = json.loads(metrics.read_text())
    interval = {"value": 0.031, "low": 0.012, "high": 0.05}
    basel = {"federated": interval, "local": interval, "difference": interval, "paired": False}
    document["joining"] = {
        "sites": {"basel": basel, "bern": {"suppressed": "fewer than 10 patients"}},
        "mean": interval,
        "gain": ["basel"],
        "lose": [],
    }
    metrics.write_text(json.dumps(document))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "basel unpaired" in text
    assert "0.012 to 0.050" in text


def test_run_from_before_thresholds_were_chosen_still_has_its_report(run):
    metrics = run / "metrics.json"
    document = json.loads(metrics.read_text())
    for model in document["models"].values():
        for key in ("threshold", "worst", "fairness", "between_sites"):
            del model[key]
        cells = [model["overall"], *model["sites"].values(), *model["subgroups"].values()]
        for one in (*cells, *(c for by in model["site_subgroups"].values() for c in by.values())):
            one.pop("at_threshold", None)
    metrics.write_text(json.dumps(document))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "Decisions at one threshold" not in text
    assert "Performance by hospital" in text
