"""A Python handler: an RFC 9457 problem description in place of an upstream's error page. docs/handlers.md"""

from __future__ import annotations

import http.client
import json

from rejoinder.rules.handlers import Reply, Request, Response


def page(request: Request, response: Response) -> Reply | None:
    """What went wrong, with the request's id, so that whoever reports it can be helped."""
    if response.header("content-type") == "application/problem+json":
        return None  # the upstream has said it better
    problem = {
        "type": "about:blank",
        "title": http.client.responses.get(response.status, "Error"),
        "status": response.status,
        "instance": request.path,
        "request_id": request.header("x-request-id"),
    }
    return Reply(
        status=response.status,
        headers=(("content-type", "application/problem+json"), ("cache-control", "no-store")),
        body=json.dumps(problem).encode(),
    )
