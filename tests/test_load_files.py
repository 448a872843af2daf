"""Which files are read, what they name, and whatever else comes."""

# ruff: noqa: E501  (the tables of mistakes have one case a line, its message in full)
from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import (
    _in_an_empty_folder,  # noqa: F401 - a fixture
    errors_of,
    load_text,
    ruleset_of,
    write,
)

from rejoinder.rules.files import MAX_FILE_SIZE, Files, UnreadableError
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import (
    DEFAULT_LISTENER,
    Endpoint,
    Listener,
    Upstream,
)


def answer_at(path: str) -> str:
    return f"rules: [{{match: {{path: {path}}}, body: x}}]\n"


def test_a_folder_is_read_in_the_order_of_names_without_dot_files() -> None:
    names = ["r/2.yml", "r/10.yaml", "r/3.json", "r/.hidden.yaml", "r/notes.txt", "r/sub/4.yaml", "r/..data/5.yaml"]
    write({name: answer_at(f"/{number}") for number, name in enumerate(names)})
    Path("r/folder.yaml").mkdir()
    ruleset = load([Path("r")]).ruleset
    assert ruleset is not None
    assert [rule.name for rule in ruleset.rules] == ["10/rule-1", "2/rule-1", "3/rule-1"]


def test_a_file_of_a_folder_that_cannot_be_read_is_one_line() -> None:
    write({"r/a.yaml": answer_at("/a")})
    Path("r/loop.yaml").symlink_to("loop.yaml")
    assert errors_of(load([Path("r")])) == ["r/loop.yaml: cannot be read: Too many levels of symbolic links"]


def test_files_merge_in_the_order_of_sources() -> None:
    write({"b.yaml": answer_at("/b"), "r/a.yaml": answer_at("/a"), "r/b.yaml": answer_at("/c")})
    ruleset = load([Path("b.yaml"), Path("r"), Path("b.yaml")]).ruleset
    assert ruleset is not None
    assert [(rule.name, str(rule.position)) for rule in ruleset.rules] == [
        ("b/rule-1", "b.yaml:1"),
        ("a/rule-1", "r/a.yaml:1"),
        ("b-2/rule-1", "r/b.yaml:1"),
    ]


def test_every_document_of_a_file_is_read() -> None:
    ruleset = ruleset_of(f"---\n{answer_at('/a')}---\n---\n{answer_at('/b')}")
    assert [(rule.name, rule.position.line) for rule in ruleset.rules] == [("rule-1", 2), ("rule-2", 5)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "SOURCE: expected at least one rule file or folder"),
        (["nowhere.yaml"], "nowhere.yaml: does not exist"),
        (["empty"], "empty: the folder has no rule files: expected *.yaml, *.yml, *.json"),
        (["pipe"], "pipe: is not a regular file"),
        (["loop"], "loop: cannot be read: Too many levels of symbolic links"),
        (["large.yaml"], f"large.yaml: is 50,000,000 bytes large; the limit is {MAX_FILE_SIZE:,}"),
    ],
    ids=["none", "missing", "empty folder", "pipe", "loop of links", "50 MB"],
)
def test_a_source_that_cannot_be_read_is_one_line(sources: list[str], message: str) -> None:
    Path("empty").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    with open("large.yaml", "wb") as file:
        file.truncate(50_000_000)
    assert errors_of(load([Path(source) for source in sources])) == [message]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_line() -> None:
    Path("rules.yaml").write_text("body: x")
    Path("rules.yaml").chmod(stat.S_IWUSR)
    assert errors_of(load([Path("rules.yaml")])) == ["rules.yaml: cannot be read: Permission denied"]


def test_names_are_unique_over_all_files() -> None:
    text = "upstreams: {u: http://u}\nroutes: [{name: a, path: /a, upstream: u}]\nrules: [{name: r, match: {path: /a}, body: x}]\n"
    write({"1.yaml": text, "2.yaml": text})
    assert errors_of(load([Path("1.yaml"), Path("2.yaml")])) == [
        '2.yaml:1: upstream "u": the name is taken already, at 1.yaml:1',
        '2.yaml:2: route "a": the name is taken already, at 1.yaml:2',
        '2.yaml:3: rule "r": the name is taken already, at 1.yaml:3',
    ]


def test_a_rule_may_name_a_route_of_another_file() -> None:
    write({"1.yaml": "rules: [{match: {routes: a}, body: x}]", "2.yaml": "routes: [{name: a, respond: {body: x}}]"})
    assert load([Path("1.yaml"), Path("2.yaml")]).ruleset is not None


@pytest.mark.parametrize(
    ("other", "errors"),
    [
        ("0.0.0.0:1", []),
        ("0.0.0.0:2", ["2.yaml:1: listen: conflicts with 1.yaml:1"]),
    ],
    ids=["equal", "different"],
)
def test_listen_in_two_files_must_be_equal(other: str, errors: list[str]) -> None:
    write({"1.yaml": "listen: 0.0.0.0:1", "2.yaml": f"listen: {other}"})
    assert errors_of(load([Path("1.yaml"), Path("2.yaml")])) == errors


