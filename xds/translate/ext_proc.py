"""The ext_proc filter (docs/ext_proc.md): which messages and attributes it sends. Pure.

It stands in the chain once for responses, behind a gate that opens for the statuses that rules name. If rules answer
without an upstream, or by a handler that sees the request, it stands there once more for requests, behind a gate on the
requests of these rules. If rules look at hosts, a filter in front keeps the original host, because the router may
rewrite it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rejoinder.rules import attributes
from rejoinder.rules.model import EVERY_PATH, STATUSES, PathKind, Rule
from rejoinder.rules.names import METADATA
from rejoinder.rules.program import Program, needs
from rejoinder.xds.translate.forwarding import duration
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER, Json, typed

_GATE: Final = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_KEEP: Final = "envoy.extensions.filters.http.set_filter_state.v3.Config"
TYPES: Final = (_GATE, _KEEP)
"""What the configuration of one of these filters can be."""

IDLE: Final = typed(_KEEP)
"""Used where nothing has to be asked: a filter that does nothing, and costs less than a closed gate."""

REFUSALS: Final = frozenset({400, 408, 413, 414, 426, 431, 501, 505})
"""The statuses with which Envoy rejects a request before any filter sees it: only an upstream's are asked about."""

MAX_GATED: Final = 64
"""How many rules a gate on requests distinguishes, as Envoy tests them one after the other; with more it is open."""


def response_filter(program: Program) -> Json:
    """The filter for responses."""
    if not program.statuses:
        return IDLE
    looked_at = needs(program).response_headers
    filter_ = _filter(
        program,
        {"request_header_mode": "SKIP", "response_header_mode": "SEND"},
        response_attributes=_attributes(program),
        # Nothing else of the response is used: this saves Envoy and the service most of the message.
        forward_rules={"allowed_headers": {"patterns": [_pattern(name) for name in (":status", *looked_at)]}},
    )
    return _gated(filter_, _status_test(program.statuses), bool(program.statuses & REFUSALS))


def request_filter(program: Program) -> Json:
    """The filter for requests, and for their responses if a handler makes them."""
    if not sees_requests(program):
        return IDLE
    clients = [attributes.CLIENT] if needs(program).clients else []
    more: Json = {"request_attributes": [attributes.ROUTE_NAME, *clients]}
    if program.has_handlers:
        more["response_attributes"] = [attributes.CODE_DETAILS]
    response = "SEND" if program.has_handlers else "SKIP"
    filter_ = _filter(program, {"request_header_mode": "SEND", "response_header_mode": response}, **more)
    return _gated(filter_, _requests_gate(program), program.has_handlers)


def host_filter(program: Program) -> Json:
    """The filter that keeps the original host, if rules look at it."""
    if not needs(program).hosts:
        return IDLE
    return typed(
        _KEEP,
        on_request_headers=[
            {
                "object_key": attributes.HOST_STATE,
                "factory_key": "envoy.string",
                "format_string": {"text_format_source": {"inline_string": "%REQ(:AUTHORITY)%"}},
            }
        ],
    )


def sees_requests(program: Program) -> bool:
    """Whether the chain needs the filter for requests, too."""
    return program.asks_requests or program.has_handlers


def _filter(program: Program, mode: Json, **more: object) -> Json:
    slowest = max(
        (answer.remote.timeout for rule in program.rules for answer in rule.answers if answer.remote), default=0.0
    )
    return typed(
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": EXT_PROC_CLUSTER}},
        processing_mode=mode,
        **more,
        failure_mode_allow=True,  # fail open: the service slow, dead or restarting, responses pass through
        # The first call after a start can take longer than Envoy's 200 ms; another service's page has its own limit.
        message_timeout=duration(1 + slowest),
        mutation_rules={"allow_envoy": True},  # an answer may set headers whose names begin with x-envoy-
        metadata_options={"receiving_namespaces": {"untyped": [METADATA]}},  # which rule answered, for access logs
    )


def _pattern(name: str) -> Json:
    if name == "*":
        return {"safe_regex": {"regex": ".*"}}
    return {"prefix": name[:-1]} if name.endswith("*") else {"exact": name}


def _attributes(program: Program) -> list[str]:
    """The attributes: what rules need to know of the request, and who made the response."""
    known = needs(program)
    asked = {
        attributes.PATH: known.paths,
        attributes.ORIGINAL_PATH: known.paths,
        attributes.METHOD: known.methods,
        attributes.HOST: known.hosts,
        attributes.ORIGINAL_HOST: known.hosts,
        attributes.ROUTE_NAME: known.routes,
        attributes.CLIENT: known.clients,
        attributes.SCHEME: known.schemes,
        # The content type tells whether the client speaks gRPC, which decides the status of an answer.
        **{attributes.of_header(name): True for name in sorted({*known.headers, "content-type"})},
        attributes.CODE_DETAILS: True,
    }
    return [expression for expression, wanted in asked.items() if wanted]


