"""What is remembered by identity is what would be made anew."""

from __future__ import annotations

from rejoinder.xds.remember import by_identity


def test_the_same_objects_in_the_same_order_are_asked_about_once() -> None:
    asked: list[tuple[object, ...]] = []

    @by_identity(10)
    def ask(*values: object) -> int:
        asked.append(values)
        return len(asked)

    one, equal = [1], [1]
    assert [ask(one), ask(one), ask(equal), ask(one, equal), ask(equal, one), ask(one, equal)] == [1, 1, 2, 3, 4, 3]


def test_text_and_numbers_count_by_value() -> None:
    asked: list[tuple[object, ...]] = []

    @by_identity(10)
    def ask(*values: object) -> int:
        asked.append(values)
        return len(asked)

    part: list[str] = []
    name = "".join(["a", "bc"])
    assert [ask("abc", part, 1000), ask(name, part, int("1000")), ask("ab", part, 1000)] == [1, 1, 2]


def test_what_was_asked_for_last_is_kept() -> None:
    asked: list[str] = []

    @by_identity(2)
    def ask(value: str) -> str:
        asked.append(value)
        return value

    for value in ("a", "b", "a", "c", "a", "b"):
        ask(value)
    assert asked == ["a", "b", "c", "b"]


def test_an_object_that_is_remembered_keeps_its_identity() -> None:
    @by_identity(100)
    def first(values: list[int]) -> int:
        return values[0]

    # Without anything to keep them, lists that come one after the other have the same address.
    assert [first([n]) for n in range(50)] == list(range(50))


def test_what_is_made_of_very_much_is_not_remembered() -> None:
    asked = []

    @by_identity(10)
    def ask(*values: int) -> None:
        asked.append(len(values))

    for _ in range(2):
        ask(*range(10_000))
    assert len(asked) == 2


def test_large_results_count_for_more() -> None:
    asked: list[int] = []

    @by_identity(100, len)
    def ask(length: int) -> bytes:
        asked.append(length)
        return bytes(length)

    for length in (40, 41, 40, 90, 40, 90, 101, 101):
        ask(length)
    # 90 and 40 are more than 100, and 101 alone is.
    assert asked == [40, 41, 90, 40, 90, 101, 101]
