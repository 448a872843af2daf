"""Rule files as nobody means them: a good one, edited at random."""

from __future__ import annotations

import random
from typing import Final

TEXT: Final = """\
listen: 127.0.0.1:10000
upstreams: {up: "http://127.0.0.1:1", other: "https://a.test:8443"}
routes:
  - {name: limited, prefix: /a, upstream: up, rate_limit: {requests: 2, per: 60s}}
  - {name: own, domains: ["*.a.test"], regex: "/[a-z]{2,9}", respond: {status_code: 201, body: own, headers: [A=b]}}
  - {name: all, upstream: other}
rules:
  - {name: page, match: {prefix: /x, headers: {x-a: "1"}}, enable_on_status: [5xx, 404], body_file: page}
  - {name: mock, match: {path: /mock}, status_code: 302, headers: [Location=/x], final: true}
  - {name: hook, match: {routes: [all]}, enable_on_status: [503], handler: "m:f"}
"""
PIECES: Final = [
    *("", " ", "\n", "\t", "\0", "\ud800".encode("utf-8", "surrogatepass").decode("latin1"), "\ufeff", "é", "💥"),
    *("{", "}", "[", "]", ":", "- ", '"', "'", "#", "&a ", "*a", "<<: *a", "!!python/object ", "|", ">", "---\n", "%"),
    *("null", "~", "true", "-1", "0", "9e999", ".nan", ".inf", "87660001h", "99999999999999999999", "0x7fffffff", "1s"),
    *(
        "2024-01-01",
        "5xx",
        "599",
        "/",
        "//",
        "*",
        "/a/../b",
        "a" * 5000,
        "[" * 2000,
        "{a: " * 300,
        "(" * 500,
        "[::1]:0",
    ),
    *(
        "apiVersion: v1\nkind: Secret\n",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec: {rules: 1}\n",
    ),
]


def edited(text: bytes, chance: random.Random) -> bytes:
    """A text with some places changed: by bytes, or by words that mean something."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        words = text.split(b" ")
        at = chance.randrange(len(words))
        match chance.randrange(5):
            case 0:
                words[at] = chance.choice(PIECES).encode("utf-8", "surrogatepass")
            case 1:
                words[at:at] = [chance.choice(PIECES).encode("utf-8", "surrogatepass")]
            case 2:
                words[at] = chance.choice(words)
            case 3:
                del words[at : at + chance.randrange(1, 4)]
            case 4:
                words[at] = chance.randbytes(chance.randrange(4))
        text = b" ".join(words) or b" "
    return text
