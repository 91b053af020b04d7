"""The Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E, on one data set.

The table of attributes (E.1-1, edition 2026c) is that of the dicom-anonymizer library. Its own
engine is not used: it leaves what lies in sequences, draws UIDs at random and blunts all dates to
one day. Added to the profile are its option *Retain Longitudinal Temporal Information With
Modified Dates*, and rules for what the table does not list.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from clients.deidentify.secret import Secret, shifted

Action = Literal["remove", "empty", "dummy", "uid", "references"]
Done = Literal[
    "removed",
    "emptied",
    "replaced",
    "UIDs replaced",
    "dates shifted",
    "private removed",
    "unlisted text and data removed",
    "repeated identifiers emptied",
]

EDITION = "dicomfields_2026c"
ACTIONS: Mapping[str, Action] = {
    "X_TAGS": "remove",
    "Z_TAGS": "empty",
    "X_Z_TAGS": "empty",
    "D_TAGS": "dummy",
    "Z_D_TAGS": "dummy",
    "X_D_TAGS": "dummy",
    "X_Z_D_TAGS": "dummy",
    "U_TAGS": "uid",
    "X_Z_U_STAR_TAGS": "references",
}
DATES = ("DA", "DT", "TM")
BIRTH = {0x00100030, 0x00100032}
"""Date and time of birth: the option on dates does not extend to them."""
FREE_TEXT = ("PN", "LT", "ST", "UT", "UC", "UR", "UN", "AE")
DATA = ("OB", "OD", "OF", "OL", "OV", "OW")
PIXEL_GROUPS = (0x0028, 0x7FE0)
"""Of attributes that say how to read and show pixels, and of the pixels."""
REFERENCED_STUDY = 0x00081110
"""The one sequence that may be emptied by the table, but not by the module that it is of."""
KINDS = {0x00080008, 0x00089007}
"""Type of image and of frame: codes that must be there, such as PERFUSION, whoever is called so."""
SHORT_TEXT = ("LO", "SH", "CS", "AS")
NAMING = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "AdmissionID",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "InstitutionName",
    "InstitutionAddress",
    "DeviceSerialNumber",
)
SHORTEST = 3
"""Characters of a word that is looked for elsewhere; a shorter one stands everywhere by chance."""
COMMON = {
    *("and", "anonymous", "center", "centre", "clinic", "department", "doctor", "hospital"),
    *("imaging", "medical", "none", "not", "patient", "physician", "primary", "radiology"),
    *("the", "unknown", "university", "volume", "ward"),
}
"""Words of names and addresses that tell of nobody, and stand in codes and makers' names."""
TEXTS: Mapping[str, str | int | bytes] = {
    **dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT", "PN", "CS", "AE"), "ANONYMIZED"),
    "AS": "000Y",
    "UR": "http://anonymized.invalid",
    **dict.fromkeys(("DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "UN"), b"\0\0"),
}


@dataclass
class Profile:
    """One patient's way through the profile.

    Attributes:
        secret: what replaces identifiers.
        back: how far the patient's dates go back.
        words: identifying words of the file, in lower case.
        done: what was done, counted by attribute.
    """

    secret: Secret
    back: timedelta
    words: frozenset[str]
    done: Counter[Done] = field(default_factory=Counter)

    def apply(self, dataset: Dataset, forced: Action | None = None) -> None:
        """Change a data set and all that lies in it.

        Args:
            dataset: is changed.
            forced: done with every attribute of a sequence that the profile replaces as a whole.

        Raises:
            Exception: of any kind, on a damaged header; what is left then is not to be used.
        """
        for tag in list(dataset.keys()):
            if tag.is_private:
                del dataset[tag]
                self.done["private removed"] += 1
                continue
            element = dataset[tag]
            action = action_of(tag) or forced
            if action is None:
                self._unlisted(dataset, element)
            elif action != "remove" and element.VR == "SQ":
                self._sequence(dataset, element, action)
            elif element.VR in DATES and tag not in BIRTH:
                self._shift(dataset, element)
            else:
                self._listed(dataset, element, action)

    def _listed(self, dataset: Dataset, element: DataElement, action: Action) -> None:
        if action == "dummy" and element.VR == "UI":
            action = "uid"
        if action == "remove" or (action == "dummy" and element.VR not in TEXTS):
            del dataset[element.tag]
            self.done["removed"] += 1
        elif action == "empty":
            element.value = [] if element.VR == "SQ" else None
            self.done["emptied"] += 1
        elif action == "dummy":
            element.value = TEXTS[element.VR]
            self.done["replaced"] += 1
        elif element.VR == "UI":
            element.value = [self.secret.uid(str(uid)) for uid in values_of(element)] or None
            self.done["UIDs replaced"] += 1

    def _sequence(self, dataset: Dataset, element: DataElement, action: Action) -> None:
        """Empty a sequence, or go through its items; references keep only replaced UIDs."""
        if action == "empty" and element.tag == REFERENCED_STUDY:
            action = "remove"
        if action in ("empty", "remove"):
            self._listed(dataset, element, action)
            return
        for item in element.value:
            self.apply(item, forced="dummy" if action == "dummy" else None)

    def _shift(self, dataset: Dataset, element: DataElement) -> None:
        try:
            moved = [shifted(str(value), element.VR, self.back) for value in values_of(element)]
        except (ValueError, OverflowError):
            del dataset[element.tag]
            self.done["removed"] += 1
            return
        element.value = moved or None
        self.done["dates shifted"] += element.VR != "TM"

    def _unlisted(self, dataset: Dataset, element: DataElement) -> None:
        """Treat what the table does not list: names, free text, and identifiers said twice."""
        if element.VR == "SQ":
            for item in element.value:
                self.apply(item)
        elif element.VR in DATES:
            self._shift(dataset, element)
        elif element.VR == "UI" and not element.keyword.endswith(("ClassUID", "SyntaxUID")):
            self._listed(dataset, element, "uid")
        elif element.tag.group in PIXEL_GROUPS or element.tag in KINDS:
            return
        elif element.VR in FREE_TEXT or element.VR in DATA:
            del dataset[element.tag]
            self.done["unlisted text and data removed"] += 1
        elif element.VR in SHORT_TEXT and self.words & set(words_of(element)):
            element.value = None  # and not removed: some must be there, if empty
            self.done["repeated identifiers emptied"] += 1


@functools.cache
def table() -> Mapping[tuple[int, int], Action]:
    """Return the profile's action by the bits that matter and the tag: (mask, tag)."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    lists = dicom_anonymization_database_selector(EDITION)
    found: dict[tuple[int, int], Action] = {}
    for name, action in ACTIONS.items():
        for group, element, *masks in lists[name]:
            mask = masks[0] << 16 | masks[1] if masks else 0xFFFFFFFF
            found[mask, (group << 16 | element) & mask] = action
    return found


def action_of(tag: BaseTag) -> Action | None:
    """Return what the profile does with an attribute; None if it does not list it."""
    actions = table()
    if (action := actions.get((0xFFFFFFFF, int(tag)))) is not None:
        return action
    if tag.group >> 8 in (0x50, 0x60):  # curves and overlays, whose groups repeat; go as a whole
        return "remove"
    return None


def identifying_words(dataset: Dataset, names_only: bool = False) -> Iterator[str]:
    """Yield the words, in lower case, of names of persons, numbers and addresses of a data set."""
    for element in dataset.iterall():
        if element.VR == "PN" or (element.keyword in NAMING and not names_only):
            words = words_of(element)
            yield from (word for word in words if len(word) >= SHORTEST and word not in COMMON)


def words_of(element: DataElement) -> list[str]:
    """Return the words of a text attribute, in lower case."""
    return re.findall(r"\w+", " ".join(str(value) for value in values_of(element)).lower())


def values_of(element: DataElement) -> list[object]:
    """Return an attribute's values, none if it is empty."""
    value = element.value
    if value is None or (isinstance(value, (str, MultiValue)) and not len(value)):
        return []
    return list(value) if isinstance(value, MultiValue) else [value]