def test_without_listen_there_is_the_default() -> None:
    assert ruleset_of("body: x").listeners == (DEFAULT_LISTENER,)


def test_everything_that_was_read_is_to_be_watched(tmp_path: Path) -> None:
    write({"r/1.yaml": "rules: [{match: {path: /}, body_file: ../pages/a}, {body_file: missing}]", "pages/a": "a"})
    names = ["r", "r/1.yaml", "pages/a", "r/missing", "nowhere"]
    assert load([Path("r"), Path("nowhere")]).files == {tmp_path / name for name in names}


@pytest.mark.parametrize(
    ("name", "url", "expected"),
    [
        ("u", "https://other:1", Upstream("u", (Endpoint("other", 1),), tls=True)),
        ("shop/cart:80", "http://127.0.0.1:1", Upstream("shop/cart:80", (Endpoint("127.0.0.1", 1),))),
        ("new", "builtin:echo", Upstream("new", (), echo=True)),
    ],
    ids=["override", "Kubernetes Service", "add"],
)
def test_upstreams_can_be_given_from_outside(name: str, url: str, expected: Upstream) -> None:
    Path("rules.yaml").write_text("upstreams: {u: http://u}\nroutes: [{name: a, upstream: u}]\n")
    ruleset = load([Path("rules.yaml")], upstreams={name: url}).ruleset
    assert ruleset is not None
    assert {upstream.name: upstream for upstream in ruleset.upstreams}[name] == expected


def test_a_wrong_url_from_outside_is_one_line() -> None:
    Path("rules.yaml").write_text("body: x")
    [error] = errors_of(load([Path("rules.yaml")], upstreams={"u": "nonsense"}))
    assert error.startswith('--upstream: upstream "u": expected a URL such as')


# --- certificates ---


@pytest.fixture
def certificate() -> None:
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -keyout a.key -out a.crt && "
        "openssl ecparam -name prime256v1 -genkey -noout -out other.key && "
        "openssl ec -in a.key -aes128 -passout pass:secret -out locked.key && echo nonsense > nonsense && : > empty",
        shell=True,
        check=True,
        capture_output=True,
    )


def listen_with(certificate: str, key: str) -> Loaded:
    return load_text(f"listen: {{address: '[::]:443', certificate: {certificate}, key: {key}}}\nbody: x\n")


@pytest.mark.usefixtures("certificate")
def test_a_certificate_and_its_key_are_read() -> None:
    ruleset = listen_with("a.crt", "a.key").ruleset
    assert ruleset is not None
    assert ruleset.listeners == (Listener("::", 443, Path("a.crt").read_bytes(), Path("a.key").read_bytes()),)


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("a.crt", "other.key"), "listen.certificate: not a certificate and its key in PEM: key values mismatch"),
        (("nonsense", "a.key"), "listen.certificate: not a certificate and its key in PEM: no such pem data"),
        (("a.crt", "nonsense"), "listen.certificate: not a certificate and its key in PEM: no such pem data"),
        (("a.crt", "locked.key"), "listen.certificate: not a certificate and its key in PEM: no such pem data"),
        (("empty", "a.key"), "listen.certificate: the file is empty"),
        (("a.crt", "missing"), 'listen.key: "missing" does not exist'),
    ],
    ids=["not a pair", "no certificate", "no key", "encrypted key", "empty", "missing"],
)
def test_what_is_no_pair_is_one_line(pair: tuple[str, str], message: str) -> None:
    assert errors_of(listen_with(*pair)) == [f"rules.yaml:1: {message}"]


@pytest.mark.usefixtures("certificate")
def test_certificates_are_checked_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    files = Files()
    files.check_pem(Path("a.crt").read_bytes(), Path("a.key").read_bytes())
    with pytest.raises(UnreadableError, match="key values mismatch"):
        files.check_pem(Path("a.crt").read_bytes(), Path("other.key").read_bytes())


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize("left", range(5))
def test_without_file_descriptors_a_pair_that_was_read_is_taken_for_good(left: int) -> None:
    pair = Path("a.crt").read_bytes(), Path("a.key").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, before[1]))
    try:
        Files().check_pem(*pair)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- whatever comes ---

NAMES: Final = (
    "listen upstreams routes rules _rules_ _match_route_ _match_domain_ name match domains path prefix regex "
    "methods headers query respond redirect upstream rate_limit requests per status_code body body_file "
    "enable_on_status final scheme host port address certificate key present contains apiVersion kind <<"
)
WORDS: Final = (
    "/ /a /a/../b * *.a.b a original 5xx 4x GET a=b novalue http://a https://b:1 builtin:echo 1s 0.0.0.0:1 ( \r\n"
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 700),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(WORDS.split(" ")),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=25,
)
DOCUMENTS = st.one_of(
    st.dictionaries(st.sampled_from(NAMES.split()), VALUES, max_size=5).map(json.dumps),
    VALUES.map(json.dumps),
    st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,?\n\t 01<=~\\ux"), max_size=60),
)


