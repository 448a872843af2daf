"""The console: a page for a browser with the present state, the same as JSON, and a stream of events that says when to
look again; beside it `/status`, a summary as JSON, and `/metrics`, in Prometheus' text format.

Reading order: `view` (the content), here (requests), `page.html` (what a browser gets: it is complete without
`console.js`, which searches while the user types, and follows changes). `openapi.yaml` describes the JSON.
Nothing here changes anything. Values are text wherever they come from: the template escapes all of them.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import jinja2
from aiohttp import web

from rejoinder.cli.admin import in_thread, page
from rejoinder.cli.control import Control
from rejoinder.cli.metrics import CONTENT_TYPE
from rejoinder.cli.web.view import PAGE, UnusableError, View

__all__ = ["Console"]

FOLDER: Final = Path(__file__).parent
FILES: Final = (
    ("/console.css", "text/css"),
    ("/console.svg", "image/svg+xml"),
    ("/console.js", "text/javascript"),
    ("/api/openapi.yaml", "application/yaml"),
)

_PLAIN: Final = ("summary", "problems", "upstreams", "envoys", "history")
"""Methods of `View`, and pages under `/api`."""
_ASKED: Final = ("rules", "routes", "explain")
"""... that take a query."""

MAX_STREAMS: Final = 16
"""Of events: half of all connections."""
LOOK_SECONDS: Final = 1.0
"""Between two looks for changes: no client gets events more often."""
SILENT_SECONDS: Final = 15.0
"""After this time without news, the revision is sent again: so a client that has gone is noticed."""

FRAME: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""For the page of a rule: it looks as in a browser, and runs nothing."""


class Console:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._view = View(control)
        self._streams = 0
        self._seen = (0.0, "")
        """When a stream last looked, and the revision at that time."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
        )
        self._template = environment.get_template("page.html")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._page),
            *(web.get(f"/api/{name}", functools.partial(self._json, name)) for name in (*_PLAIN, *_ASKED)),
            web.get("/api/explain/page", self._explained_page),
            web.get("/api/events", self._events),
            page("/status", "application/json", self._status),
            page("/metrics", CONTENT_TYPE, self._control.metrics.text),
            *(page(path, f"{kind}; charset=utf-8", (FOLDER / Path(path).name).read_bytes) for path, kind in FILES),
        ]

    def _status(self) -> bytes:
        return (json.dumps(self._control.status(), indent=2) + "\n").encode()

    async def _json(self, name: str, request: web.Request) -> web.Response:
        asked = [request.query] if name in _ASKED else []
        try:
            return web.json_response(await in_thread(request, getattr(self._view, name), *asked))
        except UnusableError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _page(self, request: web.Request) -> web.Response:
        html = await in_thread(request, self._rendered, request.query)
        return web.Response(text=html, content_type="text/html")

    def _rendered(self, query: Mapping[str, str]) -> str:
        view, error, explained = self._view, "", None
        search = {"q": query.get("q", "")}
        try:
            rules = view.rules({**search, "offset": query.get("rules_from", "0")})
            routes = view.routes({**search, "offset": query.get("routes_from", "0")})
        except UnusableError:
            raise web.HTTPBadRequest(text="expected whole numbers") from None
        if "url" in query:
            try:
                explained = view.explain(query)
            except UnusableError as unusable:
                error = str(unusable)
        return self._template.render(
            query=query,
            link=lambda **changed: f"?{urlencode({**query, **changed})}",
            step=PAGE,
            error=error,
            explained=explained,
            steps=[step for at, step in enumerate((explained or {}).get("steps", ())) if step["decides"] or at < PAGE],
            frame=f"/api/explain/page?{urlencode(query)}",
            **{name: getattr(view, name)() for name in _PLAIN},
            rules=rules,
            routes=routes,
        )

    async def _explained_page(self, request: web.Request) -> web.Response:
        """The page that a client would get, for a frame."""
        try:
            _, reply = await in_thread(request, self._view.explained, request.query)
        except UnusableError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        content_type = dict(reply.headers).get("content-type", "") if reply else ""
        # Of another type it might be a script or a style.
        if reply is None or content_type.partition(";")[0].strip().lower() != "text/html":
            raise web.HTTPNotFound(text="expected a request that is answered with a page (text/html)")
        headers = {"content-type": content_type, "content-security-policy": FRAME}
        return web.Response(body=reply.body, headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the revision, when it
        is new. A slow client misses some, and gets the latest."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"expected no more than {MAX_STREAMS} event streams")
        self._streams += 1
        try:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            told, when = None, 0.0
            while True:
                revision = await self._revision(request)
                if revision != told or time.monotonic() - when > SILENT_SECONDS:
                    await response.write(f"data: {revision}\n\n".encode())
                    told, when = revision, time.monotonic()
                await asyncio.sleep(LOOK_SECONDS)
        except ConnectionError:
            return response
        finally:
            self._streams -= 1

    async def _revision(self, request: web.Request) -> str:
        when, revision = self._seen
        if time.monotonic() - when >= LOOK_SECONDS / 2:  # else another stream has just looked
            revision = await in_thread(request, self._view.revision)
            self._seen = time.monotonic(), revision
        return revision
