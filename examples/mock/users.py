"""A Python handler that is a mock: it answers before any upstream is asked. docs/handlers.md"""

from __future__ import annotations

import json

from rejoinder.rules.handlers import Reply, Request, Response


def user(request: Request, _: Response | None) -> Reply | None:
    """`/users/7` is the user with this number; what is no number, nobody has. The list is the upstream's."""
    name = request.path.removeprefix("/users").strip("/")
    if not name:
        return None
    if not name.isdecimal():
        return Reply(404, (), json.dumps({"error": f"there is no user {name}"}).encode())
    return Reply(200, (), json.dumps({"id": int(name), "name": f"User {name}"}).encode())
