"""Where Envoy listens and where it forwards to: the sections `listen` and `upstreams` of a rule file.

In: places of a document (see `fields`). Out: `Listener`s and `Upstream`s. Raises `FieldError`, as all readers do.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import replace
from typing import Final

from rejoinder.rules.document import Map, quoted
from rejoinder.rules.fields import Fields, Place, content_beside, text_that
from rejoinder.rules.files import UnreadableError
from rejoinder.rules.model import Endpoint, HealthCheck, Listener, Upstream, UpstreamTls, numbered
from rejoinder.rules.shape import BOOLEAN, DURATION, TEXT, Shape, Table, any_of, by_name, like, one_or_more

ECHO: Final = "builtin:echo"
"""The upstream URL of the small server in `rejoinder up`."""

PORTS: Final = range(1, 65536)

# Labels of letters, digits and `-`, RFC 1123, section 2.1; and `_`, which is common in container networks.
_LABEL: Final = "[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
_LABELS: Final = rf"{_LABEL}(\.{_LABEL})*"
HOST_NAME: Final = re.compile(r"(?=.{1,253}$)" + _LABELS)  # the maximum length of DNS and SNI

_UPSTREAM_NAME: Final = re.compile(r"[A-Za-z0-9._/:-]+")
_ADDRESS: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")
_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<host>\[[^\[\]]*\]|[^:/?#@\[\]]+)(:(?P<port>[0-9]{1,5}))?/?")
_CHECK_PATH: Final = re.compile(r"/[!-~]*")

# --- what they are like ---

_IPV6: Final = r"\[[0-9a-fA-F:.]+\]"
IPV6: Final = like(_IPV6)
_HOST: Final = like(rf"({_LABELS}|{_IPV6})(:[0-9]{{1,5}})?")
_FILE: Final = "relative to this one, in PEM"
_PAIR: Final[Table] = {
    "certificate": (TEXT, f"File with the certificate chain, {_FILE}."),
    "key": (TEXT, f"File with its private key, {_FILE}, without a password."),
}
_LISTENER: Final = Shape(
    "listener",
    {
        "address": (like(_ADDRESS), 'An IP address and a port, such as "0.0.0.0:443".'),
        **_PAIR,
        "client_ca": (TEXT, f"File with authorities, {_FILE}: clients need a certificate of one of them."),
    },
    required=("address", "certificate", "key"),
)
LISTEN: Final = one_or_more(any_of(like(_ADDRESS), _LISTENER))

_URLS: Final = one_or_more(like(ECHO, _URL))
_TLS: Final = Shape(
    "upstream-tls",
    {
        "ca": (TEXT, f"File with the authorities to trust, {_FILE}."),
        "sni": (like(HOST_NAME), "The name to ask for, which must be in the certificate."),
        **_PAIR,
    },
    needs={"certificate": "key", "key": "certificate"},
)
_HEALTH_CHECK: Final = Shape(
    "health-check",
    {
        "path": (like(_CHECK_PATH), "What is asked for."),
        "interval": (like(DURATION), "Between two questions (default 10s)."),
        "timeout": (like(DURATION), "How long an answer may take (default 2s)."),
    },
    required=("path",),
)
_UPSTREAM: Final = Shape(
    "upstream",
    {
        "urls": (_URLS, "A URL or a list of URLs."),
        "http2": (BOOLEAN, "true: HTTP/2, also without TLS."),
        "host": (_HOST, "The Host that it gets, if the route's rewrite says no other."),
        "tls": (_TLS, "Only with https://."),
        "connect_timeout": (like(DURATION), "How long a connection may take (default 5s)."),
        "health_check": (_HEALTH_CHECK, "Each address is asked; one that fails gets no requests."),
    },
    required=("urls",),
)
UPSTREAMS: Final = by_name(like(_UPSTREAM_NAME), any_of(_URLS, _UPSTREAM))

# --- how they are read ---


def listeners(place: Place) -> tuple[Listener, ...]:
    """`listen`: one address or a list of them, each with or without TLS."""
    lines: dict[tuple[str, int], int] = {}

    def another(item: Place) -> Listener:
        listener = _listener(item)
        address = (listener.address, listener.port)
        if listener.port and address in lines:
            raise item.mistake(f"the address is given twice, first in line {lines[address]}")
        lines[address] = item.node.line
        return listener

    return numbered(place.one_or_more(another))


def upstreams(place: Place) -> tuple[Upstream, ...]:
    """`upstreams`: URLs by name."""
    # An upstream with a mistake still exists, so a route that names it has no mistake.
    return tuple(
        member.attempt(functools.partial(upstream, name), Upstream(name, ())) for name, member in place.members()
    )


def upstream(name: str, place: Place) -> Upstream:
    """One upstream: a URL or a list of URLs, or a mapping with `urls` and other fields."""
    place = place.about(f"upstream {quoted(name)}")
    if not _UPSTREAM_NAME.fullmatch(name):
        raise place.mistake("expected a name of letters, digits and . _ / -")
    if not isinstance(place.node, Map):
        return _at_urls(name, place)
    fields = place.fields(_UPSTREAM)
    made = fields.get("urls", functools.partial(_at_urls, name), Upstream(name, ()))
    if "tls" in fields and not made.tls and made.endpoints:
        fields["tls"].error("only https:// upstreams have TLS")
    return replace(
        made,
        http2=fields.get("http2", Place.boolean, False),
        host=fields.get("host", _host_header, None),
        tls_options=fields.get("tls", _upstream_tls, UpstreamTls()),
        connect_timeout=fields.get("connect_timeout", lambda it: it.duration(0.001, "1ms"), made.connect_timeout),
        health_check=fields.get("health_check", _health_check, None),
        position=place.position,
    )


def _at_urls(name: str, place: Place) -> Upstream:
    urls = place.one_or_more(_url)
    schemes = {scheme for scheme, _ in urls}
    if len(schemes) > 1 or (ECHO in schemes and len(urls) > 1):
        raise place.mistake(f"expected URLs of one kind: all http, all https, or {ECHO} alone")
    return Upstream(
        name,
        endpoints=tuple(endpoint for _, endpoint in urls if endpoint is not None),
        tls="https" in schemes,
        echo=ECHO in schemes,
        position=place.position,
    )


def _host_header(place: Place) -> str:
    text = place.string()
    name, _, number = text.rpartition(":") if re.search(r":[0-9]{1,5}$", text) else (text, "", "80")
    if host_of(name) is None or int(number) not in PORTS:
        raise place.expected('a host such as "example.com", maybe with a port')
    return text


def _upstream_tls(place: Place) -> UpstreamTls:
    fields = place.fields(_TLS)
    certificate, key = _pair(fields)
    return UpstreamTls(
        ca=fields.get("ca", _authorities, None),
        sni=fields.get("sni", text_that(HOST_NAME.fullmatch, "a host name"), None),
        certificate=certificate or None,
        key=key or None,
    )


def _health_check(place: Place) -> HealthCheck:
    fields = place.fields(_HEALTH_CHECK)
    path = text_that(_CHECK_PATH.fullmatch, 'a path starting with "/", without spaces')
    return HealthCheck(
        path=fields.get("path", path, "/"),
        interval=fields.get("interval", lambda it: it.duration(0.1, "100ms"), 10.0),
        timeout=fields.get("timeout", lambda it: it.duration(0.01, "10ms"), 2.0),
    )


def _url(place: Place) -> tuple[str, Endpoint | None]:
    text = place.string()
    if text == ECHO:
        return ECHO, None
    url = _URL.fullmatch(text)
    host = host_of(url["host"]) if url else None
    if url is None or host is None:
        raise place.expected(f"a URL such as http://127.0.0.1:8000 (http or https, host and port only) or {ECHO}")
    port = int(url["port"] or (443 if url["scheme"] == "https" else 80))
    if port not in PORTS:
        raise place.expected("a port from 1 to 65535")
    return url["scheme"], Endpoint(host, port)


def host_of(text: str) -> str | None:
    """A host name or an IP address, without brackets; None if the text is neither."""
    if (address := _ip_address(text)) is not None:
        return address
    # A name that ends in digits is a mistyped IPv4 address: no top-level domain does (RFC 3696, section 2).
    return text.lower() if HOST_NAME.fullmatch(text) and not text.rpartition(".")[2].isdigit() else None


def is_ipv6(text: str) -> bool:
    """Whether a text is an IPv6 address in brackets."""
    return text.startswith("[") and _ip_address(text) is not None


def _ip_address(text: str) -> str | None:
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def _listener(place: Place) -> Listener:
    if not isinstance(place.node, Map):
        return _address(place)
    fields = place.fields(_LISTENER)
    listener = fields.get("address", _address, Listener("", 0))
    certificate, key = _pair(fields)
    client_ca = fields.get("client_ca", _authorities, None)
    return replace(listener, certificate=certificate, key=key, client_ca=client_ca, position=place.position)


def _pair(fields: Fields) -> tuple[bytes, bytes]:
    """A certificate chain and its key; empty if not given."""
    certificate = fields.get("certificate", _pem_file, b"")
    key = fields.get("key", _pem_file, b"")
    if certificate and key:
        try:
            fields.place.source.files.check_pem(certificate, key)
        except UnreadableError as reason:
            fields["certificate"].error(str(reason))
    return certificate, key


def _authorities(place: Place) -> bytes:
    content = _pem_file(place)
    try:
        place.source.files.check_authorities(content)
    except UnreadableError as reason:
        raise place.mistake(str(reason)) from None
    return content


def _pem_file(place: Place) -> bytes:
    content = content_beside(place)
    if not content:
        raise place.mistake("the file is empty")
    return content


def _address(place: Place) -> Listener:
    wanted = 'an IP address and a port such as "0.0.0.0:10000"'
    text = place.string()
    parts = _ADDRESS.fullmatch(text)
    if parts is None:
        raise place.expected(wanted)
    if not parts["host"]:
        raise place.mistake(f'expected {wanted}, got {quoted(text)}: write "0.0.0.0{text}" for every address')
    host = _ip_address(parts["host"])
    if host is None:
        raise place.mistake(f"expected {wanted}, got the host name {quoted(parts['host'])}")
    if int(parts["port"]) > PORTS[-1]:
        raise place.expected("a port from 0 to 65535")
    return Listener(host, int(parts["port"]), position=place.position)
