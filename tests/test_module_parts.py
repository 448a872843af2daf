"""Programs that come to the module in parts."""

from __future__ import annotations

from pathlib import Path

import handmade as h
import pytest
from module_host import (
    PLAIN,
    _host,  # noqa: F401 - a fixture
    play,
    request,
    response,
    told,
)

ID_1, PART_1 = h.part(h.body(b"one"), h.rule("one", [h.reply([(501, 501)], body=b"one")]))
ID_2, PART_2 = h.part(h.rule("two", [h.reply([(502, 502)], body=b"one")])[len(h.body(b"one")) :])
WHOLE = h.program(h.rule("own", [h.reply([(500, 599)], body=b"own")]), parts=[ID_2, ID_1])
OLD = h.program(h.rule("old", [h.reply([(500, 599)], body=b"old")]))


def answer(status: int, text: str) -> list[str]:
    """What the newest configuration answers to a status."""
    return [*request(), ">", *response(status), "e", f"= {status} {text}", "."]


PARTS: dict[str, list[str]] = {
    "parts-first": [
        told(PART_1, "p1"),
        told(PART_2, "p2"),
        told(WHOLE),
        *answer(501, "one"),
        *answer(502, "one"),
        *answer(503, "own"),
    ],
    "a-part-does-nothing": [told(PART_1, "p1"), *answer(501, "-")],
    "parts-last": [
        told(WHOLE),
        "? 0",
        *response(501),
        "e",
        "= 501 -",
        ".",
        told(PART_1),
        told(PART_2),
        "? 0",
        *response(501),
        "e",
        "= 501 one",
        ".",
        "? 0",
        *response(502),
        "e",
        "= 502 one",
        ".",
    ],
    "what-was-before-stays": [
        told(OLD),
        told(WHOLE),
        *answer(501, "old"),
        told(PART_1, "p"),
        "? 1",
        *response(502),
        "e",
        "= 502 old",
        ".",
        "d",
        told(PART_2, "p"),
        "? 0",
        *response(502),
        "e",
        "= 502 one",
        ".",
    ],
    "by-another-name-nothing-was-before": [told(OLD, "other"), told(WHOLE), *answer(501, "-")],
    "a-stream-keeps-its-program": [
        told(OLD),
        told(WHOLE),
        "? 1",
        told(PART_1, "p"),
        told(PART_2, "p"),
        *response(502),
        "e",
        "= 502 old",
        ".",
        "? 1",
        *response(502),
        "e",
        "= 502 one",
        ".",
    ],
    "parts-are-forgotten": [
        *(told(PART_1, "p"), "d", told(WHOLE), told(PART_2, "p")),
        *("? 0", *response(502), "e", "= 502 -", "."),
    ],
    "a-program-keeps-its-parts": [
        told(PART_1, "p"),
        told(PART_2, "p"),
        told(WHOLE),
        "d",
        "d",
        *answer(501, "one"),
        told(WHOLE),
        *answer(502, "one"),
    ],
    "a-waiting-program-goes": [told(WHOLE), "d", told(PART_1, "p"), told(PART_2, "p")],
    "the-same-part-twice": [
        told(PART_1, "p"),
        told(PART_1, "q"),
        "d",
        told(PART_2, "p"),
        told(WHOLE),
        *answer(501, "one"),
    ],
    "a-part-named-twice": [
        told(PART_1, "p"),
        told(h.program(parts=[ID_1, ID_1]), letter="C"),
        "x part 2: expected one that is not named",
    ],
    "another-part-of-that-id": [
        told(PART_1, "p"),
        told(PART_1[:24] + PART_2[24:], letter="C"),
        "x an id that no part with other bytes has",
    ],
    "a-broken-part": [told(PART_1[:-1], letter="C"), "x expected a record of that length"],
    "a-body-that-does-not-come": [
        told(OLD),
        told(h.program(parts=[ID_2])),
        *answer(502, "old"),
        told(PART_2, "p"),
        "x rule two: the body of a reply is in no record",
        "? 1",
        *response(502),
        "e",
        "= 502 old",
        ".",
    ],
    "no-regular-expression": [
        told(h.program(h.rule("r", [PLAIN], path=(h.REGEX, "("))), letter="C"),
        "x no such regular expression",
    ],
}


@pytest.mark.parametrize("name", PARTS)
def test_programs_come_in_parts(host: Path, name: str) -> None:
    play(host, PARTS[name])
