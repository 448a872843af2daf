"""Which route and rule decide about a request, where the answer is given, and what is sent. Pure.

`explain` is the way in, for the command and for the console in the browser; `as_json` gives the result to programs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import SplitResult

from rejoinder.rules.answers import Asked, Reply, as_sent, claims, local_response
from rejoinder.rules.decide import NO_ROUTE_STATUS, Decision, decide
from rejoinder.rules.document import quoted
from rejoinder.rules.http import GRPC_STATUSES
from rejoinder.rules.misfit import misfit, rule_misfit
from rejoinder.rules.model import STATUSES, Answer, Forward, Route, Rule, Ruleset, Scope, native_rules
from rejoinder.rules.program import Program, compile_rules
from rejoinder.rules.remote import asks, stays
from rejoinder.rules.request import LOCAL, MADE_UP, UPSTREAM, Request, RequestError, Response, now, parse
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.early_errors import EARLY, early_answer

_SHOWN_RULES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A request, and what becomes of it; the fields are the options of the command."""

    url: SplitResult
    method: str = "GET"
    header: Sequence[tuple[str, str]] = ()
    route: str | None = None
    """The route, in an Envoy with routes of its own, empty if none fits there; None: the routes are ours."""
    client: str = ""
    status: int | None = None
    """The status of the upstream's response; None: explain every status."""
    response_header: Sequence[tuple[str, str]] = ()
    source: str = UPSTREAM


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One step on the way to the decision."""

    kind: str
    name: str
    at: str
    """Where it stands in the files; empty: nowhere."""
    verdict: str
    decides: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    steps: tuple[Step, ...]
    placement: str
    """Where the response is made: native, ext_proc, module or upstream."""
    rule: str | None = None
    reply: Reply | None = None
    """What is sent; None: the upstream's response passes, or a handler is asked."""
    statuses: tuple[tuple[str, str, str], ...] = ()
    """Where no status was given: statuses, rule, what is sent."""
    handler: str = ""
    """The Python function that makes the response; empty: there is none."""


def explain(ruleset: Ruleset, question: Question, conditional: Placement) -> Explanation:
    """What happens to a request, and why. Pure.

    Args:
        conditional: where the answers to an upstream's status are given.

    Raises:
        RequestError: Envoy would refuse the request.
    """
    request = _request(question)
    there = ruleset if question.route is not None else _at_listener(ruleset, request, question.url)
    response, headers = None, tuple(question.response_header)
    if question.status is not None:
        made_here = question.source == LOCAL
        response = (
            local_response(question.status, request, headers) if made_here else Response(question.status, headers)
        )
    explanation = _explain(there, request, response, conditional.value, question.route)
    return dataclasses.replace(
        explanation,
        steps=(*_changed(question, request, response), *explanation.steps),
        reply=explanation.reply and as_sent(explanation.reply, request),
    )


def refused(error: RequestError, ruleset: Ruleset, conditional: Placement) -> str:
    """What becomes of a request that Envoy refuses."""
    refusal = f"Envoy refuses the request with {error.status}: {error}"
    if error.status not in EARLY:
        return f"{refusal}; rules are asked about that: add --status {error.status} --source local, and leave out why"
    choice = None if error.final else early_answer(compile_rules(ruleset.rules), error.status)
    if choice is None or not (conditional is Placement.MODULE or choice.answer.fixed):
        return f"{refusal}; no rule answers in its place"
    return f"{refusal}; rule {choice.rule}, which is about every request, answers in its place"


def _request(question: Question) -> Request:
    url = question.url
    headers = tuple((name, value) for name, value in question.header if name.lower() != "host")
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    parsed = parse(question.method, ",".join(_sent("host", question)), target, headers, scheme=url.scheme)
    return dataclasses.replace(parsed, client=question.client)


def _sent(name: str, question: Question) -> list[str]:
    """The values of a header that the client sends."""
    values = [value for other, value in question.header if other.lower() == name]
    return values or ([question.url.netloc] if name == "host" else [])


def _changed(question: Question, request: Request, response: Response | None) -> Iterator[Step]:
    """What Envoy changes before any rule is asked: headers of the request, and a response of its own."""
    for name in dict.fromkeys(["host", *(name.lower() for name, _ in question.header)]):
        seen = request.header(name)
        if seen != _sent(name, question):
            such = "such as " if name in MADE_UP else ""
            verdict = f"Envoy makes it {such}{quoted(', '.join(seen))}" if seen else "Envoy removes it"
            yield Step("header", name, "", verdict, False)
    if response and response.status != question.status:
        told = dict(response.headers)["grpc-status"]
        verdict = f"to a client that speaks gRPC, Envoy says it by status {response.status} and grpc-status {told}"
        yield Step("response", str(question.status), "", verdict)


