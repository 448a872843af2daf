"""The rules of an HTTPRoute: what requests they are about, and what becomes of these.

In: an `HTTPRoute` object and the `Cluster`. Out: `RouteRule`s with matches and an action, and what is wrong. Pure.
Where the routes go, and in which order they are tried, is for `gateway_api`.

What cannot be honoured is not left out: the rule then answers 500 and says why, as the specification has it for
references that lead nowhere. https://gateway-api.sigs.k8s.io/reference/spec/#httproute
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from rejoinder.rules.document import Scalar, quoted
from rejoinder.rules.fields import Fields, Place
from rejoinder.rules.kubernetes import direct_response
from rejoinder.rules.kubernetes.cluster import GATEWAY_API, Cluster, upstream_name
from rejoinder.rules.kubernetes.known import HTTP_MATCH, HTTP_ROUTE, HTTP_RULE, check, spec_of, without
from rejoinder.rules.kubernetes.objects import (
    Key,
    Object,
    alone,
    annotations_of,
    annotations_without_effect,
    items,
    member,
    one_of,
    open_fields,
    port,
)
from rejoinder.rules.kubernetes.status import ACCEPTED, RESOLVED_REFS, Fault
from rejoinder.rules.model import (
    EVERY_PATH,
    EVERY_REQUEST,
    MAX_HEADERS,
    STATUSES,
    UNCHANGED,
    Answer,
    Backend,
    Cors,
    Forward,
    Header,
    HeaderChanges,
    PathKind,
    PathMatch,
    Position,
    Redirect,
    RequestMatch,
    Rewrite,
    StringKind,
    StringMatch,
)
from rejoinder.rules.native import (
    MAX_HEADER_SIZE,
    PATHS,
    at_most,
    domains,
    header_name,
    parameter_name,
    redirect_host,
    redirect_path,
    regex_text,
)
from rejoinder.rules.problem import Problem, Severity

UNSUPPORTED_VALUE: Final = "UnsupportedValue"
INCOMPATIBLE_FILTERS: Final = "IncompatibleFilters"

MAX_WEIGHT: Final = 1_000_000
MAX_WEIGHTS: Final = 2**32 - 1
"""Of all backendRefs of a rule together; Envoy counts with 32 bits."""
MAX_ORIGIN: Final = 1024
"""In bytes: a `*` in it is several instructions of a regular expression."""

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
REDIRECT_STATUSES: Final = (301, 302, 303, 307, 308)
REDIRECT_ANNOTATION: Final = "kgateway.dev/http-redirect-status-code"
"""kgateway's: the status of all redirects of the route, as the Gateway API had 301 and 302 only."""
_DURATION: Final = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")  # https://gateway-api.sigs.k8s.io/geps/gep-2257/
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_VALUE_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_RULE: Final = re.compile(r"^spec\.rules\[\d+\](\.|: )?")  # where a rule stands, which is said otherwise
_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", re.IGNORECASE)

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class ParentRef:
    """Where a route wants to be attached."""

    key: Key
    section: str = ""
    port: int | None = None
    group: str = GATEWAY_API
    kind: str = "Gateway"
    position: Position = field(default=Position("", 0), compare=False)


@dataclass(frozen=True, slots=True)
class Match:
    """One entry of a rule's `matches`."""

    request: RequestMatch = EVERY_REQUEST
    whole: bool = True
    """False: a test of it cannot be used, so it fits more requests than its author meant. They get its refusal."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One entry of `spec.rules`."""

    matches: tuple[Match, ...]
    action: Answer | Redirect | Forward
    request_headers: HeaderChanges = UNCHANGED
    response_headers: HeaderChanges = UNCHANGED
    refusal: Answer | None = None
    """In place of the action, for the matches that cannot be used; None: all can, or the action says it itself."""
    faults: tuple[Fault, ...] = ()
    """If there are any that concern it as a whole, its action is an answer that says so."""
    position: Position = field(default=Position("", 0), compare=False)


