"""`rules`: a list of scopes (`match`, `unless`), each with one answer or with several in a list of its own."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rejoinder.rules.document import quoted
from rejoinder.rules.fields import Fields, Mention, Place
from rejoinder.rules.matching import network
from rejoinder.rules.model import EVERY_SCOPE, Answer, Rule, Scope, StatusPattern
from rejoinder.rules.request import LOCAL, UPSTREAM
from rejoinder.rules.rule_file import answers, matches
from rejoinder.rules.rule_file.values import NAME, as_list, distinct, name, named
from rejoinder.rules.shape import BOOLEAN, TEXT, Shape, Table, choice, listed, one_or_more

_SCOPE: Final = Shape(
    "scope",
    {
        "domains": (matches.DOMAINS, "One or a list: example.com, *.example.com or *."),
        "routes": (one_or_more(TEXT), "Names of routes, one or a list."),
        **matches.REQUEST_FIELDS,
        "clients": (one_or_more(TEXT), "The client's address is one of these, or in one of these networks."),
        "response_headers": (
            matches.HEADER_TESTS,
            "Every header of the response that is named here; with enable_on_status.",
        ),
    },
    one_of=(matches.PATH_KINDS,),
)
RULE_ONLY_FIELDS: Final[Table] = {
    "name": (NAME, "Unique."),
    "match": (_SCOPE, "Which requests it is about: all that is given must fit (default: every request)."),
    "unless": (_SCOPE, "It is not about what fits these."),
    "source": (choice(UPSTREAM, LOCAL, "any"), "Who made the status that it is about; local: Envoy itself."),
    "rules": (listed(answers.ANSWER, 1), "Several answers for this scope, instead of one."),
    "final": (BOOLEAN, "true: no later rule is asked about a request that fits this one."),
    "observe": (BOOLEAN, "true: a trial, which is counted and marked in logs, and does nothing."),
}
"""The fields that a rule has and an answer does not have."""
_RULE: Final = Shape(
    "rule",
    {**RULE_ONLY_FIELDS, **answers.ANSWER_FIELDS},
    some_of=((*answers.ANSWER_FIELDS, "rules"),),
    hints={
        "location": 'it is a header: write headers: ["Location=https://example.com"]',
        "redirect": 'routes have it: in a rule, write status_code: 302 and headers: ["Location=https://example.com"]',
        "respond": "routes have it: what stands in it are the fields of a rule itself",
        "upstream": "routes have it",
        **dict.fromkeys(("path", "prefix", "domains"), "it belongs into match"),
        **dict.fromkeys(("clients", "response_headers"), "it belongs into match or unless"),
    },
    **answers.SCOPE_TOGETHER,
)
RULES: Final = listed(_RULE)


def rules(place: Place) -> tuple[Rule, ...]:
    """`rules`: a list of scopes, each with one or more answers."""
    return as_list(place).each(_rule)


def _rule(place: Place) -> Rule:
    default_name = next_rule_name(place)
    place = named(place, "rule", default_name)
    fields = place.fields(_RULE)
    rule = Rule(
        name=fields.get("name", name, default_name),
        answers=scope_answers(fields),
        scope=fields.get("match", _scope, EVERY_SCOPE),
        final=fields.get("final", Place.boolean, False),
        unless=fields.get("unless", _unless, None),
        observe=fields.get("observe", Place.boolean, False),
        source=fields.get("source", _source, ""),
        position=place.position,
    )
    if rule.unconditional:
        _refuse_about_responses(fields, rule)
        if rule.answers[0].passes:  # such a rule only ends the search
            rule = replace(rule, answers=(), final=True)
    if rule.observe and all(answer.passes for answer in rule.answers):
        fields["observe"].warn("has no effect: a rule that passes has nothing to observe")
    return rule


def _unless(place: Place) -> Scope:
    scope = _scope(place)
    if scope == EVERY_SCOPE:
        place.error("fits every request, so the rule would never decide: say what it is not about")
    return scope


def _source(place: Place) -> str:
    source = place.choice(UPSTREAM, LOCAL, "any")
    return "" if source == "any" else source


def _refuse_about_responses(fields: Fields, rule: Rule) -> None:
    """Note tests of a response in an unconditional rule, which is asked before there is a response."""
    if rule.source:
        fields["source"].error(f"source {answers.NEEDS_STATUS}")
    for field, scope in (("match", rule.scope), ("unless", rule.unless)):
        if scope and scope.response_headers:
            fields[field].error(f"response_headers {answers.NEEDS_STATUS}")


def next_rule_name(place: Place) -> str:
    """The name of an unnamed rule: its number within its file. Call this once for every rule, in their order."""
    place.source.rules += 1
    return default_rule_name(place.source.prefix, place.source.rules)


def default_rule_name(prefix: str, number: int) -> str:
    """The name of the unnamed rule with this number in its file, counted from 1."""
    return f"{prefix}rule-{number}"


def _scope(place: Place) -> Scope:
    fields = place.fields(_SCOPE)
    return Scope(
        domains=fields.get("domains", matches.domains, ()),
        routes=fields.get("routes", route_names, None),
        request=matches.request_match(fields),
        clients=fields.get("clients", lambda it: distinct(it.one_or_more(_network)), ()),
        response_headers=fields.get("response_headers", matches.header_matches, ()),
    )


def _network(place: Place) -> str:
    text = place.string()
    try:
        return str(network(text))
    except ValueError as error:
        if "host bits" in str(error):
            wanted = str(ipaddress.ip_network(text, strict=False))
            raise place.mistake(f"{quoted(text)} has bits behind its prefix: write {quoted(wanted)}") from None
        raise place.expected('an address such as "203.0.113.7", or a network such as "203.0.113.0/24"') from None


def route_names(place: Place) -> tuple[str, ...]:
    """Names of routes, one or a list. `load` checks that they exist once all files are read."""

    def one(item: Place) -> str:
        route = item.string()
        item.source.routes.append(Mention(item, route))
        return route

    return distinct(place.one_or_more(one))


def scope_answers(fields: Fields, *, plug_in: bool = False) -> tuple[Answer, ...]:
    """The answers of one scope: its own fields are one answer, or `rules` is a list of them.

    Args:
        fields: of the scope.
        plug_in: a form of the plug-in, where the default of `status_code` is 200. In a rule, the default of a
            conditional answer is the upstream's status.
    """
    if "rules" in fields:
        return fields["rules"].attempt(functools.partial(_answers_of_one_scope, plug_in=plug_in), ())
    conditional = "enable_on_status" in fields and not plug_in
    return _checked([(fields.place, answers.answer_of(fields, None if conditional else answers.OK))])


def _answers_of_one_scope(place: Place, plug_in: bool) -> tuple[Answer, ...]:
    """A list of answers for one scope; no status may be claimed twice."""
    items = place.items()
    if not items:
        raise place.expected("at least one answer")
    conditional = any(item.has("enable_on_status") for item in items) and not plug_in
    shape = answers.PLUG_IN_ANSWER if plug_in else answers.ANSWER
    one = functools.partial(answers.answer, default=None if conditional else answers.OK, shape=shape)
    return _checked([(item, answer) for item in items if (answer := item.attempt(one, None)) is not None])


# Checks that need all answers of a scope.
def _checked(given: Sequence[tuple[Place, Answer]]) -> tuple[Answer, ...]:
    unconditional = not any(place.has("enable_on_status") for place, _ in given)  # also where it is wrong
    claimed: dict[StatusPattern, int] = {}
    default: Place | None = None
    for place, answer in given:
        for pattern in answer.enable_on_status:
            if pattern in claimed:
                message = f"{pattern} is claimed twice in this scope, first in line {claimed[pattern]}"
                place.field("enable_on_status").error(message)
            claimed.setdefault(pattern, place.field("enable_on_status").node.line)
        if unconditional:
            answers.refuse_original(place, answer)
            if answer.keep_headers:
                place.field("keep_headers").error(answers.NEEDS_STATUS)
        if not answer.enable_on_status:
            if default is not None:
                line = default.node.line
                place.warn(f"is never given: the answer without enable_on_status in line {line} comes first")
            default = default or place
    return tuple(answer for _, answer in given)
