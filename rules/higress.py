"""The custom-response plug-in's own configurations (Alibaba MSE, Higress), read as rules.

In: the fields of a document (see `fields`), which may hold a rule file's sections too. Out: `Rule`s.
The readers raise `FieldError`, as all readers do.

The plug-in has one configuration per request: that of the first entry of `_rules_` that fits, else the one at the top
level; they are never mixed. So an entry of `_rules_` is a `final` rule, the entries of its `rules` are the answers of
that rule, and the top level is the last rule, for every request.
"""

from __future__ import annotations

from typing import Final

from rejoinder.rules.document import List
from rejoinder.rules.fields import Fields, Place
from rejoinder.rules.model import Rule, Scope
from rejoinder.rules.rule_file.answers import OUR_FIELDS, PLUG_IN_ANSWER, PLUG_IN_FIELDS, SCOPE_TOGETHER
from rejoinder.rules.rule_file.matches import DOMAINS, domains
from rejoinder.rules.rule_file.rules import RULE_ONLY_FIELDS, next_rule_name, route_names, scope_answers
from rejoinder.rules.shape import TEXT, Shape, Table, listed, one_or_more

_SCOPES: Final[Table] = {
    "_match_route_": (one_or_more(TEXT), "Names of routes, one or a list."),
    "_match_domain_": (DOMAINS, "Domains, one or a list."),
}
_CONFIGURATION: Final[Table] = {
    "rules": (listed(PLUG_IN_ANSWER, 1), "Several answers, instead of one."),
    **PLUG_IN_FIELDS,
}
CONFIGURATION: Final = Shape("configuration", _CONFIGURATION, some_of=(tuple(_CONFIGURATION),), **SCOPE_TOGETHER)
_SCOPED: Final = Shape(
    "scoped-configuration",
    {**_SCOPES, **_CONFIGURATION},
    some_of=(tuple(_SCOPES), tuple(_CONFIGURATION)),
    **{**SCOPE_TOGETHER, "one_of": (tuple(_SCOPES), *SCOPE_TOGETHER["one_of"])},
)
SCOPED: Final = (listed(_SCOPED), "The custom-response plug-in's own form: configurations for routes or domains.")
"""The field `_rules_`."""
WHOLE: Final = Shape("plug-in", {"_rules_": SCOPED, **_CONFIGURATION}, **SCOPE_TOGETHER)
"""Everything, as a WasmPlugin has it."""


def scoped_rules(fields: Fields) -> tuple[Rule, ...]:
    """The rules of `_rules_`, in order."""
    return fields.get("_rules_", lambda place: place.each(_scoped_rule), ())


def has_top_level_rule(fields: Fields) -> bool:
    """Whether a document's top level is a configuration of the plug-in: an answer, or answers in `rules`.

    `rules` are the plug-in's if every entry has nothing but the fields of an answer; a rule file's own rules then would
    be rules for every request, of which only the first could ever decide.
    """
    if "rules" not in fields:
        return any(field in fields for field in PLUG_IN_FIELDS)
    node = fields["rules"].node
    entries = fields["rules"].items() if isinstance(node, List) else []
    return bool(entries) and not any(entry.has(*RULE_ONLY_FIELDS, *OUR_FIELDS) for entry in entries)


def top_level_rule(fields: Fields, *, beside_sections: bool = False) -> Rule:
    """The configuration of a document's top level: one rule, for every request; `beside_sections`: in a rule file of
    ours, whose author may not know that this is the plug-in's form."""
    if beside_sections:
        for entry in fields["rules"].items() if "rules" in fields else [fields.place]:
            if entry.has("enable_on_status") and not entry.has("status_code", "handler"):
                entry.warn(
                    "status_code is 200 where it is left out, for rules of which none has a name or a match are the "
                    "plug-in's form: say original to keep the upstream's status, or give the rule a name"
                )
    return _named(fields.place, Scope(), fields)


def _scoped_rule(place: Place) -> Rule:
    fields = place.fields(_SCOPED)
    scope = Scope(
        domains=fields.get("_match_domain_", domains, ()),
        routes=fields.get("_match_route_", route_names, None),
    )
    return _named(place, scope, fields)


def _named(place: Place, scope: Scope, fields: Fields) -> Rule:
    name = next_rule_name(place)
    return Rule(name, scope_answers(fields, plug_in=True), scope, final=True, position=place.position)
