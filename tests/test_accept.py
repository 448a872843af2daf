"""Which variant a request gets by Accept and Accept-Language: one table, in Python and in the module's core."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Final

import core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.rules.accept import LOOKED_AT, MAX_ELEMENTS, Offer, best

Best = Callable[[Sequence[Offer], str | None, str | None], int]


@pytest.fixture(scope="module", name="in_core")
def _in_core(tmp_path_factory: pytest.TempPathFactory) -> Best:
    target = tmp_path_factory.mktemp("core") / "libaccept.so"
    loaded = ctypes.CDLL(str(core.compiled(target, core.of_core("accept.c", "reader.c"), "-shared", "-fPIC", "-O2")))
    return lambda *asked: core.accept_best(loaded, *asked)


@pytest.fixture(params=["python", "core"])
def choose(request: pytest.FixtureRequest, in_core: Best) -> Best:
    return best if request.param == "python" else in_core


def types(*content_types: str) -> list[Offer]:
    return [Offer(content_type, "") for content_type in content_types]


def languages(*tags: str) -> list[Offer]:
    return [Offer("", tag) for tag in tags]


JSON_HTML: Final = types("application/json", "text/html; charset=utf-8")
EN_DE: Final = languages("en", "de")
PAGES: Final = [Offer("text/html", "en"), Offer("text/html", "de"), Offer("application/json", "")]
CHROME: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

CASES: Final = {
    # what is asked: (variants, Accept, Accept-Language, which one)
    "nothing sent": (JSON_HTML, None, None, 0),
    "everything": (JSON_HTML, "*/*", None, 0),
    "the only one": (JSON_HTML, "text/html", None, 1),
    "in other letters": (JSON_HTML, "TEXT/HTML", None, 1),
    "a browser": (JSON_HTML, CHROME, None, 1),
    "the higher q": (JSON_HTML, "application/json;q=0.5, text/html;q=0.6", None, 1),
    "of equals, the first": (JSON_HTML, "text/html;q=0.5, application/json;q=0.5", None, 0),
    "three digits": (JSON_HTML, "application/json;q=0.998, text/html;q=0.999", None, 1),
    "q in a capital letter": (JSON_HTML, "application/json;Q=0.5, text/html", None, 1),
    "spaces": (JSON_HTML, "\tapplication/json ; q=0.5 ,text/html\t;\tq=0.9 ", None, 1),
    "empty elements": (JSON_HTML, ",, ,text/html,", None, 1),
    "empty parameters": (JSON_HTML, "application/json;;q=0.1; ;,text/html; ;;", None, 1),
    "a type": (JSON_HTML, "text/*", None, 1),
    "the subtype before the type": (types("text/html", "text/plain"), "text/*, text/html;q=0.1", None, 1),
    "the type before everything": (JSON_HTML, "*/*, application/*;q=0.1", None, 1),
    "parameters before none": (
        types("text/html;level=2", "text/html;level=1"),
        "text/html;q=0.5, text/html;level=1",
        None,
        1,
    ),
    "two parameters before one": (
        types("a/b;x=1", "a/b;x=1;y=2"),
        "a/b;x=1;q=0.2, a/b;y=2;x=1;q=0.9",
        None,
        1,
    ),
    "the subtype before parameters": (
        types("a/b;x=1;y=2;z=3", "c/d"),
        "*/*;x=1;y=2;z=3;q=0.1, a/*;x=1;y=2;z=3;q=0.1, a/b;q=0.9, c/d;q=0.5",
        None,
        0,
    ),
    "the example of RFC 9110": (
        types("text/plain", "text/html;level=3", "text/html;level=1"),
        "text/*;q=0.3, text/plain;q=0.7, text/plain;format=flowed, text/plain;format=fixed;q=0.4, */*;q=0.5, "
        "text/html;level=1",
        None,
        2,
    ),
    "a parameter that we do not have": (JSON_HTML, "text/html;level=1, application/json;q=0.1", None, 0),
    "a parameter in quotes": (types("a/b", 'a/b;p="x,y"'), r'a/b;q=0.1, a/b;p="\x,y"', None, 1),
    "a parameter without quotes": (types("a/b", "a/b;p=X"), 'a/b;q=0.1, a/b;p="x"', None, 1),
    "a comma behind a quote in quotes": (JSON_HTML, r'application/json;a="\", text/html;q=0.9, "', None, 0),
    "a longer parameter": (types("a/b", "a/b;p=x"), "a/b;q=0.5, a/b;p=xy;q=0.9", None, 0),
    "a shorter parameter": (types("a/b", "a/b;p=xy"), 'a/b;q=0.5, a/b;p="";q=0.1, a/b;p=x;q=0.9', None, 0),
    "a charset": (JSON_HTML, "application/json;q=0.5, text/html;charset=iso-8859-1", None, 1),
    "a charset that we do not name": (JSON_HTML, "text/html;q=0.5, application/json; charset=utf-8", None, 0),
    "a suffix is another type": (types("application/xml", "application/problem+xml"), "application/xml", None, 0),
    "q=0": (JSON_HTML, "application/json;q=0, */*;q=0.1", None, 1),
    "q=0.000": (JSON_HTML, "application/json;q=0.000, */*;q=0.001", None, 1),
    "none acceptable": (JSON_HTML, "image/png", None, 0),
    "nothing acceptable": (JSON_HTML, "*/*;q=0", None, 0),
    "twice": (JSON_HTML, "application/json;q=0.5, text/html;q=0.1, text/html;q=0.9", None, 1),
    "q twice": (JSON_HTML, "application/json;q=0.5, text/html;q=0.1;q=0.9", None, 1),
    "without a zero": (JSON_HTML, "application/json;q=.2, text/html;q=.3", None, 1),
    "a dot at the end": (JSON_HTML, "application/json;q=0., text/html;q=1.", None, 1),
    "many digits": (JSON_HTML, "application/json;q=0.3333333333333, text/html;q=0.5", None, 1),
    "Java": (JSON_HTML, "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", None, 1),
    # nonsense: the element is left out
    "q above one": (JSON_HTML, "application/json;q=1.001, text/html;q=0.1", None, 1),
    "q of two": (JSON_HTML, "application/json;q=2, text/html;q=0.1", None, 1),
    "q of nothing": (JSON_HTML, "application/json;q=, text/html;q=0.1", None, 1),
    "q of a dot": (JSON_HTML, "application/json;q=., text/html;q=0.1", None, 1),
    "q of words": (JSON_HTML, "application/json;q=high, text/html;q=0.1", None, 1),
    "q below zero": (JSON_HTML, "application/json;q=-1, text/html;q=0.1", None, 1),
    "q in quotes": (JSON_HTML, 'application/json;q="1", text/html;q=0.1', None, 1),
    "spaces around =": (JSON_HTML, "application/json;q = 1, text/html;q=0.1", None, 1),
    "spaces around /": (JSON_HTML, "application / json, text/html;q=0.1", None, 1),
    "a space for a semicolon": (JSON_HTML, "application/json q=1, text/html;q=0.1", None, 1),
    "no subtype": (JSON_HTML, "application, application/, /json, text/html;q=0.1", None, 1),
    "a subtype of everything": (JSON_HTML, "*/json, text/html;q=0.1", None, 1),
    "one star": (JSON_HTML, "*, text/html;q=0.1", None, 1),
    "a parameter without value": (JSON_HTML, "application/json;a, text/html;q=0.1", None, 1),
    "a parameter without name": (JSON_HTML, "application/json;=1, text/html;q=0.1", None, 1),
    "bytes": (JSON_HTML, "application/json\udcff, \udcc3\udca9/*, é/*, text/html;q=0.1", None, 1),
    "bytes in quotes": (JSON_HTML, 'application/json;q=0.2, text/html;charset="\udcff\x00"', None, 1),
    "a quote that never ends": (JSON_HTML, 'text/html;q=0.1, application/json;a=", application/json', None, 1),
    "a backslash at the end": (JSON_HTML, 'text/html;q=0.1, application/json;a="\\', None, 1),
    "a quote in front": (JSON_HTML, '"application/json", text/html;q=0.1', None, 1),
    # nonsense: nothing is left
    "empty": (JSON_HTML, "", None, 0),
    "only commas": (JSON_HTML, " , ,", None, 0),
    "only nonsense": (JSON_HTML, "html; json", None, 0),
    "no content type": (types("html", "text/html"), "html, text/html", None, 1),
    "no content type, everything": (types("html", "text/html"), "*/*, text/html;q=0.5", None, 0),
    # languages
    "a language": (EN_DE, None, "de", 1),
    "a language in other letters": (EN_DE, None, "DE", 1),
    "the preferred language": (EN_DE, None, "de-AT, de;q=0.9, en;q=0.8", 1),
    "a longer tag of ours": (languages("en", "de-AT"), None, "de", 1),
    "a range that is longer than the tag": (EN_DE, None, "de-AT", 1),
    "a range of several subtags": (EN_DE, None, "fr-CH-x-a, de-CH-1996;q=0.5, en;q=0.1", 1),
    "the tag itself counts more": (EN_DE, None, "de-AT, de;q=0.5, en;q=0.6", 0),
    "the better one of two that are longer": (EN_DE, None, "de-AT;q=0.2, de-CH;q=0.7, en;q=0.6", 1),
    "another one of the language": (languages("en", "de-CH"), None, "de-AT", 0),
    "without this country": (EN_DE, None, "de-AT;q=0, *;q=0.5, en;q=0.1", 1),
    "not a beginning of a subtag": (EN_DE, None, "den-AT, en;q=0.1", 0),
    "not a subtag": (languages("en", "den"), None, "de, en;q=0.1", 0),
    "the longer range first": (languages("de-AT", "de-CH"), None, "de;q=0.9, de-AT;q=0.1", 1),
    "the tag before *": (EN_DE, None, "*;q=0.5, en;q=0.1", 1),
    "* alone": (EN_DE, None, "*", 0),
    "not this language": (EN_DE, None, "en;q=0, *", 1),
    "a language with a script": (languages("zh-Hans", "zh-Hant-TW"), None, "zh-hant", 1),
    "language nonsense": (EN_DE, None, "en/us, e n, \udcff, en;q=x, de;q=0.1", 1),
    "an underscore": (EN_DE, None, "en_US, de;q=0.1", 1),
    # both
    "both": (PAGES, CHROME, "de, en;q=0.5", 1),
    "JSON in no language": (PAGES, "application/json", "de", 2),
    "the type outweighs": (PAGES, "text/html;q=0.1, application/json", "en", 2),
    "the product": (
        [Offer("text/html", "en"), Offer("text/plain", "de")],
        "text/html, text/plain;q=0.8",
        "de, en;q=0.7",
        1,
    ),
    "a browser in a language that we do not have": (PAGES, CHROME, "ja", 0),
    "a browser that has English last": (PAGES, CHROME, "fr-FR,fr;q=0.9,en-US;q=0.8,en;q=0.7", 0),
    "a type that we do not have, in German": (PAGES, "image/png", "de", 1),
    "an empty Accept, in German": (PAGES, "", "de", 1),
    "nothing in either": (PAGES, "image/png", "ja", 0),
    "a variant of any type": ([Offer("text/html", ""), Offer("", "")], "text/html;q=0.5", None, 0),
    "no variants": ([], "text/html", "en", 0),
}


@pytest.mark.parametrize(("offers", "accept", "language", "wanted"), CASES.values(), ids=CASES)
def test_variant(choose: Best, offers: Sequence[Offer], accept: str | None, language: str | None, wanted: int) -> None:
    assert choose(offers, accept, language) == wanted


def test_what_is_looked_at_ends_with_an_element(choose: Best) -> None:
    for filler in range(LOOKED_AT - 40, LOOKED_AT + 3):
        accept = f"{'x' * filler}, text/html, image/png"
        end = filler + len(", text/html,")
        assert choose(JSON_HTML, accept, None) == (end <= LOOKED_AT or len(accept) <= LOOKED_AT)


def test_the_first_elements_count(choose: Best) -> None:
    for number in (MAX_ELEMENTS - 1, MAX_ELEMENTS):
        assert choose(JSON_HTML, "no type at all, ," + "image/png," * number + "text/html", None) == (
            number < MAX_ELEMENTS
        )


@pytest.mark.parametrize(
    "element",
    [
        "a/b;c=d,",
        "a/b;c;",
        ";",
        ",",
        '"',
        '",',
        "\\",
        '"\\',
        'a/b;c="\\x";',
        "a",
        "a/",
        "a/b; ",
        " ",
        "*/*;q=0.1,",
        "text/html;a=1;",
    ],
)
def test_long_headers_take_time_that_is_linear(choose: Best, element: str) -> None:
    header = element * (60_000 // len(element))
    start = time.process_time()
    choose(PAGES * 5, f"text/html,{header}", f"de,{header}")
    choose([Offer(f"text/html;{'a=1;' * 1000}", "")], header, None)
    assert time.process_time() - start < 1.5


# Most of what it makes is nearly a header.
_WORDS: Final = st.sampled_from(
    (
        *("text", "html", "json", "application", "a", "x", "q", "Q", "charset", "level", "de", "en", "de-AT", "*"),
        *("1", "0", "0.5", "1.0", "2", ".5", '"x"', '"\\x"', '"x,', '"', "\\", "é", "\udcff", "\0"),
    )
)
_MARKS: Final = st.sampled_from(["/", "/", ";", ";", "=", "=", ",", ", ", " ", "\t", "", "; q=0.", ";q=", ", */*"])
_HEADERS: Final = (
    st.none()
    | st.lists(_WORDS | _MARKS, max_size=30).map("".join)
    | st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape"))
)
_TYPES: Final = st.sampled_from(
    ["", "text/html", "text/html; charset=utf-8", "application/json", "text/a;level=1", 'a/b;x="\\"y"', "a/*", "text"]
) | st.lists(st.sampled_from(["text", "/", ";", "=", "x", "1", '"', "\\", " ", "*", "é"]), max_size=8).map("".join)
_TAGS: Final = st.sampled_from(["", "de", "de-AT", "en", "DE", "a", "x-", "*"])


@settings(max_examples=600)
@given(offers=st.lists(st.builds(Offer, _TYPES, _TAGS), max_size=5), accept=_HEADERS, language=_HEADERS)
def test_the_core_chooses_as_python_does(
    in_core: Best, offers: Sequence[Offer], accept: str | None, language: str | None
) -> None:
    assert in_core(offers, accept, language) == best(offers, accept, language)