@dataclass(frozen=True, slots=True)
class HttpRoute:
    object: Object
    parents: tuple[ParentRef, ...]
    hostnames: tuple[str, ...]
    rules: tuple[RouteRule, ...]
    faults: tuple[Fault, ...] = ()
    """Of the route as a whole."""
    notes: tuple[Problem, ...] = ()
    """What has no effect."""


def read_http_route(each: Object, cluster: Cluster, answers: Mapping[Key, Answer | None]) -> HttpRoute:
    """An HTTPRoute; what is wrong stays with it, or with the rule that it is about.

    Args:
        each: the object.
        cluster: what else there is.
        answers: the DirectResponses; None: one that cannot be used.
    """
    spec = each.spec()
    _, unknown = alone(spec, lambda it: check(it, without(spec_of(HTTP_ROUTE), "rules")), None)
    parents, parent_problems = alone(spec, lambda it: _parents(it, each), ())
    hostnames, host_problems = alone(spec, _hostnames, ())
    places, rule_problems = alone(spec, _rules, [])
    reader = _RuleReader(each, cluster, answers)
    rules = tuple(reader.read(place, number) for number, place in enumerate(places))
    status, status_problems = alone(spec, lambda _: _redirect_annotation(each), None)
    if status is not None:
        rules = tuple(
            replace(rule, action=replace(rule.action, status_code=status))
            if isinstance(rule.action, Redirect)
            else rule
            for rule in rules
        )
    notes = (*reader.notes, *annotations_without_effect(each, REDIRECT_ANNOTATION))
    if unknown or rule_problems or (host_problems and not hostnames):
        rules = ()  # what they are about is not known, and without its hosts it would take those of others
    problems = (*unknown, *status_problems, *parent_problems, *host_problems, *rule_problems)
    faults = tuple(Fault(ACCEPTED, UNSUPPORTED_VALUE, problem.message, problem.position) for problem in problems)
    return HttpRoute(each, parents, hostnames, rules, faults, notes)


def _redirect_annotation(each: Object) -> int | None:
    place = annotations_of(each).get(REDIRECT_ANNOTATION)
    if place is None:
        return None
    node = place.node
    statuses = [str(status) for status in REDIRECT_STATUSES]
    if not (isinstance(node, Scalar) and node.text in statuses):
        raise place.expected(f"one of {', '.join(statuses)}")
    return int(node.text)


def _parents(spec: Place, each: Object) -> tuple[ParentRef, ...]:
    return open_fields(spec).get("parentRefs", lambda it: it.each(lambda ref: _parent(ref, each)), ())


def _parent(place: Place, each: Object) -> ParentRef:
    fields = open_fields(place)
    group, kind = fields.get("group", Place.string, GATEWAY_API), fields.get("kind", Place.string, "Gateway")
    namespace = fields.get("namespace", Place.string, each.key.namespace)
    return ParentRef(
        Key(namespace, fields.require("name", Place.string, "")),
        section=fields.get("sectionName", Place.string, ""),
        port=fields.get("port", port, None),
        group=group,
        kind=kind,
        position=place.position,
    )


def _hostnames(spec: Place) -> tuple[str, ...]:
    return open_fields(spec).get("hostnames", lambda it: domains(it) if it.items() else (), ())


def _known_fields(rule: Place) -> Fields:
    check(rule, without(HTTP_RULE, "matches"))
    return open_fields(rule)


def _rules(spec: Place) -> list[Place]:
    # Without rules a route has one that fits everything, and forwards to nothing.
    found = open_fields(spec).get("rules", Place.items, None)
    return [member(spec, "rules")] if found is None else found


@dataclass(slots=True)
class _Filters:
    """What the filters of a rule or of a backend come to."""

    request_headers: HeaderChanges = UNCHANGED
    response_headers: HeaderChanges = UNCHANGED
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    cors: Cors | None = None
    mirrors: tuple[tuple[str, float], ...] = ()
    responses: tuple[Answer, ...] = ()
    """Of DirectResponses; one that cannot be had is noted, and stands here as any answer."""

    @property
    def rewrites_path(self) -> bool:
        return self.rewrite is not None and (self.rewrite.path is not None or self.rewrite.prefix is not None)


