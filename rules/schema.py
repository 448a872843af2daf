"""The rule file's `Shape`s as one JSON Schema, for editors.

In: nothing. Out: a document that `json` can write. It describes fields and the form of values. Checks that need
other files, or other parts of the file, are made by `rejoinder check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rejoinder.rules.load import RULE_FILE
from rejoinder.rules.shape import Shape, any_of

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NOTHING: Final = {"type": "null"}


def schema() -> dict[str, Any]:
    """The JSON Schema of a rule file."""
    known: dict[str, Any] = {}
    root = _plain(RULE_FILE, known)
    return {"$schema": DIALECT, "title": "Rejoinder rule file", **root, "$defs": dict(sorted(known.items()))}


def _plain(value: Any, known: dict[str, Any]) -> Any:
    """A schema in which each shape is replaced by a reference to an entry in `known`."""
    if isinstance(value, Shape):
        if value.name not in known:
            known[value.name] = _object(value, known)
        return {"$ref": f"#/$defs/{value.name}"}
    if isinstance(value, Mapping):
        return {name: _plain(inner, known) for name, inner in value.items()}
    return [_plain(inner, known) for inner in value] if isinstance(value, (list, tuple)) else value


def _object(shape: Shape, known: dict[str, Any]) -> dict[str, Any]:
    groups = [(name, others) for name, (_, others) in shape.alone.items()]
    groups += [(name, group) for group in shape.one_of for name in group]
    apart: dict[str, set[str]] = {name: set() for name, _ in groups if name in shape.fields}
    for name, others in groups:
        apart.get(name, set()).update(shape.fields.keys() & set(others) - {name})
    together = {
        "required": list(shape.required),
        "dependentRequired": {name: [other] for name, other in shape.needs.items()},
        "dependentSchemas": {name: _without(others, name in shape.sections, name) for name, others in apart.items()},
        "allOf": [{"anyOf": [{"required": [name]} for name in group]} for group in shape.some_of],
    }
    return {
        "type": "object",
        "properties": {
            name: {**_plain(any_of(value, _NOTHING) if name in shape.sections else value, known), "description": text}
            for name, (value, text) in shape.fields.items()
        },
        "additionalProperties": False,
        **{name: value for name, value in together.items() if value},
    }


def _without(others: set[str], may_be_empty: bool, name: str) -> dict[str, Any]:
    """That none of these fields is given."""
    none = {"properties": dict.fromkeys(sorted(others), False)}
    return {"anyOf": [{"properties": {name: _NOTHING}}, none]} if may_be_empty else none
