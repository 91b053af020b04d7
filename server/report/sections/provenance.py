"""What was run, by which versions: enough to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.pages.elements import Folded, Section, Table, Td, Text
from server.report.run_folder import RunFolder
from server.report.text import flattened, shown


def provenance(run: RunFolder) -> Section:
    """Versions, machine and seed, and the resolved study."""
    settings = settings_table(run.study)
    return Section(
        "provenance",
        "Provenance",
        [
            Text(
                "study.toml of the run folder is the study as it was run, with every default. "
                "Without differential privacy the same study, seed and versions give the same "
                "metrics."
            ),
            provenance_table(run),
            Folded(f"The resolved study, {len(settings.rows)} settings", [settings]),
        ],
    )


def settings_table(study: Mapping[str, Any]) -> Table:
    """The resolved study, one row a key."""
    rows = [[Td(key), Td(shown(value), look="text")] for key, value in flattened(study)]
    return Table("Resolved study (study.toml)", ["Setting", "Value"], rows)


def provenance_table(run: RunFolder) -> Table:
    """Fingerprint, seed, versions and machine."""
    facts = {"fingerprint": run.metrics.fingerprint, "seed": run.metrics.seed, **run.environment}
    rows = [[Td(key), Td(shown(value), look="text")] for key, value in flattened(facts)]
    return Table("Versions, machine and seed", ["What", "Value"], rows)
