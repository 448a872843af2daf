"""Cutting a list of routes into buckets changes nothing about which route comes first, and stays linear in size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.xds.translate.buckets import MAX_REPEATED, ROOT, buckets

texts = st.text("ab/", max_size=5).map(lambda text: ROOT + text)
route_lists = st.lists(st.tuples(st.one_of(st.none(), texts), st.integers()), max_size=40)


def first_candidates(routes: list[tuple[str | None, int]], path: str) -> list[int]:
    return [value for start, value in routes if start is None or path.startswith(start)]


@given(route_lists, texts)
def test_a_path_meets_the_same_routes_in_the_same_order(routes: list[tuple[str | None, int]], path: str) -> None:
    made = buckets(routes)
    key = max((key for key in made if path.startswith(key)), key=len)
    starts = dict(enumerate(routes))
    numbered = buckets([(start, place) for place, (start, _) in starts.items()])[key]
    met = [
        starts[place][1] for place in numbered if starts[place][0] is None or path.startswith(starts[place][0] or "")
    ]
    assert met == first_candidates(routes, path)


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param([(f"/r/{n:05}", n) for n in range(2000)] + [(None, -1)], id="exact paths and a catch-all"),
        pytest.param([(None, -n) for n in range(50)] + [(f"/r/{n}", n) for n in range(2000)], id="regexes in front"),
        pytest.param([("/" + "a" * n, n) for n in range(2000)], id="each a prefix of the next"),
        pytest.param([(None, n) for n in range(2000)], id="nothing to go by"),
    ],
)
def test_the_size_stays_linear(routes: list[tuple[str | None, int]]) -> None:
    assert sum(map(len, buckets(routes).values())) <= (1 + MAX_REPEATED) * len(routes)


def test_exact_paths_get_short_lists() -> None:
    routes: list[tuple[str | None, int]] = [(f"/r/{n:05}", n) for n in range(10_000)]
    made = buckets([*routes, (None, -1)])
    assert made["/r/09999"] == [9999, -1]
    assert max(map(len, made.values())) <= 12
