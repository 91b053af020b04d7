"""Identities planted wherever a site's files have room for them, and the search for them."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom

NAME, GIVEN, STREET, RECORD = "Zimmerblatt", "Quincy", "Elmstreet", "MRN-7731940"
PHONE, BORN = "555-0199-7731", "19510317"
FIRST = 7_731_940_400_000
"""Subject ids from here on: no other number has these digits."""
TEXT = f"{GIVEN} {NAME}, {STREET} 12, {RECORD}, tel {PHONE}, born {BORN}"
WORDS = (NAME, GIVEN, STREET, RECORD, PHONE, BORN, "zimmerblatt", "quincy", "7731940")
TAGS = (
    "PatientName", "OtherPatientNames", "PatientAddress", "PatientComments", "InstitutionName",
    "ReferringPhysicianName", "OperatorsName", "StudyDescription", "SeriesDescription",
    "ImageComments", "RequestedProcedureDescription", "StationName",
)  # fmt: skip


class Planted:
    """What was planted into some sites, to be searched for.

    Attributes:
        texts: words, names, record and subject numbers, dates.
        numbers: subject ids and times as bytes.
    """

    def __init__(self) -> None:
        self.texts = {word.encode() for word in WORDS}
        self.numbers: set[bytes] = set()

    def plant(self, site: Path) -> None:
        """Rewrite a site's files so that identities stand in every text, tag, name and number."""
        files = sorted((site / "data/meds/data").rglob("*.parquet"))
        tables = [pq.read_table(file) for file in files]
        labels = pq.read_table(site / "data/labels.parquet")
        known = sorted({s for table in tables for s in table["subject_id"].to_pylist()})
        ids = {subject: FIRST + 1000 * len(self.numbers) + i for i, subject in enumerate(known)}
        renamed: dict[str, str] = {}
        for file, table in zip(files, tables, strict=True):
            pq.write_table(self._events(table, ids, renamed), file)
        frame = labels.to_pandas()
        frame["subject_id"] = frame["subject_id"].map(ids)
        renumbered = pa.Table.from_pandas(frame, labels.schema, preserve_index=False)
        pq.write_table(renumbered, site / "data/labels.parquet")
        self._remember(ids.values(), frame["prediction_time"])
        for old, new in renamed.items():
            self._image(site / "data/dicom" / old, site / "data/dicom" / new)

    def found(self, content: bytes) -> set[bytes]:
        """Return what of it stands in some bytes."""
        return {one for one in (*self.texts, *self.numbers) if one in content}

    def found_in(self, paths: Iterable[Path]) -> dict[str, set[bytes]]:
        """Return in which files, or names of files, something stands."""
        found = {}
        for path in paths:
            content = path.read_bytes() if path.is_file() else b""
            if leaked := self.found(content) | self.found(path.name.encode()):
                found[str(path)] = leaked
        return found

    def _events(self, table: pa.Table, ids: dict[int, int], renamed: dict[str, str]) -> pa.Table:
        frame = table.to_pandas()
        is_image = frame["code"].str.startswith("IMAGE//")
        is_note = frame["code"].str.startswith("NOTE//")
        for old in frame.loc[is_image, "text_value"]:
            renamed.setdefault(old, f"{NAME}/{RECORD}-{len(renamed)}-{BORN}.dcm")
        texts = frame["text_value"].where(is_note, TEXT)
        texts = texts.where(~is_note, frame["text_value"].astype(str) + f" {TEXT}.")
        frame["text_value"] = texts.where(~is_image, frame["text_value"].map(renamed))
        frame["subject_id"] = frame["subject_id"].map(ids)
        last = frame[frame["subject_id"] == frame["subject_id"].iloc[0]].dropna(subset=["time"])
        coded = last.iloc[:3].assign(
            code=[f"NAME//{NAME}", RECORD, f"PHONE//{PHONE}"], numeric_value=float(BORN)
        )
        together = pd.concat([frame, coded], ignore_index=True)
        return pa.Table.from_pandas(together, table.schema, preserve_index=False)

    def _image(self, old: Path, new: Path) -> None:
        data = pydicom.dcmread(old)
        for tag in TAGS:
            setattr(data, tag, f"{NAME}^{GIVEN}" if tag == "PatientName" else TEXT[:16])
        data.PatientID, data.PatientBirthDate = RECORD, BORN
        block = data.private_block(0x0099, NAME, create=True)
        block.add_new(1, "LO", TEXT)
        new.parent.mkdir(exist_ok=True)
        data.save_as(new)
        old.unlink()

    def _remember(self, subjects: Iterable[int], times: "pd.Series[pd.Timestamp]") -> None:
        for subject in subjects:
            self.texts.add(str(subject).encode())
            self.numbers.add(subject.to_bytes(8, "little"))
        for time in times:
            self.numbers.add(int(time.value // 1000).to_bytes(8, "little"))
            self.texts.add(f"{time:%Y-%m-%d %H:%M}".encode())
            self.texts.add(f"{time:%Y-%m-%dT%H:%M}".encode())
