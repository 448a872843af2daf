"""Cutting a list of routes into buckets changes nothing about which route comes first, and stays linear in size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.xds.translate.buckets import MAX_REPEATED, ROOT, Start, buckets

texts = st.text("ab/", max_size=5).map(lambda text: ROOT + text)
starts = st.one_of(st.just(Start()), st.builds(Start, texts, st.sampled_from(["", "/", None])))
start_lists = st.lists(starts, max_size=40)


def placed(starts: list[Start]) -> list[tuple[Start, int]]:
    return [(start, place) for place, start in enumerate(starts)]


def fits(start: Start, path: str) -> bool:
    behind = path[len(start.text) :]
    return path.startswith(start.text) and (not behind or start.next is None or behind[0] == start.next)


@given(start_lists, texts, st.integers(0, 20))
def test_a_path_meets_the_same_routes_in_the_same_order(starts: list[Start], path: str, short: int) -> None:
    made = buckets(placed(starts), short)
    key = max((key for key in made if path.startswith(key)), key=len)
    met = [place for place in made[key] if fits(starts[place], path)]
    assert met == [place for place, start in enumerate(starts) if fits(start, path)]


def exact(number: int) -> Start:
    return Start(f"/r/{number:05}", "")


@pytest.mark.parametrize(
    "starts",
    [
        pytest.param([*map(exact, range(2000)), Start()], id="exact paths and a catch-all"),
        pytest.param([*[Start()] * 50, *map(exact, range(2000))], id="regexes in front"),
        pytest.param([Start("/" + "a" * n, "/") for n in range(2000)], id="each begins with the one before"),
        pytest.param([Start("/a" * n, "/") for n in range(1, 2000)], id="each below the one before"),
        pytest.param([Start()] * 2000, id="nothing to go by"),
    ],
)
def test_the_size_stays_linear(starts: list[Start]) -> None:
    made = buckets(placed(starts))
    assert sum(map(len, made.values())) <= (1 + MAX_REPEATED) * len(starts)


def test_exact_paths_get_short_lists() -> None:
    made = buckets([*((exact(n), n) for n in range(10_000)), (Start(), -1)])
    assert made["/r/09999"] == [9999, -1]
    assert max(map(len, made.values())) <= 12


def test_a_path_is_not_repeated_where_it_cannot_fit() -> None:
    made = buckets([(Start("/a", ""), 0), (Start("/a", "/"), 1), (Start("/a"), 2), (Start("/ax"), 3)])
    assert made == {"/": [], "/a": [0, 1, 2], "/ax": [2, 3]}
    below = [(Start(f"/a/{n}"), n) for n in range(3, 6)]
    made = buckets([(Start("/a", ""), 0), (Start("/a", "/"), 1), (Start("/a"), 2), *below])
    assert made["/a/"] == [1, 2, 3, 4, 5]


def test_a_short_list_is_not_cut() -> None:
    routes = [(exact(n), n) for n in range(12)]
    assert buckets(routes, short=12) == {"/": list(range(12))}
    assert len(buckets(routes, short=11)) > 1
