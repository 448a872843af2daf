"""The dynamic module without an Envoy: its C in a host of ours under sanitizers, and whether it can be used here."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import core
import handmade as h
import pytest
from module_host import (
    BUSY,
    JSON,
    PLAIN,
    _host,  # noqa: F401 - a fixture
    play,
    request,
    response,
    told,
)

from rejoinder.cli.placement import choose
from rejoinder.envoy import find
from rejoinder.envoy.module import library
from rejoinder.rules.http import NEVER_KEPT
from rejoinder.xds.translate import Placement

ERRORS = h.program(h.rule("errors", [BUSY, PLAIN]))
"""No rule about requests."""

RULES = h.program(
    h.rule("shield", [h.reply([(599, 599)])], flags=h.FINAL, domains=["shield.test"]),
    h.rule("mock it", [h.reply(status=200, headers=[JSON], body=b"hello")], flags=h.UNCONDITIONAL, path=(2, "/mock")),
    h.rule("path", [h.reply([(503, 503)], body=b"path")], path=(h.PREFIX, "/a"), methods=["GET", "HEAD"]),
    h.rule("host", [h.reply([(503, 503)], body=b"host")], domains=["*.a.test"]),
    h.rule("route", [h.reply([(503, 503)], body=b"route")], routes=["special"]),
    h.rule(
        "header", [h.reply([(503, 503)], body=b"header")], headers=[h.test("x-h", 1, "va"), h.test("host", 0, "X:80")]
    ),
    h.rule("both", [h.reply([(503, 503)], body=b"both")], domains=["one.test", "[::1]"], routes=["there"]),
    h.rule("nowhere", [h.reply([(503, 503)], body=b"nowhere")], domains=["one.test", "two.test"], routes=[""]),
    h.rule("deep", [h.reply([(503, 503)], body=b"deep")], path=(h.PREFIX, "/d/e/f")),
    h.rule("query", [h.reply([(503, 503)], body=b"query")], query=[h.test("q", 0, "1")]),
    h.rule("regex", [h.reply([(503, 503)], body=b"regex")], path=(h.REGEX, "/re")),
    h.rule("never", [h.reply([(503, 503)], body=b"never")], routes=[]),
    h.rule("handled", [h.reply([(504, 504)], handler="handlers:answers")]),
    h.rule("fails", [h.reply([(505, 505)], handler="handlers:fails")]),
    h.rule("passes", [h.reply([(506, 506)], handler="handlers:passes")]),
    h.rule("empty", [h.reply([(507, 507)], headers=[("x-empty", "")], body=b"body")]),
    h.rule("nothing", [h.reply([(508, 508)], 204), h.reply([(509, 509)], 304)]),
)

GET = ["q :method GET", "q :authority x.test", "q :path /"]


# What happens, and what the client gets. The letters are those of host.c.
CASES: dict[str, list[str]] = {
    # --- which rule answers ---
    "not-named": [*request(), ">", *response(200), "e", "= 200 -", "r kept"],
    "interim": [*request(), ">", *response(103), "n", "b x", "B y", "= 103 xy"],
    "no-status": [*request(), ">", "u x y", "e", "+ x y", "r kept"],
    "at-once": [*request(path="/mock/x?y"), ">", "= 200 hello", "y rejoinder:mock_it", "k mock it 1"],
    "at-once-head": [*request(path="/mock", method="HEAD"), ">", "= 200 -", "+ content-type application/json"],
    "shielded": [*request("SHIELD.test:80", "/mock"), ">", *response(503), "e", "= 503 -"],
    "path": [*request(path="/a/b?c"), ">", *response(503), "e", "= 503 path", "! content-type", "+ content-length 4"],
    "path-element": [*request(path="/ab"), ">", *response(503), "e", "= 503 -"],
    "method": [*request(path="/a", method="PUT"), ">", *response(503), "e", "= 503 -"],
    "host": [*request("B.A.test:8080"), ">", *response(503), "e", "= 503 host"],
    "host-too-short": [*request("a.test"), ">", *response(503), "e", "= 503 -"],
    "route": [*request(), "o special", ">", *response(503), "e", "= 503 route"],
    "route-other": [*request(), "o other", ">", *response(503), "e", "= 503 -"],
    "route-and-host": [*request("one.test"), "o there", ">", *response(503), "e", "= 503 both"],
    "route-and-address": [*request("[::1]:80"), "o there", ">", *response(503), "e", "= 503 both"],
    "address-without-port": [*request("[::1]"), "o there", ">", *response(503), "e", "= 503 both"],
    "host-and-another-route": [*request("one.test"), "o other", ">", *response(503), "e", "= 503 -"],
    "no-route-is-no-name": [*request("two.test"), ">", *response(503), "e", "= 503 -"],
    "deep-path": [*request(path="/d/e/f/g"), ">", *response(503), "e", "= 503 deep"],
    "not-so-deep-path": [*request(path="/d/e"), ">", *response(503), "e", "= 503 -"],
    "header": [*request("X:80", headers=["x-h no", "x-h value"]), ">", *response(503), "e", "= 503 header"],
    "header-many": [
        *request("X:80", headers=["x-h no"] * 100 + ["x-h value"]),
        ">",
        *response(503),
        "e",
        "= 503 header",
    ],
    "header-not-both": [*request("X:81", headers=["x-h value"]), ">", *response(503), "e", "= 503 -"],
    "query": [*request(path="/?a&q=1&q=2"), ">", *response(503), "e", "= 503 query"],
    "query-first-counts": [*request(path="/?q=2&q=1"), ">", *response(503), "e", "= 503 -"],
    "regex": [*request(path="/regex"), ">", *response(503), "e", "= 503 regex"],
    # --- what the route does ---
    "as-it-was-before-the-route": [
        *request("b.a.test", "/a"),
        ">",
        "w :path /other",
        "w :authority other",
        *response(503),
        "e",
        "= 503 path",
    ],
    "a-filter-in-front-answers": [*request(path="/a"), "l rate_limited", *response(503), "e", "= 503 path"],
    "envoy-answers": [*request(path="/a"), ">", "l route_not_found", *response(503), "e", "= 503 path"],
    "the-route-answers": [*request(path="/a"), ">", "l direct_response", *response(503), "e", "= 503 -"],
    # --- handlers ---
    "handler": [
        *request("H.test", "/p?q", "PUT"),
        "o r",
        ">",
        "w :path /other",
        *response(504),
        "e",
        "= 418 PUT H.test /p?q r 504",
        "k handled 1",
        "f handled 0",
    ],
    "handler-stalls": [
        *(*request("a", "/p"), "o r", ">", *response(504), "n", "s"),
        *("= 418 GET a /p r 504", "y rejoinder:handled"),
    ],
    "handler-fails": [*request(), ">", *response(505), "n", "B body", "= 505 body", "k fails 0", "f fails 1"],
    "handler-passes": [*request(), ">", *response(506), "e", "= 506 -", "k passes 0", "f passes 0"],
}

# The same with the rules that look at no request.
REPLACING: dict[str, list[str]] = {
    "ends-with-headers": [
        *request(),
        ">",
        *response(503, "x-up 1", "content-length 0"),
        "e",
        "= 502 busy",
        "+ content-length 4",
        "+ x-two 1",
        "+ x-two 2",
        "! x-up",
        "r kept",
        "k errors 1",
    ],
    "original-status": [*request(), ">", *response(504), "e", "= 504 plain"],
    "length": [*request(), ">", *response(503, "content-length 4"), "n", "b bo", "B dy", "= 502 busy", "r kept"],
    "end-alone": [*request(), ">", *response(503, "content-length 4"), "n", "b body", "B", "= 502 busy", "r kept"],
    "chunked": [*request(), ">", *response(503), "n", "B body", "= 502 busy", "r kept"],
    "trailers": [*request(), ">", *response(503), "n", "b body", "t grpc-status", "= 502 busy", "r kept"],
    "trailers-only": [*request(), ">", *response(503), "n", "t grpc-status", "= 502 busy", "r kept"],
    "head": [*request(method="HEAD"), ">", *response(503, "content-length 9"), "e", "= 502 -", "+ content-length 4"],
    "head-ends-late": [*request(method="HEAD"), ">", *response(503), "n", "B", "= 502 -", "+ content-length 4"],
    "many-headers": [*request(), ">", *response(503, *(f"x-{n} 1" for n in range(90))), "e", "= 502 busy", "! x-89"],
    "many-long-names": [
        *request(),
        ">",
        *response(503, *(f"x-{'n' * 400}-{n} 1" for n in range(20))),
        "e",
        "= 502 busy",
    ],
    "too-long": [*request(), ">", *response(503, "content-length 1048577"), "n", "= 502 busy", "r reset"],
    "much": [
        *request(),
        ">",
        *response(503),
        "n",
        *(["b " + "x" * 60_000] * 18),
        "= 502 busy",
        "r reset",
        "y rejoinder:errors",
    ],
    "endless": [*request(), ">", *response(503), "n", "b x", "s", "= 502 busy", "r reset", "y rejoinder:errors"],
    "stalls": [*request(), ">", *response(503, "content-length 9"), "n", "b x", "s", "= 502 busy", "r reset"],
    "breaks-off": [
        *request(),
        ">",
        *response(503, "content-length 9"),
        "n",
        "b x",
        "l upstream_reset",
        "= 502 busy",
        "+ content-length 4",
        "k errors 1",
    ],
    "breaks-off-head": [
        *request(method="HEAD"),
        ">",
        *response(503),
        "n",
        "l upstream_reset",
        "= 502 -",
        "+ content-length 4",
    ],
    "breaks-off-after-the-end": [*request(), ">", *response(503), "n", "B x", "l upstream_reset", "= 502 busy"],
    "goes-away": [*request(), ">", *response(503), "n", "b x", "."],
    "twice-in-one-process": [
        *request(),
        ">",
        *response(503),
        "n",
        "b x",
        ".",
        *request(),
        ">",
        *response(503),
        "n",
        "s",
        "= 502 busy",
    ],
    # From HTTP/2 on there must be an end, and so nothing is waited for that is not there.
    "http2-length": [
        *request(),
        "v HTTP/2",
        ">",
        *response(503, "content-length 4"),
        "n",
        "b body",
        "B",
        "= 502 busy",
        "r kept",
    ],
    "http2-part": [
        *request(),
        "v HTTP/2",
        ">",
        *response(503, "content-length 4"),
        "n",
        "b bo",
        "= 502 busy",
        "r reset",
    ],
    "http2-chunked": [*request(), "v HTTP/2", ">", *response(503), "n", "b bo", "B dy", "= 502 busy", "r kept"],
    "http2-endless": [*request(), "v HTTP/2", ">", *response(503), "n", "b bo", "s", "= 502 busy", "r reset"],
}

BODILESS: dict[str, list[str]] = {
    "empty-value": [*request(), ">", *response(507), "n", "= 507 body", "+ x-empty ", "r reset"],
    "no-content": [*request(), ">", *response(508), "n", "B x", "= 204 -", "! content-length", "r kept"],
    "not-modified": [*request(), ">", *response(509), "e", "= 304 -", "! content-length"],
}


@pytest.mark.parametrize("name", CASES)
def test_the_rule_that_answers(host: Path, name: str) -> None:
    play(host, [told(RULES), *CASES[name]])


@pytest.mark.parametrize("program", [ERRORS, RULES], ids=["nothing of the request", "the request"])
@pytest.mark.parametrize("name", [*REPLACING, *BODILESS])
def test_how_a_response_is_replaced(host: Path, name: str, program: bytes) -> None:
    if name in BODILESS and program is ERRORS:
        program = RULES
    if name in REPLACING and program is RULES:
        program = h.program(
            h.rule("other", [BUSY], domains=["other.test"], path=(h.PREFIX, "/a")), h.rule("errors", [BUSY, PLAIN])
        )
    play(host, [told(program), *{**REPLACING, **BODILESS}[name]])


def test_a_configuration_and_a_name_may_be_no_memory_at_all(host: Path) -> None:
    play(host, ["C name ", "x byte 0: expected", "C", f"c  {ERRORS.hex()}", f"c  {ERRORS.hex()}"])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            "envoy  version: 0a/1.37.0/Clean/RELEASE/BoringSSL",
            r"Envoy 1\.38 to 1\.41 .*this one is 1\.37\.0",
            id="old",
        ),
        pytest.param("hello", "expected an Envoy that tells its version", id="no-envoy"),
    ],
)
def test_the_module_is_not_for_every_envoy(tmp_path: Path, output: str, message: str) -> None:
    binary = tmp_path / "envoy"
    binary.write_text(f"#!/bin/sh\necho '{output}'\n")
    binary.chmod(0o755)
    with pytest.raises(library.ModuleUnavailableError, match=message):
        library.find(binary)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "not compiled when Rejoinder was installed", id="missing"),
        pytest.param(b"not a library", "cannot be loaded", id="broken"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_unavailable(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "librejoinder.so"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(library.ModuleUnavailableError, match=message):
        library.find(Path("/bin/true"), file)


@pytest.mark.parametrize(
    ("asked", "placement", "reason"),
    [
        pytest.param("ext_proc", Placement.EXT_PROC, "", id="ext_proc-is-asked-for"),
        pytest.param(None, Placement.EXT_PROC, "/bin/false: expected an Envoy", id="the-module-cannot-be-loaded"),
    ],
)
def test_without_the_module_ext_proc_is_chosen_and_says_why(
    asked: str | None, placement: Placement, reason: str
) -> None:
    chosen, why_not_module = choose(asked, Path("/bin/false"))
    assert chosen is placement
    assert why_not_module.startswith(reason)
    assert bool(why_not_module) == bool(reason)


def test_the_module_is_chosen_where_it_can_be_loaded() -> None:
    assert choose(None, find().path) == (Placement.MODULE, "")


def test_the_module_that_was_asked_for_and_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(library.ModuleUnavailableError, match="expected an Envoy"):
        choose("module", Path("/bin/false"))


def test_the_environment_keeps_what_was_there() -> None:
    variables = library.environment(Path("/m/librejoinder.so"), [Path("/a"), Path("/b")], {"PYTHONPATH": "/mine"})
    assert variables["ENVOY_DYNAMIC_MODULES_SEARCH_PATH"] == "/m"
    assert variables["PYTHONPATH"].startswith("/mine:")
    assert variables["REJOINDER_HANDLER_PATH"] == "/a:/b"


def test_the_headers_that_never_stay_are_the_same_in_c_and_in_python() -> None:
    listed = re.search(r"never\[\] = \{(.*?)\}", (core.SOURCES / "make.c").read_text(), re.DOTALL)
    assert listed is not None
    assert sorted(re.findall(r'"([^"]+)"', listed[1])) == sorted(NEVER_KEPT)


def test_abi_version_is_said_once_in_c_and_once_in_python() -> None:
    assert f'"{library.ABI_VERSION}"' in (Path(library.__file__).parent / "abi.h").read_text()


def test_threads_do_not_race(tmp_path: Path) -> None:
    sources = [core.HARNESS / "threads.c", *core.of_core(*core.PROGRAM, "config.c", "grace.c")]
    binary = core.compiled(tmp_path / "threads", sources, "-fsanitize=thread")
    identity, part = h.part(h.rule("part", [PLAIN]))
    files = []
    for name, data in (("program", ERRORS), ("part", part), ("whole", h.program(parts=[identity]))):
        files.append(tmp_path / name)
        files[-1].write_bytes(data)
    done = subprocess.run([binary, *files], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_fuzzing_finds_nothing(tmp_path: Path, compiler: str) -> None:
    """A few seconds of tests/fuzz/run.py: by libFuzzer where there is clang, and by its own mutator everywhere."""
    run = runpy.run_path(str(Path(__file__).parent / "fuzz" / "run.py"))
    run["fuzz"](compiler, 6, tmp_path)


def test_the_core_needs_nothing_but_libc() -> None:
    needed = subprocess.run(["ldd", library.LIBRARY], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].rsplit("/", 1)[-1].split(".")[0] for line in needed.splitlines()}
    assert names <= {"linux-vdso", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_the_core_is_built_without_what_the_other_library_needs(tmp_path: Path) -> None:
    # -I: of this project and of cffi nothing is found; -S: nor anything else that is installed.
    build = str(core.SOURCES / "build.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", build, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert [file.name for file in tmp_path.iterdir()] == ["librejoinder.so"]
    assert "without regular expressions and handlers" in done.stderr
