"""Puts mistakes into the product, one at a time, and runs the tests that must notice.

    python tests/mutate.py                 the mistakes of MUTATIONS
    python tests/mutate.py FILE TEST ...   every mistake of a simple kind in a file of the product: such as `<` for `<=`

What no test notices is printed, and the exit code is 1. It works on a copy of the project.
"""

from __future__ import annotations

import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]


SECONDS: Final = 120.0
"""Tests that take longer have noticed: some mistakes make endless loops."""


@dataclass(frozen=True, slots=True)
class Mutation:
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Names of files, without `test_` and `.py`: those that are quick, and must notice."""


_TAKEN_BACK: Final = ("xds_server_rejections", "rollback")

MUTATIONS: Final = (
    # Regular expressions whose beginning is a prefix: what stands before a quantifier need not be there.
    *(
        Mutation("xds/translate/routes.py", '("*", "?", "{")', new, ("doctests",))
        for new in ('("?", "{")', '("*", "{")', '("*", "?")')
    ),
    Mutation("xds/translate/routes.py", ' or "|" in regex', "", ("doctests",)),
    # Gateway API: longer hosts before shorter ones, and of two timeouts the shorter.
    Mutation(
        "rules/kubernetes/gateway_api.py",
        '-len(domain.removeprefix("*"))',
        'len(domain.removeprefix("*"))',
        ("cases_told",),
    ),
    Mutation("rules/kubernetes/http_route.py", "return min(filter(", "return max(filter(", ("cases_told",)),
    # What is rejected is given to nobody who comes: not while somebody may still take it, or has it.
    Mutation("xds/standing.py", " or self._away:", ":", _TAKEN_BACK),
    Mutation("xds/standing.py", "snapshot not in self.proven.values() and all(", "all(", _TAKEN_BACK),
    Mutation(
        "xds/standing.py",
        "and all(session.has_rejected",
        "and any(session.has_rejected",
        _TAKEN_BACK,
    ),
    # What our routes need is no business of handlers.
    Mutation("rules/handlers.py", " if header[0] != PATH_HEADER)", ")", ("handlers",)),
    # Headers that are not an answer's to set.
    *(
        Mutation("rules/http.py", f'"{name}"', '"x-none"', ("handlers", "load_mistakes"))
        for name in ("host", "proxy-connection", "te")
    ),
    Mutation("rules/handlers.py", ' or name.lower() == "content-length"', "", ("handlers",)),
    # Files read again after an edit: where their last rule ended, and the names in them, move with it.
    Mutation("rules/reload.py", "    if layout.tail and line != file.end:\n        return None\n", "", ("reload",)),
    Mutation("rules/reload.py", "_noted(known.mentions, source, down)", "_noted(known.mentions, source)", ("reload",)),
    Mutation("rules/reload.py", "    source.upstreams += _noted(file.upstreams, source)\n", "", ("reload",)),
    # Links that lead upwards: a folder may be watched by two names, each with files of its own.
    Mutation("rules/inotify.py", "wanted.setdefault(watch, []).extend(", "wanted[watch] = (", ("watch",)),
    # `up --listen`: the second address is for the second kind of listener, and a kind without one stays.
    Mutation("cli/up.py", "models[min(at, len(models) - 1)]", "models[0]", ("listen", "cases_told")),
    Mutation("cli/up.py", "numbered((*moved, *stay))", "numbered(moved)", ("listen", "cases_told")),
    # Names that are not there are said so once.
    Mutation("xds/stream.py", " - self.absent)", ")", ("delta_session",)),
    Mutation("xds/stream.py", "names - wanted.keys()", "names", ("delta_session",)),
    Mutation("xds/stream.py", " - self.sent.keys() -", " -", ("delta_session",)),
)


def main(words: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        shutil.copytree(PROJECT, checkout, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache"))
        if words:
            file, *tests = words
            survivors = [where for where, text in simple(PROJECT / file) if not noticed(checkout, file, text, tests)]
        else:
            survivors = [
                f"{made.file}: {made.old!r} -> {made.new!r}" for made in MUTATIONS if not _noticed(checkout, made)
            ]
    print(*survivors, sep="\n")
    print(f"{len(survivors)} not noticed")
    return 1 if survivors else 0


def _noticed(checkout: Path, mutation: Mutation) -> bool:
    text = (PROJECT / mutation.file).read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        sys.exit(f"{mutation.file}: expected {mutation.old!r} once: mend tests/mutate.py")
    tests = [f"tests/test_{name}.py" for name in mutation.tests]
    return noticed(checkout, mutation.file, text.replace(mutation.old, mutation.new), tests)


def noticed(checkout: Path, file: str, text: str, tests: list[str]) -> bool:
    """Whether tests fail with another text of a file."""
    before = (PROJECT / file).read_text(encoding="utf-8")
    (checkout / file).write_text(text, encoding="utf-8")
    # `.mypy/rejoinder` is a link to the copy, and comes before what is installed.
    environ = {**os.environ, "PYTHONPATH": str(checkout / ".mypy"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *tests]
    try:
        code = subprocess.run(
            command, cwd=checkout, env=environ, capture_output=True, timeout=SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        (checkout / file).write_text(before, encoding="utf-8")
    print("." if code else "S", end="", flush=True)
    return code != 0


# --- mistakes of simple kinds ---

_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_NAMES: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}


def simple(file: Path) -> Iterator[tuple[str, str]]:
    """Where each mistake is and what, and the file's text with it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for at, node in enumerate(ast.walk(tree)):
        change = _change(node)
        if change is not None:
            changed = copy.deepcopy(tree)
            there = next(node for number, node in enumerate(ast.walk(changed)) if number == at)
            change(there)
            yield (
                f"{file.name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)} -> {ast.unparse(there)}",
                ast.unparse(changed),
            )


def _change(node: ast.AST) -> Callable[[ast.AST], None] | None:
    match node:
        case ast.Compare(ops=[comparison]) if type(comparison) in _COMPARISONS:
            return lambda it: setattr(it, "ops", [_COMPARISONS[type(comparison)]()])
        case ast.BoolOp(op=operator):
            return lambda it: setattr(it, "op", ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.Call(func=ast.Name(id=name)) if name in _NAMES:
            return lambda it: setattr(it, "func", ast.Name(_NAMES[name]))
        case ast.Constant(value=bool() as value):
            return lambda it: setattr(it, "value", not value)
        case ast.Constant(value=int() as value):
            return lambda it: setattr(it, "value", value + 1)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
