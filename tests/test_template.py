"""Templates: what is one, and what comes out, in Python and in the module's core, whatever the values are."""

from __future__ import annotations

import ctypes
import json
import re
import urllib.parse
import xml.etree.ElementTree as ET
from typing import Final

import pytest
from core import CoreTemplate
from filling import (
    Fill,
    Seen,
    Values,
    _filled,  # noqa: F401 - a fixture
    _loaded,  # noqa: F401 - a fixture
    in_python,
    meant,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.rules.template import (
    LONGEST_VALUE,
    NAMES,
    Escape,
    Name,
    Template,
    TemplateError,
    Variable,
    default_escape,
    encode,
    parse,
    parse_header,
)

# ---- what is a template

STATUS: Final = Variable(Name.STATUS, "", Escape.HTML)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", ()),
        ("plain } }} { text", (b"plain } }} { text",)),
        ("{{status}}", (STATUS,)),
        ("a{{ status }}{{status}}é", (b"a", STATUS, STATUS, "é".encode())),
        ('{"a":{"b":{{ status }}}}', (b'{"a":{"b":', STATUS, b"}}")),
        ("{{ status | html }}", (STATUS,)),
        ("{{status|raw}}", (Variable(Name.STATUS, "", Escape.RAW),)),
        ("{{ status | json }}", (Variable(Name.STATUS, "", Escape.JSON),)),
        ("{{ status | urlencode }}", (Variable(Name.STATUS, "", Escape.URL),)),
        ("{{ request.header.X-A }}", (Variable(Name.REQUEST_HEADER, "x-a", Escape.HTML),)),
        ("{{ request.query.A[b].c }}", (Variable(Name.REQUEST_QUERY, "A[b].c", Escape.HTML),)),
        ('a {{ "{{" }} b }} {{ status }}', (b"a {{ b }} ", STATUS)),
    ],
)
def test_parse(text: str, pieces: tuple[bytes | Variable, ...]) -> None:
    assert parse(text, Escape.HTML).pieces == pieces


def test_every_name_is_known() -> None:
    assert sorted(NAMES.values()) == list(Name)
    for spelled, name in NAMES.items():
        argument = "x" if name in (Name.REQUEST_HEADER, Name.REQUEST_QUERY) else ""
        dotted = f"{spelled}.x" if argument else spelled
        assert parse(f"{{{{ {dotted} }}}}", Escape.RAW).pieces == (Variable(name, argument, Escape.RAW),)


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("ab {{ status", 3, 'expected "}}" behind "{{", in the same line'),
        ('{{ "{{" }', 0, 'expected "}}" behind'),
        (f"{{{{ {'x' * 60_000} }}}}", 0, f'unknown name "{"x" * 60}": expected one of'),
        ("{{ status {{ status }}", 0, 'expected "}}" behind'),
        ("{{ status }} {{ status\n}}", 13, 'expected "}}" behind'),
        ("{{}}", 0, 'expected a name between "{{" and "}}": expected one of request.id, request.method'),
        ("{{ | html }}", 0, "expected a name between"),
        ("{{ statsu }}", 0, 'unknown name "statsu": did you mean "status"?'),
        ("{{ request.headers.x }}", 0, 'unknown name "request.headers.x": did you mean "request.header"?'),
        ("{{ zzz }}", 0, 'unknown name "zzz": expected one of request.id'),
        ("{{ Status }}", 0, 'unknown name "Status"'),
        ("{{ status.x }}", 0, 'unknown name "status.x"'),
        ("{{ request.header }}", 0, 'expected a name behind "request.header.", got ""'),
        ("{{ request.header. }}", 0, 'expected a name behind "request.header.", got ""'),
        ("{{ request.header.a b }}", 0, 'expected a name behind "request.header.", got "a b"'),
        ("{{ request.query.é }}", 0, 'expected a name behind "request.query.", got "é"'),
        ("{{status}}" * 1001, 10_000, "expected at most 1,000 variables"),
        ("{{ status | upper }}", 0, 'unknown filter "upper": expected one of raw, html, json, urlencode'),
        ("{{ status | urlencoded }}", 0, 'did you mean "urlencode"?'),
        ("{{ status | }}", 0, 'unknown filter ""'),
        ("{{ status | html | json }}", 0, 'unknown filter "html | json"'),
    ],
)
def test_reject_a_text(text: str, offset: int, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text, Escape.HTML)
    assert caught.value.offset == offset
    assert message in caught.value.message


def test_a_template_says_what_it_looks_at() -> None:
    template = parse("{{ request.header.B }}{{ status }}{{ request.query.q }}{{ request.header.a }}", Escape.RAW)
    assert template.headers == {"a", "b"}
    assert template.names == {Name.REQUEST_HEADER, Name.STATUS, Name.REQUEST_QUERY}


