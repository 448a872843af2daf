"""Kubernetes objects in files: what all of them have in common, and how their fields are read.

In: places of a document. Out: `Object`s, and readers for their parts. `known` lists the fields; a field that is null
counts as not given. A mistake in one object must not affect others, so each object is read on its own (`alone`), and
its problems stay with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

from rejoinder.rules.document import List, Map, Scalar, ScalarKind
from rejoinder.rules.fields import Fields, Place, Reader, Source, text_that
from rejoinder.rules.files import Files
from rejoinder.rules.kubernetes.known import KINDS, METADATA, check, without
from rejoinder.rules.model import Position, Route
from rejoinder.rules.problem import Problem, Severity

SYSTEM_NAMESPACE: Final = "higress-system"
"""The namespace of Higress and its operator: only objects in it may apply to all requests."""

# RFC 1123 subdomain, https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_name: Final = text_that(_NAME.fullmatch, "a name of small letters, digits, - and .")

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What identifies an object within its kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """One object, its `spec` not read yet. Equal only to itself."""

    api_version: str
    kind: str
    key: Key
    """Its name is empty if the object has no usable name: see `problems`."""
    place: Place
    """The whole object."""
    created: str = ""
    """creationTimestamp; empty: not given."""
    generation: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()
    """The problems of its metadata."""

    @property
    def group(self) -> str:
        """Its API group; empty for Kubernetes' own core."""
        return self.api_version.rpartition("/")[0]

    @property
    def id(self) -> tuple[str, str]:
        """Kind, and namespace and name."""
        return self.kind, str(self.key)

    @property
    def title(self) -> str:
        """Its name in messages: `HTTPRoute shop/web`."""
        return f"{self.kind or 'object'} {self.key if self.key.name else 'without a name'}"

    @property
    def position(self) -> Position:
        return self.place.position

    @property
    def file(self) -> str:
        return self.place.source.file

    def spec(self) -> Place:
        """Its `spec`, empty if there is none."""
        return member(self.place, "spec")


_DECIDING: Final = tuple(
    (
        "higress.io/ mse.ingress.kubernetes.io/ nginx.ingress.kubernetes.io/ nginx.org/ traefik.ingress.kubernetes.io/ "
        "haproxy.org/ konghq.com/ kgateway.dev/ gateway.kgateway.dev/ gateway.istio.io/"
    ).split()
)
"""The prefixes of annotations of controllers, which have hundreds that change what an object does."""


def annotations_of(manifest: Object) -> dict[str, Place]:
    """An object's annotations."""
    place = member(member(manifest.place, "metadata"), "annotations")
    return dict(place.members()) if isinstance(place.node, Map) else {}


def annotations_without_effect(manifest: Object, *read: str) -> Iterator[Problem]:
    """A warning that names the annotations for controllers, except those that are read, and those with the value
    `false`, which have no effect."""
    names = [
        name
        for name, value in annotations_of(manifest).items()
        if name.startswith(_DECIDING)
        and name not in read
        and not (isinstance(value.node, Scalar) and value.node.text == "false")
    ]
    if names:
        text = f"{manifest.title}: annotations have no effect here: {', '.join(names)}"
        yield Problem(annotations_of(manifest)[names[0]].position, text, Severity.WARNING)


def read_objects(place: Place) -> tuple[Object, ...]:
    """The object that a document is, or those that a `List` holds.

    Raises:
        FieldError: it is a `List` without a list of items.
    """
    place = replace(place, source=Source(place.source.file, place.source.files))  # which is not `operated`
    manifest, problems = alone(place, _object, _NOTHING)
    if manifest.kind == "List" and not isinstance(member(place, "items").node, List):
        raise member(place, "items").expected("a list")
    if manifest.kind.endswith("List") and not isinstance(member(place, "items").node, Scalar):
        return tuple(manifest for item in items(member(place, "items")) for manifest in read_objects(item))
    return (replace(manifest, place=place, problems=problems),)


_NOTHING: Final = Object("", "", Key("", ""), Place(Map(0, {}, 0), Source("", Files())))


