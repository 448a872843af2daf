"""`builtin:echo` by raw bytes and by an ordinary client."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest
from machine import SECONDS

from rejoinder.cli.echo import EchoServer


@pytest.fixture(name="echo", scope="module")
def _echo() -> Iterator[EchoServer]:
    with EchoServer() as echo:
        yield echo


@pytest.fixture(name="client")
def _client(echo: EchoServer) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(*echo.address, timeout=SECONDS)
    yield client
    client.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_request_comes_back_as_json(client: http.client.HTTPConnection, method: str) -> None:
    client.request(method, "/a/b?c=d", body=b"h\xc3\xa9", headers={"Host": "test.com", "X-Env": "canary"})
    response = client.getresponse()
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    said = json.loads(response.read())
    assert said == {
        "method": method,
        "path": "/a/b?c=d",
        "host": "test.com",
        "headers": {"host": "test.com", "x-env": "canary", "accept-encoding": "identity", "content-length": "3"},
        "body": "hé",
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/status/200", 200),
        ("/status/404?why=not", 404),
        ("/status/599", 599),
        pytest.param("/status/499", 499, id="unregistered"),
        pytest.param("/status/204", 204, id="no content"),
        pytest.param("/status/205", 205, id="reset content"),
        pytest.param("/status/304", 304, id="not modified"),
        pytest.param("/status/199", 400, id="informational"),
        pytest.param("/status/600", 400, id="out of range"),
        pytest.param("/status/", 400, id="none"),
        pytest.param("/status/5xx", 400, id="no number"),
        pytest.param("/status/200/", 400, id="more after it"),
        pytest.param("/status", 200, id="another path"),
    ],
)
def test_status_paths_answer_their_status(client: http.client.HTTPConnection, path: str, status: int) -> None:
    client.request("GET", path)
    response = client.getresponse()
    assert response.status == status
    assert bool(response.read()) == (status not in (204, 205, 304))


@pytest.mark.parametrize("path", ["/", "/status/503"])
def test_head_gets_the_headers_of_get_without_its_body(client: http.client.HTTPConnection, path: str) -> None:
    client.request("HEAD", path)
    head = client.getresponse()
    assert head.read() == b""
    assert int(head.headers["Content-Length"]) > 0
    client.request("GET", "/after")  # a body would be taken for this one's response
    assert json.loads(client.getresponse().read())["path"] == "/after"


def test_requests_share_a_connection(client: http.client.HTTPConnection) -> None:
    client.connect()
    local = client.sock.getsockname()
    for _ in range(3):
        client.request("GET", "/")
        client.getresponse().read()
        assert client.sock.getsockname() == local


def _exchange(echo: EchoServer, request: bytes) -> bytes:
    with socket.create_connection(echo.address, timeout=SECONDS) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_chunked_body_is_read_to_its_end(echo: EchoServer) -> None:
    said = _exchange(
        echo,
        b"POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;name=value\r\nhello\r\nA\r\n, chunks\r\n\r\n0\r\nTrailer: x\r\n\r\n"
        b"GET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    assert rb'"body": "hello, chunks\r\n"' in said
    assert b'"path": "/two"' in said


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"Content-Length: ten\r\n\r\n", id="length in words"),
        pytest.param(b"Content-Length: 10\r\n\r\nshort", id="body too short"),
        pytest.param(b"Transfer-Encoding: gzip\r\n\r\n", id="unknown coding"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", id="negative chunk"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", id="chunk longer than it says"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", id="chunk cut off"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n0\r\n", id="no end"),
    ],
)
def test_a_body_that_cannot_be_read_gets_400_and_the_connection_ends(echo: EchoServer, rest: bytes) -> None:
    said = _exchange(echo, b"POST / HTTP/1.1\r\nHost: a\r\n" + rest)
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in said


def test_the_server_ends_with_its_block_although_a_client_is_connected() -> None:
    with EchoServer() as echo:
        client = socket.create_connection(echo.address, timeout=SECONDS)
    with client, pytest.raises(ConnectionRefusedError):
        socket.create_connection(echo.address, timeout=SECONDS)