@pytest.mark.parametrize(
    ("content_type", "escape"),
    [
        ("text/html", Escape.HTML),
        ("TEXT/HTML;charset=utf-8", Escape.HTML),
        ("application/xhtml+xml", Escape.HTML),
        ("text/xml", Escape.HTML),
        ("image/svg+xml ; a=b", Escape.HTML),
        ("html", Escape.HTML),
        ("", Escape.HTML),
        ("application/json; charset=utf-8", Escape.JSON),
        ("application/problem+json", Escape.JSON),
        ("text/javascript", Escape.JSON),
        ("text/plain", Escape.RAW),
        ("text/css", Escape.RAW),
    ],
)
def test_default_escape(content_type: str, escape: Escape) -> None:
    assert default_escape(content_type) is escape


# ---- what comes out

LONG: Final = "x" * (LONGEST_VALUE - 2)

CASES: Final = [
    # what is filled in, how, and what becomes of it
    ("plain é € 𝄞", Escape.RAW, "plain é € 𝄞"),
    ("<a href=\"x\" b='y'>&amp;", Escape.RAW, "<a href=\"x\" b='y'>&amp;"),
    ("\r\n\t\0\x7f", Escape.RAW, "\r\n\t\0\x7f"),
    ("<a href=\"x\" b='y'>&amp;", Escape.HTML, "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;"),
    ("\r\n\t\0\x1b\x7f\ufffe\uffff\ufffd", Escape.HTML, "&#13;&#10;&#9;" + "\ufffd" * 6),
    ("é\x80\U0010ffff", Escape.HTML, "é\x80\U0010ffff"),
    ("<\"'\\>&/", Escape.JSON, r"\u003c\u0022\u0027\u005c\u003e\u0026/"),
    ("\r\n\t\0\x7f", Escape.JSON, r"\u000d\u000a\u0009\u0000\u007f"),
    ("\u2027\u2028\u2029\u202a é\uffff", Escape.JSON, "\u2027\\u2028\\u2029\u202a é\uffff"),
    ("aZ09-._~", Escape.URL, "aZ09-._~"),
    ("/?#[]@!$&'()*+,;=%: \"<>\\^`{|}", Escape.URL, urllib.parse.quote("/?#[]@!$&'()*+,;=%: \"<>\\^`{|}", safe="")),
    ("é\r\n\0\x7f\udcff", Escape.URL, "%C3%A9%0D%0A%00%7F%FF"),
    ("a\r\nb: c\t\0\x7fé", Escape.HEADER, "ab: cé"),
    ("", Escape.HTML, ""),
    # no UTF-8: one character for each beginning of a character
    ("a\udcffb", Escape.RAW, "a\ufffdb"),
    ("\udcff\udcff", Escape.HEADER, "\ufffd\ufffd"),
    ("\udce2\udc82<", Escape.HTML, "\ufffd&lt;"),
    ("\udcf0\udc9f\udc98", Escape.JSON, "\ufffd"),
    ("\udcc0\udc80", Escape.RAW, "\ufffd\ufffd"),
    ("\udced\udca0\udc80", Escape.RAW, "\ufffd\ufffd\ufffd"),
    ("\udcf4\udc90\udc80\udc80", Escape.RAW, "\ufffd" * 4),
    ('\udcc3"', Escape.JSON, r"�\u0022"),
    # too long
    (LONG + "ab", Escape.RAW, LONG + "ab"),
    (LONG + "abc", Escape.RAW, LONG + "ab"),
    (LONG + "é!", Escape.RAW, LONG + "é"),
    (LONG + "€!", Escape.RAW, LONG),
    (LONG + "a€!", Escape.URL, LONG + "a"),
    (LONG + "𝄞", Escape.HTML, LONG),
    (LONG + "\udc80" * 4, Escape.RAW, LONG[:-1]),
    (LONG[:-2] + "\udc80" * 8, Escape.RAW, LONG[:-2] + "\ufffd" * 4),
    ("<" * 60_000, Escape.HTML, "&lt;" * LONGEST_VALUE),
]


@pytest.mark.parametrize(("value", "escape", "wanted"), CASES, ids=range(len(CASES)))
def test_fill(filled: Fill, value: str, escape: Escape, wanted: str) -> None:
    template = Template((b"(", Variable(Name.REQUEST_HEADER, "x-a", escape), b")", Variable(Name.STATUS, "", escape)))
    assert filled(template, {(Name.REQUEST_HEADER, "x-a"): value}) == f"({wanted})".encode()


def test_each_value_goes_where_its_name_is(filled: Fill) -> None:
    text = "{{ request.header.a }}{{ request.query.a }}{{ request.header.b }}{{ status }}{{ client }}"
    values = {(8, "a"): "1", (7, "a"): "2", (8, "b"): "3", (9, ""): "4", (16, ""): "5"}
    assert filled(parse(text, Escape.RAW), values) == b"12345"


def test_a_large_template(filled: Fill) -> None:
    text = f"{'x' * 100_000}{{{{ client }}}}" * 10
    value = '"' * LONGEST_VALUE
    assert filled(parse(text, Escape.JSON), {(16, ""): value}) == (b"x" * 100_000 + rb"\u0022" * LONGEST_VALUE) * 10