def _object(place: Place) -> Object:
    fields = open_fields(place)
    manifest = replace(
        _NOTHING,
        api_version=fields.require("apiVersion", Place.string, ""),
        kind=fields.require("kind", Place.string, ""),
    )
    if manifest.kind.endswith("List"):
        return manifest
    if (table := KINDS.get((manifest.group, manifest.kind))) is not None:
        check(place, without(table, "spec"))
    return member(place, "metadata").attempt(functools.partial(_metadata, manifest), manifest)


def _metadata(manifest: Object, place: Place) -> Object:
    check(place, METADATA)
    fields = open_fields(place)
    name = fields.require("name", _name, "")
    return replace(
        manifest,
        key=Key(fields.get("namespace", _name, "default"), name),
        created=fields.get("creationTimestamp", _timestamp, ""),
        generation=fields.get("generation", lambda it: it.integer(range(2**62)), 0),
        labels=fields.get("labels", string_map, ()),
    )


def _timestamp(place: Place) -> str:
    if isinstance(place.node, Scalar) and place.node.kind in (ScalarKind.TIMESTAMP, ScalarKind.STRING):
        return place.node.text
    raise place.expected("a time")


def string_map(place: Place) -> tuple[tuple[str, str], ...]:
    """A mapping of strings to strings."""
    return tuple((name, value.string()) for name, value in place.members())


def namespace_of(route: Route) -> str:
    """The namespace of a route's object; empty: the route is from a rule file."""
    # Its name is `ingress/NAMESPACE/NAME/...`.
    return route.name.split("/")[1] if route.title else ""


# --- how parts are read ---


def alone(place: Place, read: Callable[[Place], T], default: D) -> tuple[T | D, tuple[Problem, ...]]:
    """Read a part; its problems are returned, and not noted with those of the file."""
    source = Source(place.source.file, place.source.files)
    value = replace(place, source=source).attempt(read, default)
    return value, tuple(source.problems)


def read_spec(
    manifest: Object, read: Callable[[Place], T], default: D, *unchecked: str
) -> tuple[T | D, tuple[Problem, ...]]:
    """Read the `spec` of an object as `alone` does. Its fields are checked, except for `unchecked` ones."""
    table = KINDS[manifest.group, manifest.kind]["spec"]
    assert isinstance(table, Mapping)

    def checked(spec: Place) -> T:
        check(spec, without(table, *unchecked))
        return read(spec)

    return alone(manifest.spec(), checked, default)


def noted(place: Place, read: Callable[[Place], T], default: D) -> tuple[T | D, tuple[Problem, ...]]:
    """Read a part; its problems are noted, and returned."""
    before = len(place.source.problems)
    value = place.attempt(read, default)
    return value, tuple(place.source.problems[before:])


def open_fields(place: Place) -> Fields:
    """The fields of a mapping that are given and not null, with any name."""
    if not isinstance(place.node, Map):
        raise place.expected("a mapping")
    given = {name: place.field(name) for name in place.node.entries}
    return Fields(place, {name: field for name, field in given.items() if not field.empty})


def member(place: Place, name: str) -> Place:
    """A field, or an empty mapping in its place."""
    if place.has(name) and not place.field(name).empty:
        return place.field(name)
    return replace(place, node=Map(place.node.line, {}, 0), path=f"{place.path}.{name}" if place.path else name)


def items(place: Place) -> list[Place]:
    """The entries of a list that `member` found; none if it is not given."""
    return [] if isinstance(place.node, Map) and not place.node.entries else place.items()


class Reference(NamedTuple):
    """A reference to another object."""

    place: Place
    group: str
    kind: str
    key: Key


def reference(place: Place, namespace: str, group: str = "", kind: str = "Service") -> Reference:
    """A reference from an object in a namespace; `group` and `kind` are the defaults."""
    fields = open_fields(place)
    group, kind = fields.get("group", Place.string, group), fields.get("kind", Place.string, kind)
    if "namespace" in fields:  # one that is none is not our own: no such object has it
        namespace = fields.get("namespace", _name, "")
    return Reference(place, group, kind, Key(namespace, fields.require("name", Place.string, "")))


def one_of(*allowed: str) -> Reader[str]:
    """A reader for a string that is one of these."""
    return text_that(allowed.__contains__, f"one of {', '.join(allowed)}")


def port(place: Place) -> int:
    """A port number."""
    return place.integer(range(1, 65536), "a port")