def _gated(filter_: Json, wanted: Json, sees_refusals: bool) -> Json:
    """A filter that is skipped except for what a predicate matches, and for responses with which Envoy rejects a
    request, if it would see them.

    (The composite filter would not even be made where it is not needed, which costs a little less. But Envoy 1.40
    crashes if a composite filter is replaced by ECDS under load: tried.)
    """
    skip = {"name": "skip", "typed_config": typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")}
    predicates = [{"not_matcher": wanted}, *([_refusal()] if sees_refusals else [])]
    matcher = {"predicate": _any(predicates), "on_match": {"action": skip}}
    return typed(
        _GATE,
        extension_config={"name": "ext_proc", "typed_config": filter_},
        xds_matcher={"matcher_list": {"matchers": [matcher]}},
    )


# --- the gate on statuses ---


def _status_test(named: frozenset[int]) -> Json:
    read = typed("envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput")
    return _predicate("status", read, _regex(statuses(named)))


def _predicate(name: str, read: Json, test: Json) -> Json:
    return {"single_predicate": {"input": {"name": name, "typed_config": read}, "value_match": test}}


def _regex(regex: str) -> Json:
    return {"safe_regex": {"google_re2": {}, "regex": regex}}


def statuses(named: frozenset[int]) -> str:
    """A regex of statuses, short if all statuses of a hundred or of ten are in it.

    >>> statuses(frozenset([*range(500, 600), 404]))
    '404|5[0-9][0-9]'
    """
    hundreds = range(STATUSES.start, STATUSES.stop, 100)
    return "|".join(part for hundred in hundreds for part in _digits(named, hundred, 100)) or "none"


def _digits(named: frozenset[int], start: int, size: int) -> Iterator[str]:
    block = range(start, start + size)
    if named.issuperset(block):
        yield str(start // size) + "[0-9]" * (len(str(size)) - 1)
    elif not named.isdisjoint(block):
        for sub in range(start, start + size, size // 10):
            yield from _digits(named, sub, size // 10)


def _refusal() -> Json:
    # When Envoy rejects a request, it closes the connection: that response must not be held (`early_errors` has answers
    # for it). Other responses with such a status that come from an upstream have this header, which the router sets.
    read = typed("envoy.type.matcher.v3.HttpResponseHeaderMatchInput", header_name="x-envoy-upstream-service-time")
    upstream = _predicate("header", read, _regex(".+"))
    return {"and_matcher": {"predicate": [_status_test(REFUSALS), {"not_matcher": upstream}]}}


# --- the gate on requests ---


def _requests_gate(program: Program) -> Json:
    about = [rule for rule in program.rules if rule.unconditional or any(answer.handler for answer in rule.answers)]
    predicates = [_about(rule) for rule in about[: MAX_GATED + 1]]
    if len(predicates) > MAX_GATED or None in predicates:
        return _request_test(":method", _regex(".*"))  # all
    return _any([predicate for predicate in predicates if predicate is not None])


def _about(rule: Rule) -> Json | None:
    """What all requests of a rule have in common, if it is quick to test; None: nothing."""
    path, tests = rule.scope.request.path, []
    if path.kind is not PathKind.REGEX and path != EVERY_PATH:
        tests.append(_request_test(":path", {"prefix": path.value}))
    if rule.scope.request.methods:
        tests.append(_any([_request_test(":method", {"exact": method}) for method in rule.scope.request.methods]))
    if rule.scope.domains and "*" not in rule.scope.domains:
        tests.append(_any([_request_test(":authority", _host(domain)) for domain in rule.scope.domains]))
    return {"and_matcher": {"predicate": tests}} if len(tests) > 1 else tests[0] if tests else None


def _host(domain: str) -> Json:
    # A port may follow the host.
    kind, value = ("contains", domain[1:]) if domain.startswith("*.") else ("prefix", domain)
    return {kind: value, "ignore_case": True}


def _any(predicates: list[Json]) -> Json:
    return {"or_matcher": {"predicate": predicates}} if len(predicates) > 1 else predicates[0]


def _request_test(header: str, test: Json) -> Json:
    read = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=header)
    return _predicate("header", read, test)
