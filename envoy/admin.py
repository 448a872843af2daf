"""The admin interface of a running Envoy, as plain values.

In: the interface's address. Out: states, bound addresses, statistics. Raised: OSError if Envoy cannot be reached or
the connection breaks, `AdminError` if it answers with an error. Every call is one HTTP request, made in a thread
because it blocks.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

Address = tuple[str, int]
"""IP address (IPv6 without brackets) and port."""

_SECONDS: Final = 5.0
"""For one request. Envoy's main thread answers in milliseconds, unless it is busy with a large configuration."""


class AdminError(Exception):
    """Envoy answered a question to its admin interface with an error. Its text names the question and the answer."""


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin interface of one Envoy."""

    address: Address | Path
    """A path: a Unix socket."""

    async def state(self) -> str:
        """`LIVE` when Envoy has its configuration and accepts traffic, else its present state: `INITIALIZING`, ..."""
        # The status, 200 or 503, also says whether it is ready; the text says more.
        _status, body = await asyncio.to_thread(self._request, "GET", "/ready")
        return body.decode().strip()

    async def listeners(self) -> dict[str, list[Address]]:
        """The address of each listener, by name, with the port that it got if port 0 was configured."""
        answer = json.loads(await self.get("/listeners?format=json"))
        return {
            listener["name"]: [
                (bound["socket_address"]["address"], bound["socket_address"]["port_value"])
                for bound in (listener["local_address"], *listener.get("additional_local_addresses", ()))
            ]
            for listener in answer.get("listener_statuses", ())
        }

    async def stats(self, name_filter: str = "") -> dict[str, int]:
        """Counters and gauges by name.

        Args:
            name_filter: a regex (RE2) that fits a part of the name; empty: all, of which there are thousands.
        """
        query = urlencode({"format": "json", **({"filter": name_filter} if name_filter else {})})
        answer = json.loads(await self.get(f"/stats?{query}"))
        # Histograms have no name at this level, texts are no numbers.
        return {stat["name"]: stat["value"] for stat in answer["stats"] if isinstance(stat.get("value"), int)}

    async def get(self, path: str, method: str = "GET") -> bytes:
        """The body of the page at `path` (with its query), such as `/config_dump`.

        Args:
            method: `POST` for requests that change something in Envoy, such as `/drain_listeners?graceful`.

        Raises:
            AdminError: Envoy has no such page, or cannot answer now.
        """
        status, body = await asyncio.to_thread(self._request, method, path)
        if status != 200:
            text = body.decode(errors="replace").strip()
            raise AdminError(f"Envoy's admin interface: {method} {path}: expected 200, got {status}: {text}")
        return body

    def _request(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=_SECONDS)
        try:
            if isinstance(self.address, Path):
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(_SECONDS)
                connection.sock.connect(str(self.address))
            else:
                connection.sock = socket.create_connection(self.address, _SECONDS)
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"Envoy's admin interface broke off: {error!r}") from error
        finally:
            connection.close()
