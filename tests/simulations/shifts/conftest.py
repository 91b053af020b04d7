"""Small sites, plans and scopes for the tests of shifts."""

import numpy as np
import pytest
import tomli_w

from clients.site import load_site
from simulations.consortium import synthesize
from simulations.shifts.kind import Scope
from simulations.shifts.outcomes import YES_OR_NO
from simulations.shifts.plan import load_shifts
from simulations.shifts.tables import read_tables


@pytest.fixture(scope="session")
def consortium(tmp_path_factory):
    """Three synthetic hospitals of about 60 patients, with images and notes; do not change it."""
    out = tmp_path_factory.mktemp("consortium") / "sites"
    synthesize(out, sites=3, patients=60, seed=3, image_size=32)
    return out


@pytest.fixture
def make_plan(tmp_path):
    """Return a builder of plans: one dictionary a shift."""

    def make(*shifts, seed=7, strength=1.0):
        file = tmp_path / "shifts.toml"
        document = {"shifts": {"seed": seed, "strength": strength}, "shift": list(shifts)}
        file.write_text(tomli_w.dumps(document))
        return load_shifts(file)

    return make


@pytest.fixture
def make_tables(tmp_path, write_site):
    """Return a builder of one site's tables: patients with three codes that tell of the label."""
    return lambda *arguments, name="a", **more: tables_at(
        tmp_path / name, write_site, *arguments, **more
    )


@pytest.fixture(scope="session")
def many_tables(tmp_path_factory, write_site):
    """The tables of a site of 3000 patients; do not change them."""
    return tables_at(tmp_path_factory.mktemp("many") / "a", write_site, 3000)


def tables_at(place, write_site, patients=400, seed=0, extra=(), **more):
    """Write and read a site; a patient's values of a code are near 5, with the outcome near 6."""
    rng = np.random.default_rng(seed)
    tables = read_tables(load_site(write_site(place, patients, seed=seed, **more)), YES_OR_NO)
    events = list(extra)
    for subject, when, label in tables.patients.itertuples(index=False):
        for code in ("LAB//A", "LAB//B", "VITAL//C"):
            for hours in (9, 6, 3, -5):
                at = when - np.timedelta64(hours, "h")
                events.append((subject, at, code, float(rng.normal(5 + label)), None))
    folder = write_site(place, patients, seed=seed, more_events=events, **more)
    return read_tables(load_site(folder), YES_OR_NO)


@pytest.fixture
def scope():
    """Return a builder of scopes."""

    def make(strength=1.0, seed=0, site="a", sites=("a", "b")):
        return Scope(site, sites, strength, seed)

    return make