def assert_lines(loaded: Loaded) -> None:
    assert (loaded.ruleset is None) == bool(errors_of(loaded))
    for problem in loaded.problems:
        assert len(str(problem).splitlines()) == 1


@settings(max_examples=300)
@given(st.one_of(DOCUMENTS.map(str.encode), st.binary(max_size=60)))
def test_whatever_a_file_holds_is_loaded_or_refused_in_lines(data: bytes) -> None:
    assert_lines(load_text(data))


WRONG_IN_AN_ANSWER: Final = [
    ("pass: false", "pass: expected true, or nothing at all"),
    ("body: x, unless: {}", "unless: fits every request, so the rule would never decide: say what it is not about"),
    ("observe: true, pass: true", "observe: has no effect: a rule that passes has nothing to observe"),
    ("page: builtin", "page: builtin is about errors: say enable_on_status, or a status_code from 400 on, not 200"),
    ("page: true", "page: expected builtin, or a mapping such as {upstream: errors}, got the boolean true"),
    ("page: {}, enable_on_status: 500", "page: upstream is missing"),
    ("page: {upstream: none}, enable_on_status: 500", 'page.upstream: unknown upstream "none", expected one of up, echo, h2'),
    ("page: {upstream: h2}, enable_on_status: 500", 'page.upstream: "h2" is asked over HTTP/1.1, and without a client certificate: an upstream of a page has no http2 and no tls'),
    ("page: {upstream: echo}, enable_on_status: 500", 'page.upstream: "echo" is builtin:echo, which has no pages'),
    ("page: {upstream: up, timeout: 1ms}, enable_on_status: 500", 'page.timeout: expected a duration of at least 10ms, got "1ms"'),
    ("page: {upstream: up, timeout: 61s}, enable_on_status: 500", 'page.timeout: expected a duration of at most 1m, got "61s"'),
    ("page: {upstream: up, headers: {x: '{{ statuss }}'}}, enable_on_status: 500", 'page.headers: x: unknown name "statuss": did you mean "status"?'),
    ("page: {upstream: up}, status_code: 204", "page: a response with status 204 cannot have a body"),
    ("page: builtin, enable_on_status: 500, body_file: x.json", "page: give only one of body, body_file, variants and page: builtin; body_file is given too"),
    ("page: builtin, enable_on_status: 500, body: x", "page: give only one of body, body_file, variants and page: builtin; body is given too"),
    ("grpc: {message: x}, body: x", "grpc: status is missing"),
    ("grpc: {status: OK}, body: x", "grpc.status: expected a gRPC status that is an error, by name or number: CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED, got \"OK\""),
    ("grpc: {status: 5, message: '{{ x'}, template: true, body: x", 'grpc.message: expected "}}" behind "{{", in the same line'),
    ("variants: [{body: x}]", "variants[0]: expected at least one of content_type, language, body_file"),
    ("variants: [{language: d_e, body: x}]", 'variants[0].language: expected a language tag such as de or pt-BR, got "d_e"'),
    ("variants: []", "variants: expected at least one variant, got an empty list"),
    ('keep_headers: "a*b", enable_on_status: 500, body: x', 'keep_headers: expected a header name, with a * at its end at most, got "a*b"'),
    ("keep_headers: content-length, enable_on_status: 500, body: x", "keep_headers: content-length is about the body that is replaced, or how it was sent: it cannot stay"),
    ("keep_headers: etag, body: x", "keep_headers: needs enable_on_status: without it no upstream is asked"),
    ("source: local, body: x", "source: source needs enable_on_status: without it no upstream is asked"),
    ("match: {response_headers: {a: b}}, body: x", "match: response_headers needs enable_on_status: without it no upstream is asked"),
    ("match: {clients: 10.0.0.1/8}, body: x", 'match.clients: "10.0.0.1/8" has bits behind its prefix: write "10.0.0.0/8"'),
    ("clients: 10.0.0.1, body: x", 'unknown field "clients", it belongs into match or unless'),
    ('template: true, body: "{{ statuss }}"', 'body: unknown name "statuss": did you mean "status"?'),
    ('template: true, headers: ["x={{ status"], body: x', 'headers: x: expected "}}" behind "{{", in the same line'),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "message"), WRONG_IN_AN_ANSWER)
def test_a_mistake_about_what_an_answer_can_be_is_one_line(tmp_path: Path, rule: str, message: str) -> None:
    file = tmp_path / "rules.yaml"
    (tmp_path / "x.json").write_text("{}")
    upstreams = "{up: 'http://a.test', echo: 'builtin:echo', h2: {urls: ['http://b.test'], http2: true}}"
    file.write_text(f"upstreams: {upstreams}\nroutes: [{{name: up, upstream: up}}]\nrules:\n- {{name: r, {rule}}}\n")
    assert [problem.message for problem in load([file]).problems] == [f'rule "r": {message}']
