"""`rejoinder explain`: what `explanation` finds, for people and as JSON."""

from __future__ import annotations

import argparse
import dataclasses

from rejoinder import envoy
from rejoinder.cli import console, placement
from rejoinder.cli.explanation import Explanation, Question, all_headers, as_json, explain, refused, size
from rejoinder.cli.sources import loaded_from
from rejoinder.rules.request import UPSTREAM, RequestError
from rejoinder.xds.translate import Placement

_SHOWN_BODY = 200
"""How much of a body a terminal shows, in characters; JSON has all of it."""
_SERVE = " (as with `up`; with `serve`, ext_proc, unless it has --conditional module)"


def run(options: argparse.Namespace) -> int:
    loaded = loaded_from(options.sources, options)
    console.print_problems(problem for problem in loaded.problems if loaded.ruleset is None)
    if loaded.ruleset is None:
        return 1
    if options.status is None and (options.response_header or options.source != UPSTREAM):
        return console.fail("--response-header and --source are about a response: say its --status")
    question = Question(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Question)})
    try:
        explanation = explain(loaded.ruleset, question, _placement(options.conditional))
    except RequestError as error:
        console.say(refused(error, loaded.ruleset, _placement(options.conditional)))
        return 0
    if options.format == "json":
        console.print_json(as_json(explanation))
    else:
        by_default = explanation.placement == Placement.MODULE.value and not options.conditional
        _print(explanation, question, _SERVE if by_default else "")
    return 0


def _placement(asked: str | None) -> Placement:
    """As `up` would choose."""
    if asked is not None:
        return Placement(asked)
    try:
        return placement.choose(None, envoy.find().path)[0]
    except envoy.EnvoyNotFoundError:
        return Placement.EXT_PROC


def _print(explanation: Explanation, question: Question, otherwise: str) -> None:
    out, request = console.out, explanation.decision.request
    asked = f"{request.method} {request.scheme}://{request.authority}{request.target}"
    says = "upstream" if question.source == UPSTREAM else "Envoy itself"
    out(("request   ", "bold"), asked, f", {says} says {question.status}" if question.status else "")
    for step in explanation.steps:
        where = f" ({step.at})" if step.at else ""
        label = (f"{step.kind:<10}", "bold" if step.decides else "dim")
        out(label, (f"{step.name}{where}: {step.verdict}", "" if step.decides else "dim"))
    reply, statuses = explanation.reply, explanation.statuses
    if explanation.handler or not statuses:
        theirs = f"what {explanation.handler} makes" if explanation.handler else "what the upstream sends"
        sent = f"{reply.status}, {size(reply)}" if reply else theirs
        out(("placement ", "bold"), explanation.placement, otherwise)
        out(("sent      ", "bold"), sent, "; if that is nothing:" if statuses else "")
    if statuses:
        rows = (("upstream says", "rule", "client gets"), *statuses)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
            out((line, "bold" if row is rows[0] else ""))
    for name, value in all_headers(reply) if reply else ():
        out(f"          {name}: {value}")
    if reply and reply.body:
        body = reply.body.decode("utf-8", "backslashreplace")
        out()
        out(body[:_SHOWN_BODY], " ..." if len(body) > _SHOWN_BODY else "")
