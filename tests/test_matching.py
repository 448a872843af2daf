"""The algebra of matches: single facts as tables, and `covers` and `meet` as properties against `fits`."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rejoinder.rules.matching import (
    EVERYTHING,
    Meet,
    RegexError,
    compile_regex,
    covers,
    domain_covers,
    domains_cover,
    fits,
    host_test,
    meet,
    path_covers,
    path_fits,
    quote,
    value_fits,
    wider_domains,
)
from rejoinder.rules.model import EVERY_PATH, EVERY_REQUEST, PathKind, PathMatch, RequestMatch, StringKind, StringMatch
from rejoinder.rules.request import Request

# Small alphabets, so that things meet.
PATHS: Final = ("/", "/a", "/a/", "/a/b", "/ab", "/b", "/A", "/a/b/c", "/a\nb")
REGEXES: Final = ("/a.*", ".*", "/[ab]+", "(?i)/A", "/a(/.*)?", "/a|/b")
VALUES: Final = ("", "1", "12", "112", "2")

path_matches = st.one_of(
    st.builds(PathMatch, st.sampled_from((PathKind.EXACT, PathKind.PREFIX)), st.sampled_from(PATHS)).filter(
        lambda match: match.kind is PathKind.EXACT or match == EVERY_PATH or not match.value.endswith("/")
    ),
    st.builds(PathMatch, st.just(PathKind.REGEX), st.sampled_from(REGEXES)),
)
value_matches = st.one_of(
    st.builds(StringMatch, st.sampled_from(StringKind), st.sampled_from(VALUES)).filter(
        lambda match: match.kind is not StringKind.PRESENT or not match.value
    ),
    st.builds(StringMatch, st.just(StringKind.REGEX), st.sampled_from(("1.*", ".*2", "[12]+"))),
)
named = st.lists(st.tuples(st.sampled_from(("x-a", "x-b")), value_matches), max_size=2, unique_by=lambda test: test[0])
matches = st.builds(
    RequestMatch,
    path_matches,
    st.lists(st.sampled_from(("GET", "POST", "HEAD")), max_size=2, unique=True).map(tuple),
    named.map(tuple),
    named.map(tuple),
)
requests = st.builds(
    Request,
    st.sampled_from(("GET", "POST")),
    st.just("a.test"),
    st.sampled_from(PATHS),
    st.none() | st.lists(st.sampled_from(("x-a=1", "x-a=12", "x-b=2", "x-a", "x-b=1=2", "")), max_size=3).map("&".join),
    st.lists(st.tuples(st.sampled_from(("x-a", "x-b")), st.sampled_from(VALUES)), max_size=3).map(tuple),
)


def prefix(value: str) -> PathMatch:
    return PathMatch(PathKind.PREFIX, value)


def exact(value: str) -> PathMatch:
    return PathMatch(PathKind.EXACT, value)


def regex(value: str) -> PathMatch:
    return PathMatch(PathKind.REGEX, value)


@pytest.mark.parametrize(
    ("match", "path", "expected"),
    [
        pytest.param(EVERY_PATH, "/", True, id="the prefix / fits /"),
        pytest.param(EVERY_PATH, "//", True, id="and everything else"),
        pytest.param(prefix("/a"), "/a", True, id="a prefix fits itself"),
        pytest.param(prefix("/a"), "/a/", True, id="and the folder"),
        pytest.param(prefix("/a"), "/a/b", True, id="and what is below"),
        pytest.param(prefix("/a"), "/ab", False, id="not half an element"),
        pytest.param(prefix("/a"), "/A", False, id="letter case matters"),
        pytest.param(exact("/a"), "/a", True, id="exact"),
        pytest.param(exact("/a"), "/a/", False, id="exact means without a slash too"),
        pytest.param(regex("/a"), "/ab", False, id="a regex must fit the whole path"),
        pytest.param(regex("/a|/b"), "/b", True, id="also one with alternatives"),
        pytest.param(regex("/a|/bc"), "/bcd", False, id="as a whole"),
        pytest.param(regex("(?i)/a"), "/A", True, id="regex flags work"),
    ],
)
def test_a_path_fits(match: PathMatch, path: str, expected: bool) -> None:
    assert path_fits(match, path) is expected


@pytest.mark.parametrize(
    ("kind", "value", "tested", "expected"),
    [
        pytest.param(StringKind.EXACT, "json", "json", True, id="exact"),
        pytest.param(StringKind.EXACT, "json", "JSON", False, id="case matters"),
        pytest.param(StringKind.EXACT, "", "", True, id="an empty value can be asked for"),
        pytest.param(StringKind.PREFIX, "text/", "text/json", True, id="prefix"),
        pytest.param(StringKind.SUFFIX, "json", "text/json", True, id="suffix"),
        pytest.param(StringKind.SUFFIX, "json", "json2", False, id="suffix is at the end"),
        pytest.param(StringKind.CONTAINS, "t/j", "text/json", True, id="contains"),
        pytest.param(StringKind.REGEX, "js.n", "xjson", False, id="a regex must fit the whole value"),
        pytest.param(StringKind.PRESENT, "", "", True, id="present fits an empty value"),
    ],
)
def test_a_value_fits(kind: StringKind, value: str, tested: str, expected: bool) -> None:
    assert value_fits(StringMatch(kind, value), tested) is expected


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        pytest.param((("x-a", "1"),), "q=1", True, id="both fit"),
        pytest.param((), "q=1", False, id="the header is missing"),
        pytest.param((("x-a", "1"),), None, False, id="there is no query"),
        pytest.param((("x-a", "1"),), "", False, id="the query is empty"),
        pytest.param((("x-a", "0"), ("x-a", "1")), "q=1", True, id="any value of a header that is sent twice"),
        pytest.param((("x-a", "1"),), "q=2&q=1", False, id="only the first value of a parameter"),
        pytest.param((("x-a", "1"),), "qq=1&q=1", True, id="parameter names are compared as a whole"),
        pytest.param((("x-a", "1"),), "%71=1", False, id="nothing in a query is decoded"),
    ],
)
def test_a_request_fits_headers_and_query(headers: tuple[tuple[str, str], ...], query: str, expected: bool) -> None:
    one = StringMatch(StringKind.EXACT, "1")
    match = RequestMatch(headers=(("x-a", one),), query=(("q", one),))
    assert fits(match, Request("GET", "a.test", "/", query, headers)) is expected


def test_the_host_header_can_be_matched_on_with_its_port() -> None:
    match = RequestMatch(headers=(("host", StringMatch(StringKind.EXACT, "a.test:8080")),))
    assert fits(match, Request("GET", "a.test", "/", authority="a.test:8080"))


@pytest.mark.parametrize(
    ("pattern", "other", "expected"),
    [
        pytest.param("*", "a.test", True, id="* covers a host"),
        pytest.param("*", "*.test", True, id="* covers a pattern"),
        pytest.param("a.test", "a.test", True, id="a host covers itself"),
        pytest.param("a.test", "*", False, id="a host does not cover *"),
        pytest.param("*.a.test", "b.a.test", True, id="one label in front"),
        pytest.param("*.a.test", "c.b.a.test", True, id="two labels in front"),
        pytest.param("*.a.test", "a.test", False, id="not the domain itself"),
        pytest.param("*.a.test", ".a.test", False, id="nothing in front is not a label"),
        pytest.param("*.a.test", "xa.test", False, id="not half a label"),
        pytest.param("*.a.test", "*.b.a.test", True, id="a narrower pattern"),
        pytest.param("*.b.a.test", "*.a.test", False, id="not a wider one"),
    ],
)
def test_a_domain_covers(pattern: str, other: str, expected: bool) -> None:
    assert domain_covers(pattern, other) is expected


def test_no_domains_are_every_domain() -> None:
    assert domains_cover((), "a.test")
    assert not domains_cover(("b.test",), "a.test")


@pytest.mark.parametrize("domain", ["a.b.c", "*.b.c", "c", "*", "[::1]", "127.0.0.1"])
def test_wider_domains_are_those_that_cover_it_narrowest_first(domain: str) -> None:
    wider = wider_domains(domain)
    assert wider[0] == domain
    assert wider[-1] == "*"
    assert len(set(wider)) == len(wider)
    for narrow, wide in itertools.pairwise(wider):
        assert domain_covers(wide, narrow)


@settings(max_examples=600)
@given(one=matches, other=matches, request=requests)
@example(RequestMatch(regex(".*")), EVERY_REQUEST, Request("GET", "a.test", "/a\nb"))  # `.` fits no line break
def test_what_is_covered_fits_wherever_the_other_fits(one: RequestMatch, other: RequestMatch, request: Request) -> None:
    if covers(one, other) and fits(other, request):
        assert fits(one, request)


@settings(max_examples=300)
@given(one=matches, more=matches)
def test_a_match_covers_itself_with_more_conditions(one: RequestMatch, more: RequestMatch) -> None:
    narrower = RequestMatch(one.path, one.methods or more.methods, one.headers, (*one.query, *more.query))
    assert covers(one, narrower)
    assert covers(EVERY_REQUEST, one)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(prefix("/a"), exact("/a/b"), True, id="prefix over exact"),
        pytest.param(prefix("/a"), prefix("/a/b"), True, id="prefix over prefix"),
        pytest.param(prefix("/a"), prefix("/ab"), False, id="not half an element"),
        pytest.param(regex("/a.*"), exact("/ab"), True, id="regex over exact"),
        pytest.param(regex("/a.*"), regex("/a.*"), True, id="a regex over itself"),
        pytest.param(regex("/a.*"), prefix("/a"), False, id="a regex over a prefix: nobody can tell"),
        pytest.param(exact("/a"), prefix("/a"), False, id="exact over a prefix"),
        pytest.param(exact("/"), EVERY_PATH, False, id="nothing but / covers /"),
    ],
)
def test_a_path_covers(one: PathMatch, other: PathMatch, expected: bool) -> None:
    assert path_covers(one, other) is expected


def meet_fits(met: Meet, request: Request) -> bool:
    rest = RequestMatch(methods=met.methods, headers=met.headers, query=met.query)
    return fits(rest, request) and all(path_fits(path, request.path) for path in met.paths)


@settings(max_examples=600)
@given(several=st.lists(matches, min_size=1, max_size=4), request=requests)
def test_a_request_fits_a_meet_exactly_if_it_fits_every_match(several: list[RequestMatch], request: Request) -> None:
    met: Meet | None = EVERYTHING
    for match in several:
        met = None if met is None else meet(met, Meet.of(match))
    assert (met is not None and meet_fits(met, request)) is all(fits(match, request) for match in several)


@settings(max_examples=300)
@given(one=matches, other=matches)
def test_a_meet_with_what_covers_it_is_itself(one: RequestMatch, other: RequestMatch) -> None:
    met = Meet.of(one)
    assert meet(EVERYTHING, met) == met
    if covers(other, one):
        assert meet(met, Meet.of(other)) == met


@settings(max_examples=300)
@given(several=st.lists(matches, min_size=1, max_size=4))
def test_a_meet_has_at_most_one_path_beside_regexes(several: list[RequestMatch]) -> None:
    met: Meet | None = EVERYTHING
    for match in several:
        met = None if met is None else meet(met, Meet.of(match))
    if met is not None:
        assert sum(path.kind is not PathKind.REGEX for path in met.paths) <= 1
        assert EVERY_PATH not in met.paths
        if any(path.kind is PathKind.EXACT for path in met.paths):
            assert len(met.paths) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(RequestMatch(prefix("/a")), RequestMatch(prefix("/b")), id="two prefixes"),
        pytest.param(RequestMatch(exact("/a")), RequestMatch(regex("/b.*")), id="exact and a regex"),
        pytest.param(RequestMatch(methods=("GET",)), RequestMatch(methods=("POST",)), id="two methods"),
    ],
)
def test_what_nothing_fits_does_not_meet(one: RequestMatch, other: RequestMatch) -> None:
    assert meet(Meet.of(one), Meet.of(other)) is None


hosts = st.one_of(
    st.sampled_from(("a.test", "b.a.test", "c.b.a.test", "xa.test", "aXtest", ".a.test", "[::1]", "a", "127.0.0.1")),
    st.text(alphabet="ab.-", min_size=1, max_size=8),
)
domains = st.sampled_from(("a.test", "*.a.test", "*.test", "[::1]", "127.0.0.1", "a-b.test"))


@settings(max_examples=500)
@given(domain=domains, host=hosts, port=st.sampled_from(("", ":80", ":")), upper=st.booleans())
def test_a_test_of_the_host_fits_the_hosts_that_the_domain_covers(
    domain: str, host: str, port: str, upper: bool
) -> None:
    authority = (host.upper() if upper else host) + port
    tested = Request("GET", host.lower(), "/", authority=authority)
    assert meet_fits(host_test(EVERYTHING, domain), tested) is domains_cover((domain,), host.lower())


def test_a_test_of_the_host_comes_on_top_of_what_is_there() -> None:
    met = Meet.of(RequestMatch(prefix("/a"), headers=(("x-a", StringMatch(StringKind.PRESENT)),)))
    tested = host_test(met, "a.test")
    assert (tested.paths, tested.headers[:-1]) == (met.paths, met.headers)


@settings(max_examples=500)
@given(text=st.text(alphabet=st.characters(codec="utf-8")), other=st.text(max_size=3))
def test_a_quoted_text_fits_itself_and_nothing_else(text: str, other: str) -> None:
    assert value_fits(StringMatch(StringKind.REGEX, quote(text)), text)
    assert value_fits(StringMatch(StringKind.REGEX, quote(text)), other) is (text == other)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        pytest.param("(", "missing", id="unbalanced"),
        pytest.param("(?=a)", "invalid perl operator", id="look-ahead"),
        pytest.param(r"(a)\1", "invalid escape sequence", id="back-reference"),
        pytest.param("a{1001}", "repetition", id="too many repetitions"),
    ],
)
def test_what_re2_does_not_take_is_refused_with_its_reason(pattern: str, reason: str) -> None:
    with pytest.raises(RegexError, match=reason):
        compile_regex(pattern)
