"""What a reader of a run must know of the sites' data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from federation.study import Study
from federation.validation import listed

HARMLESS = (
    "events after the prediction time, not used",
    "later prediction times, not used",
    "no label of some of the tasks, used for the others",
    "event: cut at the study's max_events",
    "note: cut at the study's max_tokens",
)
"""Counts that the report shows and that are no reason to doubt a result."""

ONE_BY_ONE = 32
"""With more sites of whom the same is to be said, it is said once."""

Saying = tuple[str, str, str]
"""A site, what is said of all of whom it is true, and what is said of this one alone."""


def site_warnings(sites: Mapping[str, Any], study: Study) -> list[str]:
    """Return warnings from what the sites told of their patients, by site."""
    found = together(_sayings(sites, study))
    for modality in study.modalities.names:
        if all(told.get("modalities", {}).get(modality, 0) == 0 for told in sites.values()):
            found.append(f"No site has a patient with {modality}; that part learned nothing.")
    merged = sorted(site for site, told in sites.items() if told.get("score_bins") == "merged")
    if merged:
        found.append(
            f"{listed(merged)} join score bins before they leave (policy.score_bins): AUROC "
            "comes out slightly too low there, by about 0.02 at 60 held-out patients and 0.001 "
            "at 300, and Brier is approximate."
        )
    return found


def together(sayings: Iterable[Saying]) -> list[str]:
    """Return one warning for each saying, or one for all sites of whom the same is said.

    >>> together((f"s{i:02d}", "slept", f"s{i:02d} slept.") for i in range(2))
    ['s00 slept.', 's01 slept.']
    >>> together((str(i), "slept", f"{i} slept.") for i in range(100))
    ['100 sites slept: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 88 more.']
    """
    sayings = list(sayings)
    of: dict[str, list[str]] = {}
    for site, saying, _ in sayings:
        of.setdefault(saying, []).append(site)
    warnings, said = [], set()
    for _, saying, alone in sayings:
        if len(of[saying]) <= ONE_BY_ONE:
            warnings.append(alone)
        elif saying not in said:
            said.add(saying)
            warnings.append(f"{len(of[saying])} sites {saying}: {listed(of[saying])}.")
    return warnings


def _sayings(sites: Mapping[str, Any], study: Study) -> Iterator[Saying]:
    batch = study.training.batch_size
    for site, told in sorted(sites.items()):
        if "failure" in told:
            why = f"could not describe their patients ({told['failure']})"
            yield site, why, f"{site} could not describe its patients: {told['failure']}."
            continue
        for split in ("train", "tuning", "held_out"):
            if told["patients"].get(split) == 0:
                none = f"no patient in the {split} split"
                yield site, f"have {none}", f"{site} has {none}."
        train = told["patients"].get("train")
        private = study.privacy.mechanism == "dp_sgd"  # a smaller site refuses then
        if isinstance(train, int) and 0 < train < batch and not private:
            yield (
                site,
                f"have fewer training patients than a batch of {batch}; their batches are smaller",
                f"{site} has {train} training patients, fewer than a batch of {batch}; its batches "
                "are smaller.",
            )
        for reason, count in {**told["excluded"], **told["notices"]}.items():
            if reason not in HARMLESS:
                yield (
                    site,
                    f'counted patients under "{reason}"',
                    f"{site}: {reason} (patients: {count}).",
                )
