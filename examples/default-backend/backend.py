"""A tiny default backend: it makes an error page of the headers that it is asked with.

python backend.py 8090
"""

from __future__ import annotations

import http
import http.server
import json
import sys


class Pages(http.server.BaseHTTPRequestHandler):
    """X-Code: the status that the page is for; X-Format: what the client accepts; X-Original-URI: what it asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        code = int(self.headers.get("X-Code", "404"))
        reason = http.HTTPStatus(code).phrase if code in set(http.HTTPStatus) else "Error"
        if "json" in self.headers.get("X-Format", ""):
            kind, text = "application/json", json.dumps({"status": code, "title": reason})
        else:
            kind, text = "text/html; charset=utf-8", f"<!doctype html><title>{code}</title><h1>{reason}</h1>"
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Pages).serve_forever()
