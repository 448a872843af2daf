"""A request as rules see it: after Envoy has normalized it.

`parse` normalizes a client's request as Envoy's connection manager does with the settings of our listeners
(`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT`, `use_remote_address`,
`strip_trailing_host_dot`), in HTTP/1.1, as observed with Envoy 1.40.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from rejoinder.rules.http import split_port
from rejoinder.rules.model import Header

# Envoy joins the lines of these headers with commas into one value. Each line of any other header is a separate value.
JOINED_HEADERS: Final = frozenset(
    (
        "accept accept-encoding access-control-request-headers access-control-request-method authorization "
        "cache-control connection content-encoding content-type expect grpc-accept-encoding grpc-timeout if-match "
        "if-modified-since if-none-match if-range if-unmodified-since origin pragma referer user-agent via "
        "x-client-trace-id x-forwarded-for x-forwarded-host x-forwarded-port"
    ).split()
)

METHOD: Final = re.compile(
    "ACL|BIND|CHECKOUT|COPY|DELETE|GET|HEAD|LINK|LOCK|MERGE|MKACTIVITY|MKCALENDAR|MKCOL|MOVE|MSEARCH|NOTIFY|OPTIONS|PATCH|"
    "POST|PROPFIND|PROPPATCH|PURGE|PUT|REBIND|REPORT|SEARCH|SOURCE|SUBSCRIBE|TRACE|UNBIND|UNLINK|UNLOCK|UNSUBSCRIBE"
)
"""All methods that Envoy accepts in HTTP/1.1. In HTTP/2 it accepts any."""

PATH_HEADER: Final = "x-rejoinder-path"
"""A request header with the path without its query, which exists while Envoy selects the route, if routes need it."""

REMOVED_HEADERS: Final = frozenset(
    (
        "keep-alive proxy-connection x-envoy-decorator-operation x-envoy-downstream-service-cluster "
        "x-envoy-downstream-service-node x-envoy-expected-rq-timeout-ms x-envoy-force-trace "
        "x-envoy-hedge-on-per-try-timeout x-envoy-internal x-envoy-ip-tags x-envoy-max-retries "
        "x-envoy-original-host x-envoy-original-path x-envoy-original-url x-envoy-retriable-header-names "
        "x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on x-envoy-upstream-alt-stat-name "
        "x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-ms x-envoy-upstream-stream-duration-ms "
        "x-forwarded-client-cert"
    ).split()
)
"""Headers that Envoy removes from a request before any rule is asked. (And those that `connection` names.)"""

MADE_UP: Final = {
    "x-envoy-external-address": "192.0.2.1",
    "x-forwarded-for": "192.0.2.1",
    "x-request-id": "00000000-0000-4000-8000-000000000000",
}
"""Headers that Envoy gives every request, with an example of each: the client's address, and a number."""

_HOST: Final = re.compile(r"[A-Za-z0-9\-._~!$%&'()*+,;=:@\[\]]*")
_NOT_FOR_CONNECTION: Final = frozenset(("host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"))

_ESCAPED_SLASH = re.compile(r"%(2f|5c)", re.IGNORECASE)
# Percent-encoded without need (RFC 3986, section 2.3): Envoy decodes these and leaves other escapes alone.
_ESCAPED_UNRESERVED = re.compile(r"%(2[de]|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9ae])", re.IGNORECASE)
# A percent sign that escapes nothing, but would do so after decoding what follows: Envoy escapes the sign itself.
_STRAY_PERCENT = re.compile(r"%(?![0-9a-f]{2})", re.IGNORECASE)
_MADE_ESCAPE = re.compile(r"\0(?=[0-9a-f]{2})", re.IGNORECASE)
_UNESCAPED = re.compile(r"""["<>^`{|}]""")
# For Envoy's URL library, a dot segment may have escaped dots, or parameters behind plain dots (`..;x`).
_DOT_SEGMENT = re.compile(r"(?P<dots>\.{1,2})(;.*)?|(?P<escaped>(\.|%2e){1,2})", re.IGNORECASE)
_REFUSED = re.compile(r'%00|[^!"$-~]')


