"""FHIR codings as codes of events."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SYSTEMS = {
    "http://loinc.org": "LOINC",
    "http://snomed.info/sct": "SNOMED",
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD10CM",
    "http://hl7.org/fhir/sid/icd-10": "ICD10",
    "http://fhir.de/CodeSystem/bfarm/icd-10-gm": "ICD10GM",
    "http://fhir.de/CodeSystem/bfarm/ops": "OPS",
    "http://hl7.org/fhir/sid/icd-9-cm": "ICD9CM",
    "http://www.cms.gov/Medicare/Coding/ICD10": "ICD10PCS",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "RXNORM",
    "http://www.whocc.no/atc": "ATC",
    "http://hl7.org/fhir/sid/ndc": "NDC",
    "http://hl7.org/fhir/sid/cvx": "CVX",
    "http://www.ama-assn.org/go/cpt": "CPT",
}
"""Well-known systems; another one is called by the last part of its address."""


class Coder:
    """Names concepts: ``SYSTEM//CODE``.

    Args:
        systems: names of the site file, by system; of several codings of a concept, one of these
            is taken first, then a well-known one, then the first.
        medications: codes of the export's Medication resources, by id.
    """

    def __init__(self, systems: Mapping[str, str], medications: Mapping[str, str]):
        self._own = systems
        self._medications = medications

    def concept(self, found: object) -> str | None:
        """Return the code of a CodeableConcept; of one without a coding none."""
        listed = found.get("coding") if isinstance(found, dict) else None
        codings = [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
        return self._best(codings)

    def coding(self, found: object) -> str | None:
        """Return the code of a single Coding."""
        return self._best([found]) if isinstance(found, dict) else None

    def medication(self, resource: Mapping[str, Any]) -> str | None:
        """Return the code of a Medication: its own, or that of an identifier."""
        code = self.concept(resource.get("code"))
        listed = resource.get("identifier")
        if code is not None or not isinstance(listed, list):
            return code
        named = [i for i in listed if isinstance(i, dict)]
        return self._best([{"system": i.get("system"), "code": i.get("value")} for i in named])

    def medication_of(self, resource: Mapping[str, Any]) -> str | None:
        """Return the code of what a request or an administration is about."""
        code = self.concept(resource.get("medicationCodeableConcept"))
        reference = resource.get("medicationReference")
        if code is None and isinstance(reference, dict):
            name = reference.get("reference")
            if isinstance(name, str):
                return self._medications.get(name.rpartition("/")[2])
        return code

    def _best(self, codings: Sequence[Mapping[str, Any]]) -> str | None:
        usable = [c for c in codings if isinstance(c.get("code"), str) and c["code"].strip()]
        if not usable:
            return None
        chosen = min(usable, key=self._rank)
        return f"{self._name(chosen.get('system'))}//{chosen['code'].strip()}"

    def _rank(self, coding: Mapping[str, Any]) -> int:
        system = coding.get("system")
        if not isinstance(system, str):
            return 2
        return 0 if system in self._own else 1 if system in SYSTEMS else 2

    def _name(self, system: object) -> str:
        if not isinstance(system, str) or not system:
            return "LOCAL"
        known = self._own.get(system) or SYSTEMS.get(system)
        last = re.split(r"[/:]", system.rstrip("/"))[-1]
        return known or re.sub(r"[^A-Za-z0-9_.-]", "_", last).upper() or "LOCAL"