@dataclass(frozen=True, slots=True)
class _BackendRef:
    """One entry of a rule's `backendRefs`."""

    place: Place
    backend: Backend
    filters: _Filters


def _with_only_backend(rule: _Filters, backend: _Filters) -> _Filters:
    """The filters of a rule with those of its only backend, which are for the same requests, but for headers."""
    return replace(
        rule,
        redirect=rule.redirect or backend.redirect,
        rewrite=backend.rewrite or rule.rewrite,
        mirrors=(*rule.mirrors, *backend.mirrors),
    )


class _RuleReader:
    """Reads the rules of one HTTPRoute."""

    def __init__(self, route: Object, cluster: Cluster, answers: Mapping[Key, Answer | None]) -> None:
        self._route = route
        self._cluster = cluster
        self._answers = answers
        self._faults: list[Fault] = []
        """Of the rule that is being read."""
        self.notes: list[Problem] = []

    def read(self, place: Place, number: int) -> RouteRule:
        self._faults = []
        rule = self._part(place, _known_fields, None)
        # What has no matches fits every request, unless they may just be misspelled.
        whole = rule is not None and rule.given.keys() <= HTTP_RULE.keys()
        before = len(self._faults)
        matches = self._part(member(place, "matches"), self._matches, (Match(whole=False),)) or (Match(whole=whole),)
        of_matches, self._faults = self._faults[before:], self._faults[:before]
        filters = self._part(member(place, "filters"), self._filters, _Filters())
        backends = self._part(member(place, "backendRefs"), self._backends, ())
        timeout = self._part(place, _timeout, 0.0)
        if filters.redirect and backends:
            self._exclude(place, "RequestRedirect", "backendRefs")
        if len(backends) == 1:
            filters = _with_only_backend(filters, backends[0].filters)
        else:
            self._check_backend_filters(backends)
        action = self._action(place, filters, backends, timeout, matches)
        stopped = [each for each in self._faults if not isinstance(action, Forward) or each.condition == ACCEPTED]
        if stopped:
            action = self._refusal(number, (*of_matches, *stopped))
        return RouteRule(
            matches,
            action,
            filters.request_headers,
            filters.response_headers,
            self._refusal(number, of_matches) if of_matches and not stopped else None,
            tuple(replace(each, message=f"rule {number}: {each.message}") for each in (*of_matches, *self._faults)),
            place.position,
        )

    def _refusal(self, number: int, faults: Iterable[Fault]) -> Answer:
        reasons = "; ".join(dict.fromkeys(fault.message for fault in faults))
        text = f"{self._route.title} rule {number}: {reasons}\n"
        return Answer(500, (("content-type", "text/plain"),), text.encode())

    def _fault(self, place: Place, reason: str, message: str, condition: str = ACCEPTED) -> None:
        path = re.sub(_RULE, "", place.path)
        self._faults.append(Fault(condition, reason, f"{path}: {message}" if path else message, place.position))

    def _part(self, place: Place, read: Callable[[Place], T], default: D) -> T | D:
        """Read a part of the rule; what is wrong with it is a fault of the rule."""
        found, problems = alone(place, read, default)
        for problem in problems:
            message = re.sub(_RULE, "", problem.message)
            self._faults.append(Fault(ACCEPTED, UNSUPPORTED_VALUE, message, problem.position))
        return found

    # --- what requests it is about ---

    def _matches(self, place: Place) -> tuple[Match, ...]:
        return tuple(map(self._match, items(place)))

    def _match(self, place: Place) -> Match:
        before = len(self._faults)
        found = self._part(place, _read_match, EVERY_REQUEST)
        return Match(found, whole=len(self._faults) == before)

    # --- what becomes of them ---

    def _action(
        self,
        place: Place,
        filters: _Filters,
        backends: Sequence[_BackendRef],
        timeout: float,
        matches: Sequence[Match],
    ) -> Answer | Redirect | Forward:
        by_prefix = all(each.request.path.kind is PathKind.PREFIX for each in matches)
        if not by_prefix and any(each and each.prefix is not None for each in (filters.redirect, filters.rewrite)):
            self._fault(place, UNSUPPORTED_VALUE, "ReplacePrefixMatch needs matches of type PathPrefix")
        if len(filters.responses) > 1:
            self._fault(place, INCOMPATIBLE_FILTERS, "it has several DirectResponses: keep one of them")
        for name, given, other, beside in (
            ("a DirectResponse", filters.responses, "RequestRedirect", filters.redirect),
            ("a DirectResponse", filters.responses, "backendRefs", backends),
            ("RequestRedirect", filters.redirect, "URLRewrite", filters.rewrite),
        ):
            if given and beside:
                self._exclude(place, name, other)
        if filters.cors and (filters.responses or filters.redirect):
            message = "CORS has no effect where the gateway answers or redirects by itself: remove one of them"
            self._fault(place, UNSUPPORTED_VALUE, message)
        if filters.responses:
            if "content-type" in filters.response_headers.remove:
                text = "content-type is not removed: Envoy gives one to every answer of its own that has a body"
                self.notes.append(
                    Problem(place.position, f"{self._route.title}: {place.path}: {text}", Severity.WARNING)
                )
            return _with_headers(filters.responses[0], filters.response_headers)
        if filters.redirect:
            return filters.redirect
        return self._forward(place, filters, [each.backend for each in backends], timeout)

    def _exclude(self, place: Place, one: str, other: str) -> None:
        self._fault(place, INCOMPATIBLE_FILTERS, f"{one} and {other} exclude each other: remove one of them")

    def _forward(
        self, place: Place, filters: _Filters, backends: Sequence[Backend], timeout: float
    ) -> Answer | Forward:
        usable = [each for each in backends if each.weight and each.upstream is not None]
        if not usable:
            if not backends:
                reason = "it has no backendRefs: there is nothing to forward to"
            elif not any(each.weight for each in backends):
                reason = "all its backendRefs have weight 0"
            else:
                reason = "none of its backendRefs can be used"
            # A rule without backends is no mistake for the specification, but it says 500.
            if not backends and not self._faults and place.path.endswith("]"):  # a rule that is written
                note = f"{self._route.title}: {place.path}: {reason}; it answers 500"
                self.notes.append(Problem(place.position, note, Severity.WARNING))
            text = "; ".join([reason, *(fault.message for fault in self._faults)])
            return Answer(500, (("content-type", "text/plain"),), f"{self._route.title}: {text}\n".encode())
        rewrite = filters.rewrite or Rewrite()
        forward = Forward("", tuple(backends), rewrite, filters.mirrors, filters.cors, timeout)
        # Its host is in the rewrite then.
        alone_and_plain = len(backends) == 1 and not (backends[0].request_headers or backends[0].response_headers)
        return replace(forward, upstream=usable[0].upstream or "", backends=()) if alone_and_plain else forward

    # --- backends ---

    def _backends(self, place: Place) -> tuple[_BackendRef, ...]:
        backends = tuple(self._backend(item) for item in items(place))
        if (total := sum(each.backend.weight for each in backends)) > MAX_WEIGHTS:
            raise place.mistake(f"all weights together are {total:,}: expected at most {MAX_WEIGHTS:,}")
        return backends

    def _check_backend_filters(self, backends: Sequence[_BackendRef]) -> None:
        """Envoy can do these things for a route only, not for a share of its requests."""
        for each in backends:
            if each.filters.redirect or each.filters.mirrors or each.filters.rewrites_path:
                message = "on one of several backendRefs, filters can change headers and the host, nothing else"
                self._fault(each.place, UNSUPPORTED_VALUE, message)

    def _backend(self, place: Place) -> _BackendRef:
        fields = open_fields(place)
        weight = fields.get("weight", lambda it: it.integer(range(MAX_WEIGHT + 1), "a weight"), 1)
        filters = self._filters(member(place, "filters"), backend=True)
        host = filters.rewrite.host if filters.rewrite else None
        backend = Backend(self._upstream(place), weight, host, filters.request_headers, filters.response_headers)
        return _BackendRef(place, backend, filters)

    def _upstream(self, place: Place) -> str | None:
        """The upstream that a reference leads to; None if it leads nowhere, which is noted."""
        fields = open_fields(place)
        group, kind = fields.get("group", Place.string, ""), fields.get("kind", Place.string, "Service")
        namespace = fields.get("namespace", Place.string, self._route.key.namespace)
        key = Key(namespace, fields.require("name", Place.string, ""))
        if (group, kind) != ("", "Service"):
            shown = f"{group}/{kind}" if group else kind
            self._fault(place, "InvalidKind", f"{shown} is not supported here: expected a Service", RESOLVED_REFS)
            return None
        number = fields.require("port", port, 0)
        if not self._cluster.granted(self._route, group, kind, key):
            message = (
                f"Service {key} is in another namespace, which has no ReferenceGrant that lets HTTPRoutes of "
                f"{self._route.key.namespace} refer to it: add one there"
            )
            self._fault(place, "RefNotPermitted", message, RESOLVED_REFS)
            return None
        if self._cluster.service_port(key, number) is None:
            self._fault(place, "BackendNotFound", self._cluster.missing(key, number), RESOLVED_REFS)
            return None
        return upstream_name(key, number)

    # --- filters ---

    def _filters(self, place: Place, *, backend: bool = False) -> _Filters:
        found = _Filters()
        seen: set[str] = set()
        for item in items(place):
            fields = open_fields(item)
            kind = fields.require("type", Place.string, "")
            if kind in seen and kind not in ("RequestMirror", "ExtensionRef"):
                self._fault(item, INCOMPATIBLE_FILTERS, f"{kind} is given twice")
            seen.add(kind)
            read = (_BACKEND_FILTERS if backend else _FILTERS).get(kind)
            if read is None:
                where = "on a backendRef" if backend and kind in _FILTERS else "here"
                self._fault(item, UNSUPPORTED_VALUE, f"the filter {quoted(kind)} is not supported {where}")
                continue
            name, reader = read
            if name not in fields:
                raise item.mistake(f"{name} is missing")
            for other in fields.given.keys() & (_FIELDS_OF_FILTERS - {name}):
                self._fault(fields[other], UNSUPPORTED_VALUE, f"is not for a filter of the type {kind}")
            reader(self, found, fields[name], backend)
        return found

    def _request_headers(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002 - as its siblings
        found.request_headers = _header_changes(place)

    def _response_headers(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002
        found.response_headers = _header_changes(place)

    def _redirect(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002
        found.redirect = _read_redirect(place)

    def _rewrite(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002
        fields = open_fields(place)
        path, prefix = _path_modifier(fields)
        if path and "?" in path:
            fields["path"].error("replaceFullPath: expected a path without a query: that of the request is kept")
        found.rewrite = Rewrite(fields.get("hostname", redirect_host, None), path, prefix)

    def _mirror(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002
        fields = open_fields(place)
        if (upstream := fields.require("backendRef", self._upstream, None)) is not None:
            found.mirrors += ((upstream, _share(fields)),)

    def _cors(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002
        found.cors = _read_cors(place)

    def _extension(self, found: _Filters, place: Place, backend: bool) -> None:
        fields = open_fields(place)
        group, kind = fields.get("group", Place.string, ""), fields.require("kind", Place.string, "")
        key = Key(self._route.key.namespace, fields.require("name", Place.string, ""))
        if group not in direct_response.GROUPS or kind != direct_response.KIND:
            message = f"{group}/{kind} is not supported: expected {direct_response.GROUP}/{direct_response.KIND}"
            self._fault(place, "InvalidKind", message, RESOLVED_REFS)
            self._fault(place, UNSUPPORTED_VALUE, message)
        elif backend:
            text = "a DirectResponse on a backendRef is ignored: refer to it in the rule's own filters"
            self.notes.append(Problem(place.position, f"{self._route.title}: {place.path}: {text}", Severity.WARNING))
        else:
            found.responses += (self._answer(place, key),)

    def _answer(self, place: Place, key: Key) -> Answer:
        answer = self._answers.get(key)
        if key not in self._answers:
            message = f"there is no DirectResponse {key}: add it to the files"
            self._fault(place, "BackendNotFound", message, RESOLVED_REFS)
        elif answer is None:
            self._fault(place, UNSUPPORTED_VALUE, f"DirectResponse {key} cannot be used: see its own conditions")
        return answer or Answer()

    def _direct_response(self, found: _Filters, place: Place, backend: bool) -> None:  # noqa: ARG002
        found.responses += (direct_response.read_filter(place),)


def _with_headers(answer: Answer, changes: HeaderChanges) -> Answer:
    replaced = {name for name, _ in changes.set} | set(changes.remove)
    kept = tuple(header for header in answer.headers if header[0] not in replaced)
    return replace(answer, headers=(*kept, *changes.set, *changes.add))


_FilterReader = Callable[[_RuleReader, _Filters, Place, bool], None]

# The filters that there are, each with the field that says more, and its reader.
_BACKEND_FILTERS: Final[dict[str, tuple[str, _FilterReader]]] = {
    "RequestHeaderModifier": ("requestHeaderModifier", _RuleReader._request_headers),
    "ResponseHeaderModifier": ("responseHeaderModifier", _RuleReader._response_headers),
    "ExtensionRef": ("extensionRef", _RuleReader._extension),
    "RequestRedirect": ("requestRedirect", _RuleReader._redirect),
    "URLRewrite": ("urlRewrite", _RuleReader._rewrite),
    "RequestMirror": ("requestMirror", _RuleReader._mirror),
}
_FILTERS: Final[dict[str, tuple[str, _FilterReader]]] = {
    **_BACKEND_FILTERS,
    "CORS": ("cors", _RuleReader._cors),
    "DirectResponse": ("directResponse", _RuleReader._direct_response),
}
_FIELDS_OF_FILTERS: Final = frozenset(name for name, _ in _FILTERS.values())


# --- matches ---

_PATH_TYPES: Final = {"Exact": "path", "PathPrefix": "prefix", "RegularExpression": "regex"}


def _read_match(place: Place) -> RequestMatch:
    check(place, HTTP_MATCH)
    fields = open_fields(place)
    method = fields.get("method", one_of(*_METHODS), "")
    return RequestMatch(
        path=fields.get("path", _path, EVERY_PATH),
        methods=(method,) if method else (),
        headers=fields.get("headers", lambda it: _values(it, header_name), ()),
        query=fields.get("queryParams", lambda it: _values(it, parameter_name), ()),
    )


def _path(place: Place) -> PathMatch:
    fields = open_fields(place)
    kind = fields.get("type", one_of(*_PATH_TYPES), "PathPrefix")
    return fields.get("value", PATHS[_PATH_TYPES[kind]], EVERY_PATH)


def _values(place: Place, read_name: Callable[[Place, str], str]) -> tuple[tuple[str, StringMatch], ...]:
    found: dict[str, StringMatch] = {}
    for item in place.items():
        fields = open_fields(item)
        name = fields.require("name", lambda it: read_name(it, it.string()), None)
        kind = fields.get("type", one_of("Exact", "RegularExpression"), "Exact")
        if kind == "Exact":
            test = StringMatch(StringKind.EXACT, fields.require("value", Place.string, ""))
        else:
            test = StringMatch(StringKind.REGEX, fields.require("value", regex_text, ".*"))
        if name is not None:  # of several with one name the first counts, says the specification
            found.setdefault(name, test)
    return tuple(found.items())


# --- filters ---


def _header_changes(place: Place) -> HeaderChanges:
    fields = open_fields(place)
    found = HeaderChanges(
        set=fields.get("set", _headers, ()),
        add=fields.get("add", _headers, ()),
        remove=fields.get("remove", lambda it: it.each(lambda item: _name(item, item.string())), ()),
    )
    at_most(place, MAX_HEADERS, "headers", (*found.set, *found.add))
    return found


def _headers(place: Place) -> tuple[Header, ...]:
    return place.each(_header)


def _header(place: Place) -> Header:
    fields = open_fields(place)
    return (
        fields.require("name", lambda it: _name(it, it.string()), ""),
        fields.require("value", _header_value, ""),
    )


def _name(place: Place, text: str) -> str:
    name = header_name(place, text)
    if name == "host":
        raise place.mistake("Envoy changes Host by URLRewrite only")
    return name


def _header_value(place: Place) -> str:
    text = place.string()
    if _VALUE_CONTROL.search(text) or len(text.encode()) > MAX_HEADER_SIZE:
        raise place.expected(f"a header value without control characters and of at most {MAX_HEADER_SIZE:,} bytes")
    return text


def _read_redirect(place: Place) -> Redirect:
    fields = open_fields(place)
    path, prefix = _path_modifier(fields)
    return Redirect(
        scheme=fields.get("scheme", one_of("http", "https"), None),
        host=fields.get("hostname", redirect_host, None),
        port=fields.get("port", port, None),
        path=path,
        prefix=prefix,
        status_code=fields.get("statusCode", _redirect_status, 302),
    )


def _redirect_status(place: Place) -> int:
    status = place.integer(STATUSES, "a status")
    if status not in REDIRECT_STATUSES:
        raise place.expected(f"one of {', '.join(map(str, REDIRECT_STATUSES))}")
    return status


def _path_modifier(fields: Fields) -> tuple[str | None, str | None]:
    """The whole new path, and the new prefix: at most one is given."""
    if "path" not in fields:
        return None, None
    inner = open_fields(fields["path"])
    kind = inner.require("type", one_of("ReplaceFullPath", "ReplacePrefixMatch"), "ReplaceFullPath")
    name = "replaceFullPath" if kind == "ReplaceFullPath" else "replacePrefixMatch"
    path = inner.require(name, lambda it: redirect_path(it) if it.string() else "", "/")
    return (path or "/", None) if kind == "ReplaceFullPath" else (None, path)


def _share(fields: Fields) -> float:
    if "fraction" not in fields:
        return float(fields.get("percent", lambda it: it.integer(range(101), "a percentage"), 100))
    fraction = open_fields(fields["fraction"])
    numerator = fraction.require("numerator", lambda it: it.integer(range(2**31)), 0)
    denominator = fraction.get("denominator", lambda it: it.integer(range(1, 2**31)), 100)
    return min(100.0, numerator / denominator * 100)


def _read_cors(place: Place) -> Cors:
    fields = open_fields(place)

    def texts(name: str) -> tuple[str, ...]:
        return fields.get(name, lambda it: it.each(Place.string), ())

    return Cors(
        origins=fields.get("allowOrigins", lambda it: it.each(_origin), ()) or ("*",),
        methods=texts("allowMethods"),
        headers=texts("allowHeaders"),
        expose=texts("exposeHeaders"),
        credentials=fields.get("allowCredentials", Place.boolean, False),
        max_age=fields.get("maxAge", lambda it: it.integer(range(1, 2**31), "a number of seconds"), 5),
    )


def _origin(place: Place) -> str:
    text = at_most(place, MAX_ORIGIN, "bytes", place.string())
    if not _ORIGIN.fullmatch(text):
        raise place.expected('an origin such as "https://example.com", or "*"')
    return text


def _timeout(place: Place) -> float:
    fields = open_fields(member(place, "timeouts"))
    request = fields.get("request", _duration, None)
    backend = fields.get("backendRequest", _duration, None)
    if request and backend and backend > request:
        fields["backendRequest"].error("is longer than the timeout of the whole request")
    given = [each for each in (request, backend) if each is not None]
    # Nothing is retried, so the one attempt at a backend and the request are the same. 0: no timeout.
    return min((each for each in given if each), default=0.0)


def _duration(place: Place) -> float:
    text = place.string()
    if not _DURATION.fullmatch(text):
        raise place.expected('a duration such as "10s" or "1m30s"')
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|h|m|s)", text))
