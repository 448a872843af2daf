"""Answers for requests that Envoy rejects before any filter sees them, in Envoys of ours: `local_reply_config`. Pure.

The module sees such responses; ext_proc must not hold them, because Envoy closes the connection with them. So where
ext_proc answers, the connection manager has the answers of rules about every request, if they are fixed.
"""

from __future__ import annotations

from typing import Final

from rejoinder.rules.answers import Choice, claims
from rejoinder.rules.attributes import CODE_DETAILS, FINAL_DETAILS
from rejoinder.rules.model import EVERY_SCOPE, STATUSES
from rejoinder.rules.names import DETAILS
from rejoinder.rules.program import Program
from rejoinder.rules.request import LOCAL
from rejoinder.xds.translate.ext_proc import REFUSALS
from rejoinder.xds.translate.logs import cel
from rejoinder.xds.translate.routes import data_source, headers_to_add
from rejoinder.xds.translate.settings import Json

EARLY: Final = frozenset({400, 408, 413, 426, 431})
"""The statuses of such responses. (501, for an unknown transfer-encoding, would be one too; but with it, each edit of a
rule on 5xx would change listeners.)"""


def local_reply_config(program: Program) -> Json:
    """The `local_reply_config` of a connection manager; empty: none."""
    statuses: dict[Choice, list[int]] = {}
    # If a response gets one of these statuses, ext_proc is asked about it, and holds it.
    held = (set(STATUSES) if program.has_handlers else program.statuses) - REFUSALS
    for status in sorted(EARLY & program.statuses):
        choice = early_answer(program, status)
        if choice and choice.answer.fixed and choice.answer.status_code not in held:
            statuses.setdefault(choice, []).append(status)
    return {"mappers": [_mapper(*answered) for answered in statuses.items()]} if statuses else {}


def early_answer(program: Program, status: int) -> Choice | None:
    """The answer to a request of which nothing is known, if Envoy refuses it with this status."""
    for rule in program.rules:
        about_all = rule.scope == EVERY_SCOPE and rule.unless is None and rule.source in ("", LOCAL)
        if about_all and not rule.observe and not rule.unconditional:
            answer = claims(rule).answer(status)
            if answer is not None:
                return None if answer.passes else Choice(rule.name, answer)
            if rule.final:
                return None
    return None


def _mapper(choice: Choice, statuses: list[int]) -> Json:
    reply = choice.reply(statuses[0])
    final = f"{CODE_DETAILS} in {sorted(FINAL_DETAILS)} || {CODE_DETAILS}.startsWith('{DETAILS}')"
    test = cel(choice.rule, f"response.code in {statuses} && !({final})")
    headers = dict(reply.headers)
    text = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%" if reply.body else ""}}
    mapper: Json = {
        "filter": test,
        "headers_to_add": headers_to_add(reply),
        "body_format_override": {**text, "content_type": headers.get("content-type", "")},
    }
    if reply.body:
        mapper["body"] = data_source(reply.body)
    if choice.answer.status_code is not None:
        mapper["status_code"] = reply.status
    return mapper
