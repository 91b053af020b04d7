"""One live consortium for all fault tests: each heals it before it begins."""

from collections.abc import Iterator

import pytest
from live import LiveConsortium


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveConsortium]:
    live = LiveConsortium(tmp_path_factory.mktemp("live"))
    try:
        live.found()
        yield live
    finally:
        live.stop()


@pytest.fixture
def live(founded: LiveConsortium) -> LiveConsortium:
    founded.heal()
    return founded
