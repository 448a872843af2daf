"""Rule files in, one `Ruleset` out, or all problems of the files.

In: paths of files and folders. Out: a `Loaded`. Nothing is raised, whatever the files hold. `load` is the way in:

    files -> document.parse -> a reader for the kind of document -> `Part`s -> merged, names checked -> `Ruleset`

A new kind of document is a reader in a file of its own, and `_part` picks it.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from rejoinder.rules import document, higress, remote
from rejoinder.rules.document import Scalar, ScalarKind, quoted
from rejoinder.rules.fields import MAX_ITEMS, Place, Source
from rejoinder.rules.files import SUFFIXES, Files, Fingerprint, UnreadableError
from rejoinder.rules.manifests import Manifests, is_object
from rejoinder.rules.mentions import check_mentions, with_hosts, with_route_groups
from rejoinder.rules.model import DEFAULT_LISTENER, RULE_FILES, Listener, Position, Route, Rule, Ruleset, Upstream
from rejoinder.rules.page import Branding, rule_with_pages
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.rule_file import addresses, content
from rejoinder.rules.rule_file.answers import PLUG_IN_FIELDS, SCOPE_TOGETHER
from rejoinder.rules.rule_file.routes import ROUTES
from rejoinder.rules.rule_file.routes import routes as read_routes
from rejoinder.rules.rule_file.rules import RULES
from rejoinder.rules.rule_file.rules import rules as read_rules
from rejoinder.rules.shadow import shadowed
from rejoinder.rules.shape import Shape, Table

if TYPE_CHECKING:
    from rejoinder.rules.kubernetes import Object, Status
    from rejoinder.rules.reload import Memory


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load found."""

    ruleset: Ruleset | None
    """None if any problem is an error; an error that affects only its own file does not count (see `memory`)."""
    problems: tuple[Problem, ...]
    """Errors and warnings, by file and line."""
    statuses: tuple[Status, ...]
    """The state of each Kubernetes object. Mistakes in an object are in its status, not among the problems."""
    fingerprints: Mapping[Path, Fingerprint]
    """Of each of `files`, when it was read; `watch.changes` compares them."""

    @property
    def complaints(self) -> tuple[Problem, ...]:
        """The problems, and the mistakes in Kubernetes objects, which affect only their object."""
        return _sorted((*self.problems, *(problem for status in self.statuses for problem in status.problems())))

    @property
    def files(self) -> frozenset[Path]:
        """Everything that was read or is missing: rule files, folders, body files, certificates. Absolute paths."""
        return frozenset(self.fingerprints)


@dataclass(frozen=True, slots=True)
class Part:
    """What one document says."""

    listeners: tuple[Listener, ...] = ()
    """Empty if the document has none."""
    upstreams: tuple[Upstream, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    branding: tuple[Position, Branding] | None = None
    """The branding of the built-in page, and its position."""
    objects: tuple[Object, ...] = ()
    """Kubernetes objects; they are read together with those of other files."""


def load(
    sources: Sequence[Path],
    *,
    upstreams: Mapping[str, str] = {},
    memory: Memory | None = None,
    look_for_shadowed: bool = True,
    files: Files | None = None,
) -> Loaded:
    """Read rule files and merge them in their order.

    Args:
        sources: files, and folders whose `*.yaml`, `*.yml` and `*.json` are read in the order of their names (not those
            of folders within, and none that starts with a dot). A file that is named twice is read once.
        upstreams: URLs by upstream name, which replace or add to those in the files (`--upstream NAME=URL`).
        memory: of the last load. Unchanged rules are not read again, and a manifest that cannot be used keeps its
            earlier content, or is left out. None: there is one load only, and any error makes it fail.
        look_for_shadowed: warn of rules that can never decide. After a small edit of a large file this takes longer
            than everything else, so callers may do it later (`shadow.shadowed`).
        files: reads the files; None: a new `Files`.

    Returns:
        The ruleset, if there is one, and every problem. Show these, and if there is no ruleset, keep the one before.
    """
    files = Files() if files is None else files
    problems: list[Problem] = []
    named = _rule_files(sources, files, problems)
    prefixes = _prefixes(named)
    read = [Source(str(path), files, prefix, operated=True) for path, prefix in zip(named, prefixes, strict=True)]
    said: list[list[Part]] = []
    number = 0
    for source in read:
        said.append(_parts(source, memory))
        number += sum(len(part.rules) + len(part.routes) + len(part.objects) for part in said[-1])
        if number > MAX_ITEMS:  # no time is spent on files that cannot be used
            problems.append(Problem(Position(source.file, 0), _TOO_MANY))
            return Loaded(None, _sorted(problems), (), files.fingerprints())
    left_out = _keep(sources, read, said, memory) if memory else []
    parts = [part for file_parts in said for part in file_parts]
    command_line = Source("--upstream", files)
    given = {
        name: Place(Scalar(0, url, ScalarKind.STRING, 1), command_line).attempt(
            functools.partial(addresses.upstream, name), Upstream(name, ())
        )
        for name, url in upstreams.items()
    }
    objects = [manifest for part in parts for manifest in part.objects]
    addresses_of = {upstream.name: upstream for part in parts for upstream in part.upstreams} | given
    routes = [route for part in parts for route in part.routes]
    manifests = _manifests(objects, addresses_of, routes, memory)
    problems += manifests.notes
    if objects and all(part == Part(objects=part.objects) for part in parts):
        skipped = [note for note in manifests.notes if note.severity is Severity.NOTE]
        if len(skipped) == len(objects):
            text = "nothing was loaded: no object here is of a kind that is read"
            problems.append(Problem(objects[0].position._replace(line=0), text))
    ruleset = _merged(parts, manifests, given, problems, problems if memory is None else left_out)
    if len(ruleset.rules) + len(ruleset.routes) > MAX_ITEMS:
        problems.append(Problem(Position(str(sources[0]), 0), _TOO_MANY))
    check_mentions(read, ruleset, manifests.route_groups, objects_go=memory is not None)
    problems += [problem for source in (*read, command_line) for problem in source.problems]
    usable = not any(problem.severity is Severity.ERROR for problem in problems)
    if usable and look_for_shadowed:
        problems += shadowed(ruleset)
    return Loaded(
        ruleset if usable else None,
        _sorted((*problems, *left_out)),
        manifests.statuses,
        files.fingerprints(),
    )


_TOO_MANY: Final = f"expected at most {MAX_ITEMS:,} rules, routes and objects in all files together"


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.position.file, problem.position.line)))