class RequestError(ValueError):
    """Envoy refuses the request before any rule is asked; the text says why."""

    def __init__(self, text: str, status: int = 400, *, final: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.final = final
        """No rule can answer in place of Envoy either, because it has refused the path."""


@dataclass(frozen=True, slots=True)
class Request:
    """What rules and routes can match on. Bytes that are not UTF-8 are in the texts as `surrogateescape` has them."""

    method: str
    host: str
    """In lower case, without port."""
    path: str
    """Normalized, without query."""
    query: str | None = None
    """The text behind the first `?`, not decoded; None: there is no `?`."""
    headers: tuple[Header, ...] = ()
    """Names in lower case; a header that is sent several times is here several times, except for JOINED_HEADERS."""
    scheme: str = "http"
    authority: str = ""
    """The Host header (`:authority`) as it was sent, without a dot at the end of the name."""
    moved: bool = False
    """The path had escaped slashes: Envoy redirects to the normalized path (307) before any rule is asked."""
    client: str = ""
    """The client's IP address, as Envoy knows it; empty: not known."""

    @property
    def is_grpc(self) -> bool:
        """Whether the client speaks gRPC, so that Envoy sends it gRPC errors."""
        return re.match(r"application/grpc($|[+;])", self.joined("content-type") or "") is not None

    whole: tuple[Header, ...] = field(default=(), compare=False)
    """Headers with lines joined by Envoy, if it sends only these. The lines in `headers` are then guessed."""

    def header(self, name: str) -> list[str]:
        """The values of a header by its name in lower case."""
        if name == "host":
            return [self.authority]
        return [value for other, value in self.headers if other == name]

    def joined(self, name: str) -> str | None:
        """All values of a header, joined as by Envoy; None: there is none."""
        whole = [value for other, value in self.whole if other == name]
        values = whole or self.header(name)
        return ",".join(values) if values else None

    def parameter(self, name: str) -> list[str]:
        """The first value of a query parameter, as a list of one, or an empty list. `?a` is `a` with an empty value."""
        for part in (self.query or "").split("&"):
            key, _, value = part.partition("=")
            if key == name and part:
                return [value]
        return []

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path if self.query is None else f"{self.path}?{self.query}"


def now() -> str:
    """The time as RFC 3339 has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


UPSTREAM: Final = "upstream"
LOCAL: Final = "local"


@dataclass(frozen=True, slots=True)
class Response:
    """What rules can match on of a response."""

    status: int
    headers: tuple[Header, ...] = ()
    """As in `Request`; each line is a separate value."""
    source: str = UPSTREAM
    """UPSTREAM, or LOCAL, if Envoy made the response."""

    def header(self, name: str) -> list[str]:
        """The values of a header by its name in lower case."""
        return [value for other, value in self.headers if other == name]


def parse(
    method: str, authority: str, target: str, headers: tuple[Header, ...] = (), *, scheme: str = "http"
) -> Request:
    """The request that rules see if a client sends this request.

    Args:
        method: as sent; case matters.
        authority: the Host header, with or without a port; several are joined with commas.
        target: path and query, as sent.
        headers: names in any case; without Host.
        scheme: `http` or `https`.
    Raises:
        RequestError: Envoy would refuse it.
    """
    if not METHOD.fullmatch(method):
        raise RequestError(f"in HTTP/1.1 Envoy knows no method {method!r}")
    if not _HOST.fullmatch(authority):
        raise RequestError(f"a host has other characters: {authority!r}")
    if not target.startswith("/"):
        raise RequestError(f'expected a path starting with "/", got {target!r}')
    if refused := _REFUSED.search(target):
        raise RequestError(f"a path cannot contain {refused[0]!r}: {target!r}", final=True)
    # At the end, or in front of a port: https://www.rfc-editor.org/rfc/rfc1034#section-3.1
    authority = authority[:-1] if authority.endswith(".") else re.sub(r"\.(:[^:]*)$", r"\1", authority)
    sent = from_envoy(method, authority, target, scheme=scheme)
    path, moved = normalize_path(sent.path)
    return replace(sent, path=path, moved=moved, headers=_received(headers, scheme, path))


def from_envoy(
    method: str,
    authority: str,
    target: str,
    headers: tuple[Header, ...] = (),
    scheme: str = "http",
    client: str = "",
    whole: tuple[Header, ...] = (),
) -> Request:
    """A request that an Envoy has normalized already. Headers and the rest as in `Request`."""
    path, mark, query = target.partition("?")
    return Request(
        method, host_of(authority), path, query if mark else None, headers, scheme, authority, False, client, whole
    )


def of_headers(headers: Iterable[Header], client: str = "") -> Request:
    """The same, made of headers and pseudo-headers (`:method`, `:authority`, `:path`, `:scheme`)."""
    headers = tuple(headers)
    pseudo = dict(header for header in headers if header[0][:1] == ":")
    method, authority, target = (pseudo.get(name, "") for name in (":method", ":authority", ":path"))
    return from_envoy(method, authority, target, regular(headers), pseudo.get(":scheme", "http"), client)


def regular(headers: Iterable[Header]) -> tuple[Header, ...]:
    """Headers without the pseudo-headers."""
    return tuple(header for header in headers if header[0][:1] != ":")


def _received(headers: tuple[Header, ...], scheme: str, path: str) -> tuple[Header, ...]:
    """The headers after Envoy has removed, set and joined some."""
    lines = [(name.lower(), value) for name, value in headers]
    by_name = dict(lines)
    connection = [token.strip().lower() for name, value in lines if name == "connection" for token in value.split(",")]
    upgrade = by_name.get("upgrade", "h2c").lower() if "upgrade" in connection else "h2c"  # which Envoy ignores
    if upgrade not in ("h2c", "websocket"):
        raise RequestError(f"no upgrade but to websocket is taken, got {upgrade!r}", 403)
    away = {*REMOVED_HEADERS, "x-envoy-external-address", "x-forwarded-proto", "x-request-id", "te"}
    if upgrade == "h2c":
        if refused := [token for token in connection if token in _NOT_FOR_CONNECTION or token.startswith(":")]:
            raise RequestError(f"the header connection cannot name {refused[0]!r}")
        away |= {"connection", "upgrade", *connection}
    set_by_envoy = {**MADE_UP, "x-forwarded-proto": scheme}
    if PATH_HEADER in by_name:
        away.add(PATH_HEADER)
        set_by_envoy[PATH_HEADER] = path
    if any(token.strip() == "trailers" for name, value in lines if name == "te" for token in value.split(",")):
        set_by_envoy["te"] = "trailers"
    return _join([*((name, value) for name, value in lines if name not in away), *set_by_envoy.items()])


def _join(lines: list[Header]) -> tuple[Header, ...]:
    joined: dict[str, str] = {}
    for name, value in lines:
        if name in JOINED_HEADERS:
            joined[name] = ",".join(filter(None, (joined.get(name), value)))
    return (*((name, value) for name, value in lines if name not in JOINED_HEADERS), *joined.items())


def host_of(authority: str) -> str:
    """The host that domains are compared with: in lower case, without port, an IPv6 address in its brackets."""
    return split_port(authority)[0].lower()


def normalize_path(path: str) -> tuple[str, bool]:
    """A path as Envoy gives it to its router, and whether Envoy instead redirects the client to it.

    >>> normalize_path("/a/./%62//c/../d")
    ('/a/b/d', False)
    >>> normalize_path("/a%2Fb")
    ('/a/b', True)
    """
    unescaped = _ESCAPED_SLASH.sub(lambda match: chr(int(match[1], 16)), path)
    canonical = _remove_dot_segments(unescaped.replace("\\", "/"))
    canonical = _decode_unreserved(canonical)
    canonical = _UNESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", canonical)
    return _merge_slashes(canonical), unescaped != path


def _decode_unreserved(path: str) -> str:
    marked = _STRAY_PERCENT.sub("\0", path)
    decoded = _ESCAPED_UNRESERVED.sub(lambda match: chr(int(match[1], 16)), marked)
    return _MADE_ESCAPE.sub("%25", decoded).replace("\0", "%")


def _remove_dot_segments(path: str) -> str:
    # RFC 3986, section 5.2.4. Slashes are merged only afterwards: `..` removes an empty segment, too.
    segments: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        dots = _DOT_SEGMENT.fullmatch(part)
        if dots is None:
            segments.append(part)
        elif len((dots["dots"] or dots["escaped"]).lower().replace("%2e", ".")) == 2 and segments:
            segments.pop()
    if _DOT_SEGMENT.fullmatch(parts[-1]):
        segments.append("")  # `/a/.` becomes the folder `/a/`
    return "/" + "/".join(segments)


def _merge_slashes(path: str) -> str:
    if "//" not in path:
        return path
    # A path of slashes alone becomes `//`: Envoy keeps the first and the last one.
    return "/" + "/".join(filter(None, path.split("/"))) + ("/" if path.endswith("/") else "")
