"""The content of an answer: `body`, `body_file`, `variants`, `template`; and `branding`, of the built-in page."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rejoinder.rules.answers import templates
from rejoinder.rules.document import List, Map, Scalar, ScalarKind, describe, quoted
from rejoinder.rules.fields import Fields, Place, Reader, content_beside, text_that
from rejoinder.rules.http import TOKEN
from rejoinder.rules.model import Answer, Header, Position, Variant
from rejoinder.rules.page import COLOUR, Branding
from rejoinder.rules.rule_file.values import as_list
from rejoinder.rules.shape import BOOLEAN, TEXT, Shape, like, listed
from rejoinder.rules.template import TemplateError

if TYPE_CHECKING:
    import mimetypes

T = TypeVar("T")

MAX_BODY_SIZE: Final = 1024 * 1024
"""In bytes. Every Envoy gets every body with each change of its configuration, and keeps it in memory. A larger body
is a download and belongs on an upstream. (Envoy's own default for a direct response is 4,096.)"""

_MEDIA_TYPE: Final = re.compile(rf'{TOKEN.pattern}/{TOKEN.pattern}( *; *{TOKEN.pattern}=({TOKEN.pattern}|"[^"]*"))*')
_LANGUAGE: Final = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647, section 2.1
CONTENT: Final = {
    "body": (TEXT, "The text that is sent, at most 1 MiB."),
    "body_file": (TEXT, "Instead of body: a file with it, relative to this one."),
}
TEMPLATE: Final = (BOOLEAN, "true: body and header values have {{ variables }}.")
_VARIANT: Final = Shape(
    "variant",
    {
        "content_type": (like(_MEDIA_TYPE), "Its media type, such as text/html."),
        "language": (like(_LANGUAGE), "Its language, such as de or pt-BR."),
        **CONTENT,
        "template": TEMPLATE,
    },
    some_of=(tuple(CONTENT), ("content_type", "language", "body_file")),
    one_of=(tuple(CONTENT),),
)
VARIANTS: Final = listed(_VARIANT, 1)
BRANDING: Final = Shape(
    "branding",
    {
        "name": (TEXT, "Whose page it is."),
        "logo_file": (TEXT, "An SVG or PNG file, relative to this one."),
        "accent": (like(COLOUR), 'A colour such as "#0077aa", in quotes.'),
        "link": (TEXT, "Where the name or logo leads."),
    },
)

_TEXT_TYPES: Final = re.compile(r"text/.*|application/(json|javascript|xml|.*\+(json|xml))|image/svg\+xml")


def body_of(fields: Fields, template: bool) -> bytes:
    """`body` or `body_file`; empty if neither is given."""
    body = fields.get("body", functools.partial(_body, template=template), b"")
    return body or fields.get("body_file", lambda it: _limited(it, content_beside(it)), b"")


def _body(place: Place, template: bool = False) -> bytes:
    if isinstance(place.node, Map | List):
        raise place.mistake(
            f"expected a string, got {describe(place.node)}: put the text in quotes, as in body: '{{\"a\": 1}}'"
        )
    odd = None if template else re.search(r"\{\{|%[A-Z_]+\(", place.string())
    if odd is not None:
        place.warn(f"{quoted(odd[0])} is sent as it stands: say template: true for {{{{ variables }}}}")
    return _limited(place, place.string().encode())


def _limited(place: Place, body: bytes) -> bytes:
    if len(body) > MAX_BODY_SIZE:
        raise place.mistake(f"a body has at most {MAX_BODY_SIZE:,} bytes, this one has {len(body):,}")
    return body


def check_template(place: Place, answer: Answer, which: str = "") -> None:
    """Note errors in the templates of an answer as mistakes of this place; `which` names the part of the answer."""
    try:
        list(templates(answer))
    except UnicodeDecodeError:
        place.error(f"{which}expected a template in UTF-8")
    except TemplateError as error:
        place.error(f"{which}{error}")


def variants(place: Place, template: bool) -> tuple[Variant, ...]:
    """`variants`; `template` is the value of their answer, which a variant may override."""
    if not as_list(place).items():
        raise place.expected("at least one variant")
    read: dict[tuple[str, str], Variant] = {}
    for item in place.items():
        variant = item.attempt(functools.partial(_variant, template=template), None)
        if variant is not None and read.setdefault((variant.content_type, variant.language), variant) is not variant:
            item.warn("is never sent: a variant before it has the same content_type and language")
    return tuple(read.values())


def _variant(place: Place, template: bool) -> Variant:
    fields = place.fields(_VARIANT)
    content = fields.first("body", "body_file")
    template = fields.get("template", Place.boolean, template)
    media_type = text_that(lambda it: _MEDIA_TYPE.fullmatch(it) and "*" not in it, "a media type such as text/html")
    language = text_that(_LANGUAGE.fullmatch, "a language tag such as de or pt-BR")
    made = Variant(
        content_type=fields.get("content_type", media_type, ""),
        language=fields.get("language", language, ""),
        body=body_of(fields, template),
        template=template,
    )
    if not made.content_type and "body_file" in fields:
        made = replace(made, content_type=dict(type_of_file(fields["body_file"])).get("content-type", ""))
    if template and content:
        check_template(fields[content], Answer(variants=(made,)))
    if "body_file" in fields and not (made.content_type or fields.first("content_type", "language")):
        place.error("expected content_type, language or both: the extension of body_file does not say its type")
    return made


def branding(place: Place) -> tuple[Position, Branding]:
    """`branding` of the built-in page, and its position."""
    fields = place.fields(BRANDING)
    return place.position, Branding(
        name=fields.get("name", Place.string, ""),
        logo=fields.get("logo_file", _as("logo", content_beside), None),
        accent=fields.get("accent", _as("accent", _accent), ""),
        link=fields.get("link", _as("link", Place.string), ""),
    )


# Each field separately, so that every mistake is reported.
def _as(name: str, read: Reader[T]) -> Reader[T]:
    def checked(place: Place) -> T:
        value = read(place)
        given: dict[str, Any] = {name: value}
        try:
            Branding(**given)
        except ValueError as error:
            raise place.mistake(str(error).removeprefix(f"{name}: ")) from None
        return value

    return checked


def _accent(place: Place) -> str:
    if isinstance(place.node, Scalar) and place.node.kind is ScalarKind.NULL:
        raise place.mistake('expected a colour, got nothing: # begins a comment, so write it in quotes: "#0077aa"')
    return place.string()


@functools.cache
def _types() -> mimetypes.MimeTypes:
    import mimetypes  # noqa: PLC0415 - few rule files have such a body

    return mimetypes.MimeTypes(filenames=())  # the same on every machine: the files of the system are not read


def type_of_file(place: Place) -> tuple[Header, ...]:
    """The `content-type` for the extension of a file; empty if it is unknown."""
    guess = _types().guess_type(place.node.text)[0] if isinstance(place.node, Scalar) else None
    if guess is None:
        return ()
    return (("content-type", f"{guess}; charset=utf-8" if _TEXT_TYPES.fullmatch(guess) else guess),)