def _at_listener(ruleset: Ruleset, request: Request, url: SplitResult) -> Ruleset:
    """What is in force at the URL's listener: each port of a Gateway has routes of its own.

    The URL's port may be mapped to the port of a listener; then the first group of listeners that has a route counts.
    """
    groups = [ruleset.of_group(group) for group in ruleset.groups]
    port = url.port or (443 if request.scheme == "https" else 80)
    there = [group for group in groups if any(listener.port == port for listener in group.listeners)] or groups
    return next((group for group in there if decide(group, request).route), there[0])


def _explain(
    ruleset: Ruleset, request: Request, response: Response | None, conditional: str, route_name: str | None
) -> Explanation:
    ours = route_name is None
    if request.moved and ours:
        reply = Reply(400, (), b"") if request.is_grpc else Reply(307, (("location", request.target),), b"")
        does = "refuses it, for gRPC knows no redirects" if request.is_grpc else "redirects to the plain path"
        step = Step("path", request.target, "", f"escaped slashes: Envoy {does}")
        return Explanation(decide(Ruleset(), request), (step,), "native", reply=reply)
    decision = decide(ruleset, request, route_name=route_name)
    program, route = compile_rules(ruleset.rules), route_name or (decision.route.name if decision.route else None)
    nowhere = ours and (decision.route is None or decision.route.action is None)
    if nowhere and response is None and not decision.reply:
        response = local_response(NO_ROUTE_STATUS, request)
    routes, rules = _route_steps(ruleset, decision, route_name), _rule_steps(ruleset, decision, response)
    steps = (*routes, *rules, _program_step(program, request, route))
    if decision.rule and (handler := decision.rule.answers[0].handler):
        then = tuple(_statuses(decision, conditional)) if response is None and not nowhere else ()
        return Explanation(decision, steps, conditional, decision.rule.name, None, then, handler)
    if decision.reply:
        rule = decision.rule
        steps = (*steps, *(_page_step(rule.answers[0], Asked(request, route)) if rule else ()))
        native = ours and (rule is None or rule in native_rules(ruleset.rules))
        name = rule.name if rule else None
        return Explanation(decision, steps, "native" if native else conditional, name, decision.reply)
    if response is None:
        return Explanation(decision, steps, "upstream", statuses=tuple(_statuses(decision, conditional)))
    choice = program.on_status(request, route, response)
    if choice and choice.answer.handler:
        return Explanation(decision, steps, conditional, choice.rule, handler=choice.answer.handler)
    if choice:
        asked = Asked(request, route, response, now())
        steps = (*steps, *_lost_headers(decision.route), *_page_step(choice.answer, asked))
        left = stays(choice.answer, response.status, asked)
        if not left or asks(choice.answer, response.status, asked):
            sent = None if left else choice.reply(response.status, asked)
            return Explanation(decision, steps, conditional, choice.rule, sent)
    if nowhere:
        return Explanation(decision, steps, "native", reply=Reply(NO_ROUTE_STATUS, (), b""))
    return Explanation(decision, steps, "upstream")


def _page_step(answer: Answer, asked: Asked) -> Iterator[Step]:
    status, remote = asked.response.status if asked.response else NO_ROUTE_STATUS, answer.remote
    least = "the response stays" if stays(answer, status, asked) else "this is sent"
    if remote and asked.request.is_grpc:
        yield Step("page", remote.upstream, "", f"none for a client that speaks gRPC: {least}")
    elif remote and asks(answer, status, asked):
        verdict = f"upstream {quoted(remote.upstream)} is asked; if none comes within {remote.timeout:g} s, {least}"
        yield Step("page", remote.upstream, "", verdict)


def _route_steps(ruleset: Ruleset, decision: Decision, foreign: str | None) -> Iterator[Step]:
    if foreign is not None:
        does = "takes the request" if foreign else "no route fits"
        yield Step("route", foreign or "none", "", f"{does}, in an Envoy with routes of its own")
        return
    for route in ruleset.routes:
        reason = misfit(Scope(domains=route.domains, request=route.request), decision.request, None)
        verdict = f"does not fit: {reason}" if reason else f"takes the request: {action_in_words(route)}"
        yield Step("route", route.title or route.name, str(route.position), verdict, route is decision.route)
        if route is decision.route:
            return
    yield Step("route", "none", "", "no route fits: Envoy's own 404")


def _lost_headers(route: Route | None) -> Iterator[Step]:
    if route and route.response_headers:
        verdict = "its changes to response headers are about the upstream's response, which this answer replaces"
        yield Step("headers", route.title or route.name, str(route.position), verdict, False)


def action_in_words(route: Route) -> str:
    if route.action is None:
        return "Envoy's own 404"
    if not isinstance(route.action, Forward):
        return "answer"
    return f"forward to upstream {' or '.join(map(quoted, route.action.upstreams))}"


def _program_step(program: Program, request: Request, route: str | None) -> Step:
    """Which rules the program finds: only these are tested, not all rules."""
    rules = program.found(request, route)
    names = f": {', '.join(rule.name for rule in rules[:_SHOWN_RULES])}" if rules else ""
    more = ", ..." if len(rules) > _SHOWN_RULES else ""
    verdict = f"finds {len(rules)} of {len(program.rules)} by domain, path and route{names}{more}"
    return Step("program", "rules", "", verdict, False)


