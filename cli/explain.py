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
    out, request = console.out, explanation.request
    asked = f"{request.method} {request.scheme}://{request.authority}{request.target}"
    says = "upstream" if question.source == UPSTREAM else "Envoy itself"
    out(("request   ", "bold"), asked, f", {says} says {question.status}" if question.status else "")
    for step in explanation.steps:
        where = f" ({step.at})" if step.at else ""
        label = (f"{step.kind:<10}", "bold" if step.decides else "dim")
        out(label, (f"{step.name}{where}: {step.verdict}", "" if step.decides else "dim"))
    if explanation.handler and explanation.statuses:
        out(("placement ", "bold"), explanation.placement, otherwise)
        out(("sent      ", "bold"), f"what {explanation.handler} makes; if that is nothing:")
    if explanation.statuses:
        rows = (("upstream says", "rule", "client gets"), *explanation.statuses)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
            out((line, "bold" if row is rows[0] else ""))
        return
    out(("placement ", "bold"), explanation.placement, otherwise)
    if explanation.reply is None:
        sender = explanation.handler or "the upstream"
        out(("sent      ", "bold"), f"what {sender} {'makes' if explanation.handler else 'sends'}")
        return
    out(("sent      ", "bold"), f"{explanation.reply.status}, {size(explanation.reply)}")
    for name, value in all_headers(explanation.reply):
        out(f"          {name}: {value}")
    if explanation.reply.body:
        body = explanation.reply.body.decode("utf-8", "backslashreplace")
        out()
        out(body[:_SHOWN_BODY], " ..." if len(body) > _SHOWN_BODY else "")
