"""Missing modality: a share of patients loses all of it."""

import pytest

from simulations.shifts import missing
from simulations.shifts.missing import Missing


@pytest.mark.parametrize(
    ("modality", "start"), [("image", "IMAGE//"), ("text", "NOTE//"), ("ehr", "LAB//")]
)
def test_patients_lose_all_or_nothing_of_a_modality(make_tables, scope, modality, start):
    tables = make_tables(200, notes=True, images=True)
    shift = Missing(kind="missing", modalities=(modality,))
    effect = missing.apply(shift, tables, scope(1.0, 3))
    lost = 0
    for subject, own in tables.events.groupby("subject_id"):
        before = own["code"].astype(str).str.startswith(start).sum()
        rows = effect.tables.events
        left = rows[rows["subject_id"] == subject]["code"].astype(str).str.startswith(start).sum()
        assert left in (0, before)
        lost += left == 0
    assert effect.touched == {f"patients without {modality}": lost}
    assert lost / 200 == pytest.approx(effect.drawn[modality], abs=0.1)
    assert len(effect.tables.patients) == 200


def test_site_without_the_modality_is_reported(make_tables, scope):
    effect = missing.apply(Missing(kind="missing"), make_tables(20), scope())
    assert effect.note
