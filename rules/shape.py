"""The fields of a rule file: a `Shape` for each mapping, which its reader and `rejoinder schema` share.

In: nothing. Out: values, which are defined beside the readers of `rule_file`. `Place.fields` refuses fields that are
not in the shape, and notes missing fields and fields that exclude each other, so readers need not. Values are described
in JSON Schema (https://json-schema.org/draft/2020-12), made of the expressions that the readers use.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Schema: TypeAlias = "Mapping[str, Any] | Shape"
"""The description of a value. In it, a shape may be used wherever JSON Schema has a schema."""

Table: TypeAlias = Mapping[str, tuple[Schema, str]]
"""Fields by name: the schema of the value, and a description of the field."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a mapping."""

    name: str
    """Its name in the schema; unique."""
    fields: Table
    required: tuple[str, ...] = ()
    some_of: tuple[tuple[str, ...], ...] = ()
    """Of each of these groups at least one is given."""
    one_of: tuple[tuple[str, ...], ...] = ()
    """Of each of these groups at most one is given."""
    alone: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Fields that exclude others: the reason, and the others."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Fields that need another field."""
    sections: tuple[str, ...] = ()
    """Fields that may be empty, which is the same as not given."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """Messages about fields that are likely to be written here by mistake."""


BOOLEAN: Final[Schema] = {"type": "boolean"}
TRUE: Final[Schema] = {"const": True}
TEXT: Final[Schema] = {"type": "string"}
NOT_EMPTY: Final[Schema] = {"type": "string", "minLength": 1}
DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")


def like(*patterns: re.Pattern[str] | str) -> Schema:
    """A text that one of these expressions fits as a whole; they have no flags, and only features of JavaScript."""
    texts = (pattern if isinstance(pattern, str) else pattern.pattern for pattern in patterns)
    choices = re.sub(r"\(\?P<\w+>", "(", "|".join(texts))
    return {"type": "string", "pattern": f"^(?:{choices})$"}


def choice(*values: str | int) -> Schema:
    """One of these."""
    return {"enum": values}


def integer(allowed: range) -> Schema:
    """A number within a range."""
    return {"type": "integer", "minimum": allowed.start, "maximum": allowed.stop - 1}


def any_of(*schemas: Schema) -> Schema:
    """A value that fits one of these."""
    nested = [schema["anyOf"] if isinstance(schema, Mapping) and "anyOf" in schema else (schema,) for schema in schemas]
    return {"anyOf": tuple(itertools.chain.from_iterable(nested))}


def listed(item: Schema, least: int = 0) -> Schema:
    """A list."""
    return {"type": "array", "items": item, **({"minItems": least} if least else {})}


def one_or_more(item: Schema) -> Schema:
    """A list that is not empty, or a single value in place of a list of one."""
    return any_of(item, listed(item, 1))


def by_name(name: Schema, value: Schema) -> Schema:
    """A mapping whose keys are up to the user."""
    return {"type": "object", "propertyNames": name, "additionalProperties": value}