def _rule_steps(ruleset: Ruleset, decision: Decision, response: Response | None) -> Iterator[Step]:
    request, route = decision.request, decision.route_name
    for rule in ruleset.rules:
        seen = None if rule is decision.rule or (rule.answers and rule.unconditional) else response
        reason = rule_misfit(rule, request, route, seen)
        waits = reason is not None and rule.sees_responses and seen is None and not decision.reply
        if reason and not waits:
            yield Step("rule", rule.name, str(rule.position), f"does not fit: {reason}", False)
            continue
        verdict, ends = _verdict(rule, decision, response)
        yield Step("rule", rule.name, str(rule.position), verdict)
        if ends:
            return


def _verdict(rule: Rule, decision: Decision, response: Response | None) -> tuple[str, bool]:
    """What becomes of a rule that fits, and whether that ends the search."""
    if rule.observe:
        return f"fits, and {_trial(rule, decision, response)}; it only observes: the search goes on", False
    last = "; it is final: no later rule is asked" if rule.final and not decision.reply else ""
    if rule is decision.rule and not decision.reply:
        return f"fits, and its handler is asked; if that makes nothing, the search goes on{last}", rule.final
    if rule is decision.rule:
        return "fits and answers at once", True
    if not rule.answers:
        return "fits, and ends the search: the response is left alone", True
    if rule.unconditional:
        return "fits, but is not asked any more", rule.final
    if decision.reply:
        return "fits, but is about the upstream's status: the upstream is not asked", rule.final
    if response is None:
        if rule.sees_responses:
            return "is asked when the response is known", False
        return f"fits, and is asked when the status is known{last}", rule.final
    answer = claims(rule).answer(response.status)
    if answer is None:
        return f"fits, but has no answer for {response.status}{last}", rule.final
    if answer.passes:
        return f"fits, and leaves {response.status} alone: no later rule is asked", True
    return f"fits, and has an answer for {response.status}", True


def _trial(rule: Rule, decision: Decision, response: Response | None) -> str:
    """What becomes of a rule that only observes."""
    if rule.unconditional:
        return "would answer at once"
    if decision.reply:
        return "is about the upstream's status, which is not asked"
    if response is None:
        return "is asked when the status is known"
    answer = claims(rule).answer(response.status)
    return f"would {'leave' if answer is None or answer.passes else 'answer'} {response.status}"


def _statuses(decision: Decision, conditional: str) -> Iterator[tuple[str, str, str]]:
    """The outcome for each status; neighbours with the same outcome are one row."""
    for outcome, group in itertools.groupby(STATUSES, lambda status: _outcome(decision, conditional, status)):
        first, *others = group
        yield (f"{first}-{others[-1]}" if others else str(first), *outcome)


def _outcome(decision: Decision, conditional: str, status: int) -> tuple[str, str]:
    """Which rule answers to a status, and what is sent."""
    choice = decision.choose(status)
    if not choice:
        return "-", "the upstream's response"
    if choice.answer.handler:
        return choice.rule, f"what {choice.answer.handler} makes ({conditional})"
    asked = Asked(decision.request, decision.route_name, Response(status))
    reply = as_sent(choice.reply(status, asked), decision.request)
    remote, left = asks(choice.answer, status, asked), stays(choice.answer, status, asked)
    sent = "the upstream's response" if left else size(reply)
    if remote:
        sent = f"the page of {remote.upstream}, or {sent}"
    elif left:
        return choice.rule, sent
    same = reply.grpc is None and choice.answer.status_code is None
    return choice.rule, f"{'the same status' if same else reply.status}, {sent} ({conditional})"


def size(reply: Reply) -> str:
    """What is in it, in words."""
    if reply.grpc is not None:
        return f"gRPC status {reply.grpc}, {GRPC_STATUSES[reply.grpc]}"
    return f"{len(reply.body)} bytes" if reply.body else "no body"


def all_headers(reply: Reply) -> list[tuple[str, str]]:
    return [*reply.headers, *([("content-length", str(len(reply.body)))] if reply.grpc is None else [])]


def as_json(explanation: Explanation) -> dict[str, Any]:
    route, reply = explanation.decision.route, explanation.reply
    return {
        "request": {name: getattr(explanation.decision.request, name) for name in ("method", "host", "path", "query")},
        "route": route.name if route else None,
        "object": (route.title or None) if route else None,
        "rule": explanation.rule,
        "placement": explanation.placement,
        "handler": explanation.handler or None,
        "reply": reply
        and {
            "status": reply.status,
            "grpc": reply.grpc,
            "headers": [[name, value] for name, value in all_headers(reply)],
            "body": reply.body.decode("utf-8", "backslashreplace"),
        },
        "statuses": [dict(zip(("statuses", "rule", "reply"), row, strict=True)) for row in explanation.statuses],
        "steps": [dataclasses.asdict(step) for step in explanation.steps],
    }
