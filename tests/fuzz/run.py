"""Fuzzes the module's core: programs as bytes, and what is asked of them.

    python tests/fuzz/run.py [SECONDS [FOLDER]]

Compiles `fuzz.c` under AddressSanitizer and UBSan, with libFuzzer where there is clang (Debian: `clang`,
`libclang-rt-14-dev`), else with a small mutator of its own, and runs it for SECONDS (default 60) on the corpus that is
made here. FOLDER keeps what libFuzzer finds (default: it is forgotten). Fails with what the sanitizers say.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import core  # noqa: E402 - found beside this folder
import handmade as h  # noqa: E402

from rejoinder.rules.template import LONGEST_VALUE, Escape, Name, Template, Variable, encode, parse_header  # noqa: E402

QUESTIONS: Final = (
    b"GET\na.test\n/x\n192.0.2.1:80\n503\ntext/html, */*;q=0.1\nde\n1\n\n",
    b"GET\na.test:80\n/a/b?q=1&r\nroute0\n503\n1\nvalue\n\n",
    b"POST\nb.a.test\n/\n\n404\n\n",
    b"HEAD\n[::1]:8080\n/mock\nroute1\n200\n\n",
    b'text/html;level=1;a="b"\nde-AT\napplication/json\n"<&\xff\r\0\n503\n\n',
)

PROGRAMS: Final = (
    h.program(h.rule("all", [h.reply([(500, 599)], 0, body=b"sorry")])),
    h.program(
        h.rule("mock", [h.reply(status=200, body=b"{}")], flags=h.UNCONDITIONAL, path=(h.PREFIX, "/mock")),
        h.rule("exact", [h.reply([(404, 404)], 404, headers=[("x-a", "1"), ("x-b", "")])], path=(h.EXACT, "/")),
        h.rule("final", [h.reply([(200, 599)], handler="a:b")], flags=h.FINAL, routes=["route0", "route1"]),
    ),
    h.program(
        h.rule("hosts", [h.reply([(503, 503), (404, 404)])], domains=["a.test", "*.a.test", "*"], routes=["route0"]),
        h.rule(
            "tests",
            [h.reply([(503, 503)], 502), h.reply(status=204)],
            path=(h.REGEX, "/a.*"),
            methods=["GET", "POST"],
            headers=[h.test("x-a", kind, "1" if kind != 5 else "") for kind in range(6)],
            query=[h.test("q", kind, "1" if kind != 5 else "") for kind in range(6)],
        ),
    ),
    h.program(
        h.rule(
            "asked",
            [
                h.reply([(404, 404)], passes=True),
                h.reply(
                    status=503,
                    keep=["x-*", "GET"],
                    contents=[
                        h.content(b"text", "text/html", "de", headers=[("x-a", "1")]),
                        h.content(
                            h.template(
                                "<p>",
                                *((name, name % 5, "x" if name in (7, 8) else "") for name in range(1, 18)),
                                h.identity(b"text"),
                            ),
                            "application/json",
                            templates=[("location", h.template("/", (6, h.URL, "")))],
                            is_template=True,
                        ),
                    ],
                ),
            ],
            source=h.LOCAL,
            clients=["192.0.2.0/24", "2001:db8::/33", "::/0"],
            response=[h.test("x-a", kind, "1" if kind != 5 else "") for kind in (0, 3, 5)],
            unless=h.scope(domains=["other.test", "*.b.test"], path=(h.PREFIX, "/b"), routes=["route0"]),
        ),
        h.body(b"text"),
        h.rule(
            "asks",
            [
                h.reply(
                    [(500, 599)],
                    body=b"own",
                    asks=h.remote("errors", [("x-code", h.template((9, h.HEADER, "")))], cache=9, stays=True),
                    grpc=b"\1" + h.template("a", (8, h.RAW, "x")),
                )
            ],
            path=(h.EXACT, "/p"),
        ),
        h.rule("trial", [h.reply()], flags=h.OBSERVES, clients=["127.0.0.0/8"], path=(h.EXACT, "/")),
        h.rule("only", [], flags=h.FINAL, unless=h.scope(clients=["10.0.0.0/8"], response=[h.test("a", 5, "")])),
        h.rule(
            "page",
            [h.reply(status=200, contents=[h.content(h.template((16, h.HTML, "")), is_template=True)])],
            flags=h.UNCONDITIONAL,
        ),
    ),
    h.part(h.body(b"one"), h.rule("part", [h.reply([(503, 503)], body=b"one")]))[1],
    h.program(h.rule("own", [h.reply()]), parts=[b"1" * 16, b"2" * 16]),
    b'{ "program": "%s" }\n' % base64.b64encode(h.program(h.rule("json", [h.reply()]))),
    encode(Template((b"<p>", *(Variable(Name.CLIENT, "", escape) for escape in Escape), b"</p>"))),
    encode(Template((b"'" * LONGEST_VALUE, Variable(Name.CLIENT, "", Escape.JSON)))),
    encode(parse_header("a {{ request.header.x-a }}{{ request.query.q | json }}{{ status | html }}")),
    b'text/html;level=1;a="\\b", */*;q=0.5, text/*; q=0.25;a=b;charset=utf-8, application/json;q=0',
    b"de-AT, de;q=0.9, *;q=0.1, de-at-x;q=1.000",
)


def corpus(folder: Path) -> list[Path]:
    """Inputs that are as they should be."""
    made = []
    for number, program in enumerate(PROGRAMS):
        for other, question in enumerate(QUESTIONS):
            made.append(folder / f"{number}-{other}")
            made[-1].write_bytes(question + program)
    return made


def compiled(folder: Path, compiler: str) -> Path:
    sources = [HERE / "fuzz.c", *core.of_core(*core.PROGRAM, "config.c")]
    options = ["-DLIBFUZZER", "-fsanitize=fuzzer"] if compiler == "clang" else []
    return core.compiled(folder / "fuzz", sources, *options, *core.SANITIZERS, compiler=compiler)


def fuzz(compiler: str, seconds: int, crashes: Path, seed: int = 1) -> Sequence[str]:
    """Raises:
    subprocess.CalledProcessError: a sanitizer or an assertion has something to say; it is on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="rejoinder-fuzz-") as scratch:
        folder = Path(scratch)
        inputs = folder / "corpus"
        inputs.mkdir()
        files = corpus(inputs)
        binary = compiled(folder, compiler)
        if compiler == "clang":
            options = ["-max_len=16384", "-timeout=60", f"-max_total_time={seconds}", f"-seed={seed}"]
            command = [str(binary), *options, f"-artifact_prefix={crashes}/", str(crashes), str(inputs)]
        else:
            command = [str(binary), str(seconds), str(seed), *map(str, files)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()


def main(seconds: int, kept: str = "") -> None:
    compiler = "clang" if shutil.which("clang") else "gcc"
    with tempfile.TemporaryDirectory(prefix="rejoinder-fuzz-") as scratch:
        try:
            said = fuzz(compiler, seconds, Path(kept or scratch))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{error.stdout}{error.stderr}")
    print(f"{compiler}: {said[-1]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, *sys.argv[2:])
