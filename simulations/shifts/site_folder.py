"""Writes a site's folder as its shifted tables and looks say; what did not change is copied."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from meds.schema import code_metadata_filepath

from clients.label_values import value_columns
from clients.site import Site
from clients.sources import meds
from federation.validation import read_toml
from simulations.shifts.label_columns import with_labels, with_numbers, with_texts
from simulations.shifts.pixels import rewrite
from simulations.shifts.tables import SiteTables, labels_file

SPLITS = Path("metadata") / "subject_splits.parquet"
LEFT = "left as it was"


def write_site(before: SiteTables, after: SiteTables, folder: Path) -> dict[str, int]:
    """Write a complete site folder.

    Paths below the old site folder stay the same; what lay elsewhere moves into the new folder and
    its site.toml says so. A table that did not change is copied, an image that did not change is
    linked or copied. The patient key goes along, so that splits stay; the privacy ledger and the
    rest of the state do not.

    Args:
        before: the tables as read.
        after: as the shifts left them.
        folder: to make.

    Returns:
        What became of the images: counts by what was done, or why not.

    Raises:
        OSError: if something cannot be read or written.
    """
    site = before.site
    layout = _layout(site)
    folder.mkdir(parents=True)
    _write_site_file(site, layout, folder)
    events = folder / layout.events
    _copy_others(site, events)
    there = set(before.events["code"].cat.categories)
    recoded = {old: new for old, new in after.recoded.items() if old in there}
    _write_events(before, after, recoded, events)
    _write_codes(site.events, events, recoded)
    _write_splits(before, after, events)
    _write_labels(before, after, folder / layout.labels)
    images: Counter[str] = Counter()
    if site.images is not None and layout.images is not None:
        images = _write_images(before, after, site.images, folder / layout.images)
    key = site.state / "patient.key"
    if key.is_file():
        (folder / layout.state).mkdir(parents=True, exist_ok=True)
        shutil.copy2(key, folder / layout.state / key.name)
    return dict(images)


@dataclass(frozen=True)
class _Layout:
    """Where things lie below the new folder, and whether site.toml has to say so anew."""

    events: Path
    labels: Path
    images: Path | None
    state: Path
    moved: bool


def _layout(site: Site) -> _Layout:
    data = site.settings.data
    given = {
        "events": (data.events.path, "data/meds"),
        "labels": (str(data.labels), "data/labels.parquet"),
        "state": (site.settings.site.state, "state"),
        "images": (data.images.path if data.images else "data/images", "data/images"),
    }
    places = {name: _below(path, instead) for name, (path, instead) in given.items()}
    return _Layout(
        events=Path(places["events"]),
        labels=Path(places["labels"]),
        images=Path(places["images"]) if data.images else None,
        state=Path(places["state"]),
        moved=any(places[name] != path for name, (path, _) in given.items()),
    )


def _below(path: str, instead: str) -> str:
    outside = Path(path).is_absolute() or os.path.normpath(path).split(os.sep)[0] in ("..", ".")
    return instead if outside else path


def _write_site_file(site: Site, layout: _Layout, folder: Path) -> None:
    target = folder / "site.toml"
    if not layout.moved:
        shutil.copyfile(site.file, target)
        return
    document = read_toml(site.file)
    document["site"]["state"] = str(layout.state)
    document["data"]["events"]["path"] = str(layout.events)
    document["data"]["labels"] = str(layout.labels)
    if layout.images is not None:
        document["data"]["images"]["path"] = str(layout.images)
    target.write_text(tomli_w.dumps(document), encoding="utf-8")


def _copy_others(site: Site, target: Path) -> None:
    """Copy what lies beside the events and is not written by another function."""
    source = site.events
    written = {*meds.event_files(source), source / SPLITS, source / code_metadata_filepath}
    target.mkdir(parents=True, exist_ok=True)
    for file in _files(site, source):
        if file not in written:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _files(site: Site, folder: Path) -> list[Path]:
    """Files below one part of a site, without those of another part that lies in it.

    Above all never the state: a ledger that is copied forgets what the first goes on to spend.
    """
    parts = {
        Path(os.path.normpath(p)) for p in (site.events, labels_file(site), site.state, site.file)
    }
    parts |= {Path(os.path.normpath(site.images))} if site.images else set()
    here = Path(os.path.normpath(folder))
    others = [part for part in parts if part != here and part.is_relative_to(here)]
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(Path(os.path.normpath(file)).is_relative_to(other) for other in others)
    ]


def _write_events(
    before: SiteTables, after: SiteTables, renamed: Mapping[str, str], target: Path
) -> None:
    old, new = dict(list(before.events.groupby("file"))), dict(list(after.events.groupby("file")))
    nothing = before.events.iloc[:0]
    for number, file in enumerate(meds.event_files(before.site.events)):
        copy = target / file.relative_to(before.site.events)
        copy.parent.mkdir(parents=True, exist_ok=True)
        was, is_now = old.get(number, nothing), new.get(number, nothing)
        rows = is_now["row"].to_numpy()
        values = is_now["numeric_value"].to_numpy()
        kept = was["numeric_value"].to_numpy()[np.searchsorted(was["row"].to_numpy(), rows)]
        changed = ~((values == kept) | (np.isnan(values) & np.isnan(kept)))
        recoded = was["code"].isin(renamed).any()
        if len(rows) == len(was) and not changed.any() and not recoded:
            shutil.copyfile(file, copy)
            continue
        table = _read(file).take(rows)
        if changed.any():
            table = with_numbers(table, "numeric_value", values, changed)
        if recoded:
            names = pd.Series(table["code"].to_pylist(), dtype=object)
            table = with_texts(table, "code", names.map(lambda code: renamed.get(code, code)))
        pq.write_table(table, copy)


def _write_codes(source: Path, target: Path, recoded: Mapping[str, str]) -> None:
    """Describe each new code by the codes that it stands for (MEDS ``parent_codes``)."""
    file = source / code_metadata_filepath
    if not file.is_file():
        return
    copy = target / code_metadata_filepath
    copy.parent.mkdir(parents=True, exist_ok=True)
    described = _read(file)
    known = {row["code"]: row for row in described.to_pylist()} if recoded else {}
    rows = []
    for new in sorted(set(recoded.values()) - set(known)):
        stood_for = sorted(old for old, present in recoded.items() if present == new)
        row = {**known.get(stood_for[0], {}), "code": new}
        if "parent_codes" in described.schema.names:
            row["parent_codes"] = stood_for
        rows.append(row)
    if not rows:
        shutil.copyfile(file, copy)
        return
    added = pa.Table.from_pylist(rows, schema=described.schema)
    pq.write_table(pa.concat_tables([described, added]), copy)


def _write_splits(before: SiteTables, after: SiteTables, target: Path) -> None:
    if before.splits is None or after.splits is None:
        return
    source = before.site.events / SPLITS
    (target / SPLITS).parent.mkdir(parents=True, exist_ok=True)
    if len(after.splits) == len(before.splits):
        shutil.copyfile(source, target / SPLITS)
        return
    table = _read(source)
    stays = [subject in after.splits for subject in table["subject_id"].to_pylist()]
    pq.write_table(table.filter(pa.array(stays)), target / SPLITS)


def _write_labels(before: SiteTables, after: SiteTables, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = after.labels["row"].to_numpy()
    changed = {}
    for name in value_columns(before.task):
        new, old = after.labels[name].to_numpy(), before.labels[name].to_numpy()[rows]
        changed[name] = ~((new == old) | (np.isnan(new) & np.isnan(old)))
    if len(rows) == len(before.labels) and not any(map(np.any, changed.values())):
        shutil.copyfile(labels_file(before.site), target)
        return
    table = _read(labels_file(before.site)).take(rows)
    for name, there in changed.items():
        if there.any():
            table = with_labels(table, before.task, name, after.labels[name].to_numpy(), there)
    pq.write_table(table, target)


def _write_images(
    before: SiteTables, after: SiteTables, source: Path, target: Path
) -> Counter[str]:
    """Write the images whose event is still there, and those that no event ever told of."""
    section = before.site.settings.data.images
    kind = "dicom" if section is None else section.format
    told, stays = _paths(before.events), _paths(after.events)
    counts: Counter[str] = Counter()
    target.mkdir(parents=True, exist_ok=True)
    for file in _files(before.site, source):
        name = file.relative_to(source).as_posix()
        copy = target / name
        if copy.exists():  # events and images share a folder
            continue
        if name in told and name not in stays:
            counts["taken away"] += 1
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if after.looks and name in stays:
            reason = rewrite(file, copy, after.looks, name, kind)
            counts[f"{LEFT}: {reason}" if reason else "rewritten"] += 1
            if not reason:
                continue
        _link(file, copy)
    return counts


def _paths(events: pd.DataFrame) -> set[str]:
    return {posixpath.normpath(path) for path in events["path"].dropna()}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _read(file: Path) -> pa.Table:
    """All columns of a file, extra ones too; never partitions read out of folder names."""
    with pq.ParquetFile(file) as opened:
        return opened.read()