# --- which files ---


def _rule_files(sources: Sequence[Path], files: Files, problems: list[Problem]) -> list[Path]:
    if not sources:
        problems.append(Problem(Position("SOURCE", 0), "expected at least one rule file or folder"))
    paths: dict[Path, Path] = {}
    for source in sources:
        listing = files.listing(source)
        if listing == []:
            wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            problems.append(Problem(Position(str(source), 0), f"the folder has no rule files: expected {wanted}"))
        for path in (source,) if listing is None else listing:
            paths.setdefault(files.place(path), path)
    return list(paths.values())


# The names of unnamed rules start with this, so that they are unique over all files: nothing if there is one file, else
# the file's name, with a number if two folders have a file of the same name.
def _prefixes(paths: Sequence[Path]) -> list[str]:
    if len(paths) == 1:
        return [""]
    prefixes: dict[str, None] = {}
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
        names = itertools.chain((f"{stem}/",), (f"{stem}-{number}/" for number in itertools.count(2)))
        prefixes[next(name for name in names if name not in prefixes)] = None
    return list(prefixes)


# --- one file ---


def _parts(source: Source, memory: Memory | None) -> list[Part]:
    try:
        data = source.files.read(Path(source.file))
    except UnreadableError as reason:
        source.problems.append(Problem(Position(source.file, 0), str(reason)))
        return []
    return memory.read(source, data, _read) if memory else _read(source, data)


def _read(source: Source, data: bytes) -> list[Part]:
    documents, problems = document.parse(data, source.file)
    source.problems += problems
    return [_part(Place(node, source)) for node in documents]


def _part(place: Place) -> Part:
    return place.attempt(_read_objects if is_object(place) else _read_rule_file, Part())


_SECTIONS: Final[Table] = {
    "listen": (addresses.LISTEN, "Where Envoy accepts requests: one or several (default 0.0.0.0:10000)."),
    "upstreams": (addresses.UPSTREAMS, "Named backends: a URL, a list of URLs, or a mapping that says more."),
    "routes": (ROUTES, "Which requests go where, tried in order."),
    "rules": (RULES, "Custom responses, tried in order."),
    "_rules_": higress.SCOPED,
    "branding": (content.BRANDING, "Whose the built-in page is."),
}
RULE_FILE: Final = Shape(
    "rule-file", {**_SECTIONS, **PLUG_IN_FIELDS}, sections=tuple(_SECTIONS), **SCOPE_TOGETHER
)  # fmt: skip


def _read_rule_file(place: Place) -> Part:
    # An empty section is allowed: a user may have commented out the last rule. An empty field of an answer is not: with
    # nothing behind enable_on_status, the answer would be for every request.
    fields = place.fields(RULE_FILE)
    beside = any(section in fields for section in ("listen", "upstreams", "routes"))
    return Part(
        listeners=fields.get("listen", addresses.listeners, ()),
        upstreams=fields.get("upstreams", addresses.upstreams, ()),
        routes=fields.get("routes", read_routes, ()),
        branding=fields.get("branding", content.branding, None),
        rules=(
            *higress.scoped_rules(fields),
            *(
                (higress.top_level_rule(fields, beside_sections=beside),)
                if higress.has_top_level_rule(fields)
                else fields.get("rules", read_rules, ())
            ),
        ),
    )


def _read_objects(place: Place) -> Part:
    from rejoinder.rules.kubernetes import read_objects  # noqa: PLC0415 - see `_manifests`

    return Part(objects=read_objects(place))


# --- a file that cannot be used ---