_PIECES: Final = (
    *("<", ">", "&", '"', "'", "\\", "/", "=", "a", "%", "{{", "}}", "é", "€", "𝄞", "\0", "\x7f", "\ufffe"),
    *("</script>", "<script>", "<!--", "-->", "]]>", "<![CDATA[", "&lt;"),
    *(" ", "\r\n", "\n", "\r", "\t", "\x85", "\u2028", "\udc80", "\udcc3", "\udce2\udc82", "\udcf0", "\udcff"),
    *("x" * (LONGEST_VALUE - 3), "x" * 60_000),
)
HOSTILE: Final = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=12).map("".join),
    st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)
VARIABLES: Final = st.builds(
    lambda name, argument, escape: Variable(
        name, argument if name in (Name.REQUEST_HEADER, Name.REQUEST_QUERY) else "", escape
    ),
    st.sampled_from(Name),
    st.sampled_from(["a", "b"]),
    st.sampled_from(Escape),
)
TEMPLATES: Final = st.lists(st.binary(min_size=1, max_size=9) | VARIABLES, max_size=6).map(
    lambda pieces: Template(tuple(pieces))
)


@settings(max_examples=400)
@given(template=TEMPLATES, data=st.data())
def test_the_core_fills_in_as_python_does(loaded: ctypes.CDLL, template: Template, data: st.DataObject) -> None:
    variables = [piece for piece in template.pieces if isinstance(piece, Variable)]
    values: Values = {(variable.name, variable.argument): data.draw(HOSTILE) for variable in variables}
    assert CoreTemplate(loaded, encode(template)).fill(values) == in_python(template, values)


def one(loaded: ctypes.CDLL, escape: Escape, value: str) -> str:
    """A value alone, by the core and by Python."""
    template = Template((Variable(Name.CLIENT, "", escape),))
    made = in_python(template, {(16, ""): value})
    assert CoreTemplate(loaded, encode(template)).fill({(16, ""): value}) == made
    return made.decode()


@settings(max_examples=200)
@given(value=HOSTILE)
def test_a_value_is_no_markup_in_html_and_xml(loaded: ctypes.CDLL, value: str) -> None:
    made = one(loaded, Escape.HTML, value)
    page = f"<p class=\"{made}\" id='{made}'>{made}</p>"
    seen = Seen(page)
    assert seen.tags == ["p class id", "/p"]
    # As XML has it: control characters and noncharacters are none of its characters.
    wanted = re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]", "\ufffd", meant(value))
    element = ET.fromstring(page)
    assert (element.text or "", element.get("class"), element.get("id"), list(element)) == (wanted, wanted, wanted, [])


@settings(max_examples=200)
@given(value=HOSTILE)
def test_a_value_is_a_string_in_json_and_in_a_script(loaded: ctypes.CDLL, value: str) -> None:
    made = one(loaded, Escape.JSON, value)
    assert json.loads(f'{{"a":"{made}"}}') == {"a": meant(value)}
    page = Seen(f"<script>let a = '{made}'</script>")
    assert (page.tags, page.texts) == (["script", "/script"], f"let a = '{made}'")
    assert not re.search("[\0-\x1f\x7f\u2028\u2029<>&'\"]", made)


@settings(max_examples=200)
@given(value=HOSTILE)
def test_a_value_is_a_component_in_a_url(loaded: ctypes.CDLL, value: str) -> None:
    made = one(loaded, Escape.URL, value)
    assert re.fullmatch("(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*", made)
    assert urllib.parse.unquote_to_bytes(made).decode("utf-8", "replace") == meant(value)


@settings(max_examples=200)
@given(
    value=HOSTILE,
    wanted=st.sampled_from(["", "| raw", "| html", "| json", "| urlencode"]),
    default=st.sampled_from(Escape),
)
def test_a_value_never_ends_a_header(loaded: ctypes.CDLL, value: str, wanted: str, default: Escape) -> None:
    template = parse_header(f"a {{{{ client {wanted} }}}} b", default)
    in_core = CoreTemplate(loaded, encode(template))
    made = in_core.fill({(16, ""): value})
    assert made == in_python(template, {(16, ""): value})
    assert in_core.fits_header
    assert not re.search(rb"[\0-\x1f\x7f]", made)


@pytest.mark.parametrize(
    ("template", "fits"),
    [
        (Template(()), True),
        (Template((b"a\tb\xff", Variable(Name.STATUS, "", Escape.HTML))), True),
        (Template((b"a\r\nb",)), False),
        (Template((b"a\x7f",)), False),
        (Template((b"a", Variable(Name.STATUS, "", Escape.RAW))), False),
    ],
)
def test_the_core_knows_what_fits_a_header(loaded: ctypes.CDLL, template: Template, fits: bool) -> None:
    assert CoreTemplate(loaded, encode(template)).fits_header is fits
