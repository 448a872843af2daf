"""What is remembered is found by its content."""

from __future__ import annotations

import pytest

from rejoinder.xds.remember import Frozen, by_size, frozen


def nested() -> dict[str, object]:
    return {"name": "a", "list": [1, {"deep": ["x"]}], "inner": Frozen({"b": [2]})}


def test_equal_dictionaries_are_one_key() -> None:
    one, other = Frozen(nested()), Frozen(nested())
    assert hash(one) == hash(other)
    assert {one: "found"}[other] == "found"
    assert frozen(one) is one
    assert frozen(nested()) == one


@pytest.mark.parametrize(
    "different", [{"name": "b"}, {"list": [{"deep": ["x"]}, 1]}, {"inner": Frozen({"b": [3]})}, {"more": None}]
)
def test_other_ones_are_another_key(different: dict[str, object]) -> None:
    assert Frozen({**nested(), **different}) not in {Frozen(nested()): None}


def test_the_results_that_were_asked_for_last_are_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.remember._REMEMBERED_BYTES", 3 * 1024 + 9)
    asked = []

    @by_size(len)
    def ask(text: str) -> str:
        asked.append(text)
        return text

    for text in ("one", "two", "one", "six", "one", "two"):
        ask(text)
    assert asked == ["one", "two", "six"]
    ask("long")
    ask("one")
    assert asked == ["one", "two", "six", "long", "one"]
    too_large = "x" * 10_000
    assert ask(too_large) == ask(too_large)