_SECTION: Final = re.compile(rb"^[\"']?(?:" + "|".join(_SECTIONS).encode() + rb")[\"']?[ ]*:", re.MULTILINE)


def _keep(sources: Sequence[Path], read: Sequence[Source], said: list[list[Part]], memory: Memory) -> list[Problem]:
    """Replace the content of manifests that cannot be used by their earlier content, or by nothing.

    Rule files are not replaced: they are one unit, whose parts refer to each other.

    Returns:
        The problems of these manifests.
    """
    problems: list[Problem] = []
    bad = [any(problem.severity is Severity.ERROR for problem in source.problems) for source in read]
    only_objects = [bool(parts) and all(part == Part(objects=part.objects) for part in parts) for parts in said]
    manifests = [not wrong and only for wrong, only in zip(bad, only_objects, strict=True)]
    for at, source in enumerate(read):
        before = memory.manifests.get(source.file)
        if not bad[at] or (before is None and not (any(manifests) and _may_be_manifest(source, sources))):
            continue
        said[at] = before or []
        text = "the earlier content of this file stays in force" if before else "this file is left out"
        problems += (*source.problems, Problem(Position(source.file, 0), text))
        for noted in (source.problems, source.routes, source.upstreams):
            noted.clear()
    good = {source.file: parts for source, parts, good in zip(read, said, manifests, strict=True) if good}
    wrong = {source.file for source, wrong in zip(read, bad, strict=True) if wrong}
    memory.manifests = {file: parts for file, parts in memory.manifests.items() if file in wrong} | good
    return problems


def _may_be_manifest(source: Source, sources: Sequence[Path]) -> bool:
    """Whether a file without an earlier usable content may be a manifest: it has no section of a rule file, or it is in
    a folder and cannot be opened."""
    path = Path(source.file)
    try:
        return not _SECTION.search(source.files.read(path))
    except UnreadableError:
        return path not in sources


# --- all files ---


def _manifests(
    objects: Sequence[Object], addresses: Mapping[str, Upstream], routes: Sequence[Route], memory: Memory | None
) -> Manifests:
    last = memory.objects if memory else None
    if not objects and not last:  # the readers take as long to import as all the rest
        return Manifests()
    from rejoinder.rules.kubernetes import read_manifests  # noqa: PLC0415

    return read_manifests(objects, addresses, routes, last)


def _merged(
    parts: Sequence[Part],
    manifests: Manifests,
    overrides: Mapping[str, Upstream],
    problems: list[Problem],
    left_out: list[Problem],
) -> Ruleset:
    given = [part.listeners for part in parts if part.listeners]
    for other in given[1:]:
        if other != given[0]:
            problems.append(Problem(other[0].position, f"listen: conflicts with {given[0][0].position}"))
    brandings = [part.branding for part in parts if part.branding]
    for position, another in brandings[1:]:
        if another != brandings[0][1]:
            problems.append(Problem(position, f"branding: conflicts with {brandings[0][0]}"))
    branding = brandings[0][1] if brandings else Branding()
    upstreams = _unique("upstream", (upstream for part in parts for upstream in part.upstreams), problems)
    upstreams |= overrides
    upstreams |= {upstream.name: upstream for upstream in manifests.upstreams}
    routes = _unique("route", (route for part in parts for route in part.routes), problems)
    rules = _unique("rule", (*(rule for part in parts for rule in part.rules), *manifests.rules), problems)
    problems += remote.problems(rules.values(), upstreams)
    all_routes = with_hosts((*routes.values(), *manifests.routes), upstreams)
    # If there are Gateways, the address of rule files is needed only if something is served there.
    needed = not manifests.listeners or any(route.group == RULE_FILES for route in all_routes)
    listeners = given[0] if given else (DEFAULT_LISTENER,) if needed else ()
    taken = {(listener.address, listener.port) for listener in listeners if listener.port}
    for gateway in manifests.listeners:
        if (gateway.address, gateway.port) in taken:
            where = f"{gateway.address}:{gateway.port}"
            message = f"port {gateway.port}: rule files listen at {where}, too: give them another address with listen"
            left_out.append(Problem(gateway.position, message))
    free = (listener for listener in manifests.listeners if (listener.address, listener.port) not in taken)
    return Ruleset(
        listeners=(*listeners, *free),
        upstreams=tuple(upstreams.values()),
        routes=all_routes,
        rules=tuple(
            remote.rule_with_services(rule_with_pages(rule, branding), upstreams)
            for rule in with_route_groups(rules.values(), manifests.route_groups)
        ),
        homeless=manifests.homeless,
    )


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def position(self) -> Position: ...


N = TypeVar("N", bound=_Named)


def _unique(kind: str, things: Iterable[N], problems: list[Problem]) -> dict[str, N]:
    by_name: dict[str, N] = {}
    for thing in things:
        first = by_name.setdefault(thing.name, thing)
        if first is not thing and thing.name:
            message = f"{kind} {quoted(thing.name)}: the name is taken already, at {first.position}"
            problems.append(Problem(thing.position, message))
    return by_name
