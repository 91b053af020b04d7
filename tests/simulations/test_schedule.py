"""Which process plays which site: near the shortest possible round, and mostly where it was."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.schedule import FORGET, Costs, spread

COSTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=7).map(lambda c: dict(enumerate(c)))


def makespan(mine, costs):
    return max(sum(costs[node] for node in nodes) for nodes in mine.values())


def shortest(costs, workers):
    """The best division, by trying them all."""
    return min(
        max(
            sum(c for c, w in zip(costs.values(), who, strict=True) if w == worker)
            for worker in workers
        )
        for who in product(workers, repeat=len(costs))
    )


@given(COSTS, st.integers(1, 3))
def test_longest_first_is_within_graham_s_bound_of_the_shortest_round(costs, count):
    workers = list(range(count))
    bound = 4 / 3 - 1 / (3 * count)
    assert makespan(spread(costs, workers, {}), costs) <= bound * shortest(costs, workers) + 1e-9


@given(COSTS, st.integers(1, 3))
def test_every_site_is_played_once_and_the_most_costly_first(costs, count):
    mine = spread(costs, list(range(count)), {})
    assert sorted(node for nodes in mine.values() for node in nodes) == sorted(costs)
    for nodes in mine.values():
        assert [costs[n] for n in nodes] == sorted((costs[n] for n in nodes), reverse=True)


def test_sites_stay_where_they_were_while_the_load_is_even():
    homes = {1: 1, 2: 0, 3: 0, 4: 1}
    mine = spread({1: 3.0, 2: 2.9, 3: 1.1, 4: 1.2}, [0, 1], homes)
    assert mine == {0: [2, 3], 1: [1, 4]}


def test_sites_move_once_their_process_has_too_much_to_do():
    homes = dict.fromkeys(range(4), 0)
    mine = spread(dict.fromkeys(range(4), 1.0), [0, 1], homes)
    assert {len(nodes) for nodes in mine.values()} == {2}
    assert {homes[node] for node in mine[1]} == {1}


def test_sites_of_a_process_that_is_gone_go_to_the_others():
    homes = {1: 0, 2: 1}
    assert spread({1: 1.0, 2: 1.0}, [0], homes) == {0: [1, 2]}
    assert homes == {1: 0, 2: 0}


@pytest.fixture
def costs(tmp_path):
    """Costs of three sites with 1000, 3000 and 2000 bytes of tables."""
    files = {}
    for node, size in {1: 1000, 2: 3000, 3: 2000}.items():
        folder = tmp_path / str(node)
        folder.mkdir()
        (folder / "x.parquet").write_bytes(b"0" * (size - 1))
        files[node] = str(folder / "site.toml")
    return Costs(files, 9)


def test_before_a_measurement_sites_cost_what_their_tables_hold(costs):
    assert costs.of([1, 2, 3, 9]) == {1: 1000, 2: 3000, 3: 2000, 9: 6000}


def test_measured_seconds_replace_the_guess_and_scale_the_others(costs):
    costs.note({1: 5.0})
    assert costs.of([1, 2, 3]) == pytest.approx({1: 5.0, 2: 15.0, 3: 10.0})


def test_measurements_are_averaged_with_the_newest_weighing_most(costs):
    costs.note({1: 4.0})
    costs.note({1: 8.0})
    assert costs.of([1]) == pytest.approx({1: 4.0 + FORGET * 4.0})
