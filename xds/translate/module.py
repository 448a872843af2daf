"""The dynamic module's filter, and what it is told for a route. Pure.

An `AnswerTable` becomes the JSON text that is described in `rejoinder.envoy.module.config`, with its replies made, by
the same function as everywhere: what is left to the module is to look a status up.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
from collections.abc import Iterable
from typing import Any, Final

from rejoinder.rules.answers import BODILESS, AnswerTable, Choice, reply
from rejoinder.rules.model import STATUSES
from rejoinder.xds.translate.settings import Json, typed

NAME: Final = "rejoinder"
"""Of the module: Envoy looks for `librejoinder.so` in ENVOY_DYNAMIC_MODULES_SEARCH_PATH."""

_TYPES: Final = "envoy.extensions.filters.http.dynamic_modules.v3."

_MODULE: Final[Json] = {
    "name": NAME,
    "metrics_namespace": NAME,  # before the names of counters
    # Python's own C extensions look for its symbols in the whole process, and it can be started only once in one.
    "load_globally": True,
    "do_not_close": True,
}


def module_filter() -> Json:
    """The filter's configuration, for a filter chain."""
    return typed(f"{_TYPES}DynamicModuleFilter", dynamic_module_config=_MODULE, filter_name=NAME)


def module_route(table: AnswerTable, route: str) -> Json:
    """What a route says to have its responses answered from a table.

    Args:
        table: not empty.
        route: the name of the rule file's route, for handlers; empty: there is none.
    """
    # Where no handler asks for it, the same table is the same text on every route.
    text = route_config(table, route if table.has_handlers else "")
    return typed(
        f"{_TYPES}DynamicModuleFilterPerRoute",
        dynamic_module_config=_MODULE,
        filter_name=NAME,
        filter_config=typed("google.protobuf.StringValue", value=text),
    )


@functools.lru_cache(maxsize=1 << 14)
def route_config(table: AnswerTable, route: str) -> str:
    """The text itself."""
    replies: list[tuple[Json, list[int] | None]] = []
    statuses: dict[tuple[Choice, int | None], list[int]] = {}
    for status, choice in table.by_status:
        statuses.setdefault(_key(choice, status), []).append(status)
    if table.default:
        # `original` is a reply for each of these of its own, for they have no body.
        for status in BODILESS:
            if not any(status == other for other, _ in table.by_status) and table.default.answer.status_code is None:
                statuses.setdefault(_key(table.default, status), []).append(status)
        replies.append((_reply(table.default, None), None))
    replies = [(_reply(choice, status), claimed) for (choice, status), claimed in statuses.items()] + replies
    return json.dumps(
        {
            **({"route": route} if route else {}),
            "replies": [
                {**each, **({} if claimed is None else {"statuses": _ranges(claimed)})} for each, claimed in replies
            ],
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _key(choice: Choice, status: int) -> tuple[Choice, int | None]:
    """Statuses with the same key get the same reply; in it, the status that the reply depends on."""
    return choice, status if choice.answer.status_code is None and status in BODILESS else None


def _reply(choice: Choice, status: int | None) -> Json:
    if choice.answer.handler:
        return {"rule": choice.rule, "handler": choice.answer.handler}
    made = reply(choice.answer, STATUSES.start if status is None else status)
    original = choice.answer.status_code is None and status is None
    return {
        "rule": choice.rule,
        **({} if original else {"status": made.status}),
        **({"headers": made.headers} if made.headers else {}),
        **_body(made.body),
    }


def _body(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _ranges(statuses: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of statuses, each by its first and last.

    >>> _ranges([500, 501, 502, 504])
    [(500, 502), (504, 504)]
    """
    runs = itertools.groupby(enumerate(sorted(statuses)), key=lambda pair: pair[1] - pair[0])
    return [(run[0], run[-1]) for run in ([status for _, status in group] for _, group in runs)]
