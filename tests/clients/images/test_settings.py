"""[data.images] and [data.notes]: mistakes are explained, and rules choose by header."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydicom.dataset import Dataset

from clients.images.picture import Refusal, UnreadableImage, View
from clients.images.selection import check_selected
from clients.images.settings import ImagesSection, LinkSection, NotesSection, PacsSection
from federation.bodies import Reason
from federation.errors import UserError
from federation.validation import validate

IMAGES = {"format": "dicom", "path": "dicom"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"select": {"Modalty": ["CR"]}}, 'did you mean "Modality"'),
        ({"slice": 1.5}, "slice"),
        ({"ct_window": [40, 0]}, "ct_window"),
        ({"format": "png", "select": {"Modality": ["CR"]}}, '"select" goes with format = "dicom"'),
        ({"format": "png", "link": {"by": "tag"}}, "goes with format"),
        ({"link": {"by": "file_name"}}, 'needs "pattern"'),
        ({"link": {"by": "file_name", "pattern": "("}}, "not a regular expression"),
        ({"link": {"by": "file_name", "pattern": "(\\d+)"}}, "(?P<patient>...)"),
        ({"link": {"by": "table"}}, 'needs "table"'),
        ({"link": {"by": "tag", "pattern": "(?P<patient>.)"}}, '"pattern" goes with'),
        ({"link": {"by": "name"}}, "is not one of"),
        ({"pacs": {"url": "ftp://pacs", "query": {"Modality": "CR"}}}, "url"),
        ({"pacs": {"url": "https://pacs", "query": {}}}, "query"),
        ({"regions": [{"select": {"Modality": ["US"]}}]}, "blank"),
    ],
)
def test_mistake_in_images_is_explained(more, told):
    with pytest.raises(UserError) as caught:
        validate(ImagesSection, IMAGES | more, "site.toml")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"format": "files"},
        {"format": "meds", "path": "notes"},
        {"format": "files", "path": "notes", "link": {"by": "tag"}},
    ],
)
def test_mistake_in_notes_is_explained(given):
    with pytest.raises(UserError):
        validate(NotesSection, given, "site.toml")


@pytest.mark.parametrize(
    ("select", "exclude", "fits"),
    [
        ({}, {}, True),
        ({"Modality": ("CR", "DX")}, {}, True),
        ({"Modality": ("cr",)}, {}, True),
        ({"Modality": ("CT",)}, {}, False),
        ({"ImageType": ("PRIMARY",)}, {}, True),
        ({}, {"ImageType": ("*second*",)}, True),
        ({}, {"ImageType": ("prim*",)}, False),
        ({"ViewPosition": ("PA", "")}, {}, True),
        ({"ViewPosition": ("PA",)}, {}, False),
        ({"Modality": ("CR",), "ViewPosition": ("AP",)}, {}, False),
    ],
)
def test_rules_choose_by_header(select, exclude, fits):
    header = Dataset()
    header.Modality, header.ImageType = "CR", ["ORIGINAL", "PRIMARY"]
    view = View(select=select, exclude=exclude)
    if fits:
        check_selected(header, view)
    else:
        with pytest.raises(UnreadableImage, match="not selected"):
            check_selected(header, view)


def test_every_refusal_may_leave_as_a_reason_and_nothing_else_of_an_image():
    told = {f"image: {reason}" for reason in get_args(Refusal)}
    allowed = {reason for reason in get_args(Reason) if reason.startswith("image: ")}
    assert allowed - told == {"image: offered, but no event names a file"}
    assert told <= allowed


def test_page_on_site_data_describes_every_key_and_its_examples_are_valid():
    text = (Path(__file__).parents[3] / "docs/site-data.md").read_text()
    described = set(re.findall(r"`([a-z_]+)`|^([a-z]+) =", text, re.MULTILINE))
    described = {name for pair in described for name in pair}
    for section in (ImagesSection, LinkSection):
        assert set(section.model_fields) <= described
    examples = [tomllib.loads(e) for e in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    data = [e["data"] for e in examples if set(e.get("data", {})) & {"images", "notes"}]
    images = [e["images"] for e in data if "images" in e]
    assert {name for e in images for name in e} >= {"select", "exclude", "pacs", "regions"}
    for example in images:
        validate(ImagesSection, IMAGES | example, "site-data.md")
    (pacs,) = (e["pacs"] for e in images if "pacs" in e)
    assert set(pacs) == set(PacsSection.model_fields)
    (notes,) = (e["notes"] for e in data if "notes" in e)
    validate(NotesSection, notes, "site-data.md")
