"""What each FHIR resource tells, as events without their patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from clients.sources.fhir_codes import Coder
from clients.sources.fhir_times import micros
from clients.sources.schema import ABOVE_LIMIT, BELOW_LIMIT, BIRTH, DEATH

Resource = Mapping[str, Any]

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
GENDERS = {"female": "GENDER//F", "male": "GENDER//M", "other": "GENDER//OTHER"}
HISPANIC = "2135-2"


class Event(NamedTuple):
    """One event; its time is None where the resource tells none."""

    micros: int | None
    code: str | None
    value: float | None = None
    text: str | None = None


def reference_id(reference: object) -> str | None:
    """Return the id in ``Patient/ID``, whatever stands before it."""
    name = reference.get("reference") if isinstance(reference, dict) else None
    if not isinstance(name, str):
        return None
    return name.partition("/_history/")[0].rpartition("/")[2] or None


def patient_events(resource: Resource) -> Iterator[Event]:
    """Yield birth, death, gender, race and ethnicity; the latter three are without a time."""
    gender = resource.get("gender")
    if isinstance(gender, str) and gender in GENDERS:
        yield Event(None, GENDERS[gender])
    for kind, prefix in (("race", "RACE//"), ("ethnicity", "ETHNICITY//")):
        for code, display in _categories(resource, US_CORE + kind):
            if kind == "race" or code == HISPANIC:
                yield Event(None, prefix + display)
    if (born := micros(resource.get("birthDate"), early=True)) is not None:
        yield Event(born, BIRTH)
    if (died := micros(resource.get("deceasedDateTime"))) is not None:
        yield Event(died, DEATH)


def _categories(resource: Resource, url: str) -> Iterator[tuple[object, str]]:
    for extension in _objects(resource.get("extension")):
        if extension.get("url") != url:
            continue
        for part in _objects(extension.get("extension")):
            coding = part.get("valueCoding")
            if part.get("url") == "ombCategory" and isinstance(coding, dict):
                display = coding.get("display")
                if isinstance(display, str) and display:
                    yield coding.get("code"), display


def encounter(resource: Resource, coder: Coder) -> Iterator[Event]:
    """Yield the start, with the class, and the end, with the discharge disposition."""
    found = resource.get("class")
    kind = found.get("code") if isinstance(found, dict) else None
    start, end = _period(resource.get("period"))
    yield Event(start, f"ENCOUNTER_START//{kind}" if isinstance(kind, str) else "ENCOUNTER_START")
    if end is not None:
        stay = resource.get("hospitalization")
        left = coder.concept(stay.get("dischargeDisposition")) if isinstance(stay, dict) else None
        tail = "" if left is None else f"//{left.partition('//')[2]}"
        yield Event(end, f"ENCOUNTER_END{tail}")


def condition(resource: Resource, coder: Coder) -> Iterator[Event]:
    """Yield the condition when it was recorded: an onset is often told long after it."""
    recorded = micros(resource.get("recordedDate"))
    onset = None
    if recorded is None and resource.get("encounter") is None:
        onset = micros(resource.get("onsetDateTime")) or _period(resource.get("onsetPeriod"))[0]
    yield Event(recorded if recorded is not None else onset, coder.concept(resource.get("code")))


def procedure(resource: Resource, coder: Coder) -> Iterator[Event]:
    """Yield the procedure when it began."""
    at = micros(resource.get("performedDateTime"))
    start = _period(resource.get("performedPeriod"))[0]
    yield Event(at if at is not None else start, coder.concept(resource.get("code")))


def medication_request(resource: Resource, coder: Coder) -> Iterator[Event]:
    """Yield the order when it was written."""
    code = coder.medication_of(resource)
    yield Event(micros(resource.get("authoredOn")), code and f"ORDERED//{code}")


def medication_administration(resource: Resource, coder: Coder) -> Iterator[Event]:
    """Yield the dose when it began to be given."""
    at = micros(resource.get("effectiveDateTime"))
    start = _period(resource.get("effectivePeriod"))[0]
    dosage = resource.get("dosage")
    dose = dosage.get("dose") if isinstance(dosage, dict) else None
    code = coder.medication_of(resource)
    value, _ = _quantity(dose)
    yield Event(at if at is not None else start, code and f"GIVEN//{code}", value)


def observation(resource: Resource, coder: Coder) -> Iterator[Event]:
    """Yield the observation, or each of its components, when it was made (a period: at its end)."""
    at = micros(resource.get("effectiveDateTime")) or micros(resource.get("effectiveInstant"))
    if at is None:
        at = _period(resource.get("effectivePeriod"))[1] or micros(resource.get("issued"))
    parts = _objects(resource.get("component"))
    code = coder.concept(resource.get("code"))
    if not parts or any(key.startswith("value") for key in resource):
        yield _valued(at, code, resource, coder)
    for part in parts:
        yield _valued(at, coder.concept(part.get("code")), part, coder)


def _valued(at: int | None, code: str | None, holder: Resource, coder: Coder) -> Event:
    if code is None:
        return Event(at, None)
    if isinstance(holder.get("valueQuantity"), dict):
        value, end = _quantity(holder["valueQuantity"])
        return Event(at, code + end, value)
    answer = coder.concept(holder.get("valueCodeableConcept"))
    if answer is not None:
        return Event(at, f"{code}//{answer}")
    for key in ("valueInteger", "valueDecimal"):
        if (number := _number(holder.get(key))) is not None:
            return Event(at, code, number)
    if isinstance(holder.get("valueBoolean"), bool):
        return Event(at, f"{code}//{str(holder['valueBoolean']).upper()}")
    written = holder.get("valueString")
    return Event(at, code, None, written if isinstance(written, str) else None)


def _quantity(found: object) -> tuple[float | None, str]:
    """Return a quantity's value, or none and the end of the code of a limit of detection."""
    if not isinstance(found, dict):
        return None, ""
    comparator = found.get("comparator")
    if isinstance(comparator, str) and comparator[:1] in ("<", ">"):
        return None, BELOW_LIMIT if comparator[0] == "<" else ABOVE_LIMIT
    return _number(found.get("value")), ""


def _number(found: object) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        number = float(found)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _period(found: object) -> tuple[int | None, int | None]:
    if not isinstance(found, dict):
        return None, None
    return micros(found.get("start")), micros(found.get("end"))


def _objects(found: object) -> list[Resource]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


EVENTS: Mapping[str, Callable[[Resource, Coder], Iterator[Event]]] = {
    "Encounter": encounter,
    "Condition": condition,
    "Procedure": procedure,
    "MedicationRequest": medication_request,
    "MedicationAdministration": medication_administration,
    "Observation": observation,
}
"""The resource types that are read beside Patient and Medication."""
