"""A fuzzer for the HTTP/2 connection and the gRPC server's parsing: valid conversations, damaged.

    python tests/fuzz/http2.py [--seconds 60] [--seed N]

Each round makes a conversation of several streams, shuffles, repeats, drops, cuts and damages its frames, and feeds it
to two connections: whole, and in pieces. Both have to say the same, in whole frames, and forget what has ended. Then a
server gets the pieces, which has to answer each stream, and to go on.
What fails is printed as the seed that makes it again. The corpus is made by `conversation`, so none is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from http2_bytes import BLOCK, OPENING, PING, REQUEST, TRAILERS, Wire, data, frames, headers, message

from rejoinder.extproc.client import Client
from rejoinder.extproc.exchange import Step
from rejoinder.extproc.frames import ACK, END_HEADERS, END_STREAM, PADDED, ErrorCode, Frame, Setting, frame, settings
from rejoinder.extproc.grpc import Server
from rejoinder.extproc.headers import encode
from rejoinder.extproc.http2 import MAX_CONCURRENT_STREAMS, Connection, Data, Event, Request, Reset

_LOG: Final = logging.getLogger("rejoinder.extproc")
RESPONSE: Final = encode(((":status", "200"),))


def conversation(chance: random.Random) -> list[bytes]:
    """The frames of a client that does nothing wrong."""
    sent: list[bytes] = []
    for stream_id in range(1, 2 * chance.randint(1, 6), 2):
        if chance.random() < 0.2:
            place = chance.randint(0, len(BLOCK))
            sent.append(
                headers(stream_id, BLOCK[:place], 0) + frame(Frame.CONTINUATION, END_HEADERS, stream_id, BLOCK[place:])
            )
        else:
            sent.append(headers(stream_id))
        body = message(chance.randbytes(chance.choice((0, 10, 300, 40_000))))
        for start in range(0, len(body), 16_000):
            part = body[start : start + 16_000]
            padded = chance.random() < 0.2
            sent.append(data(stream_id, b"\x03" + part + b"\0" * 3 if padded else part, PADDED if padded else 0))
        sent.append(
            chance.choice(
                (
                    data(stream_id, b"", END_STREAM),
                    headers(stream_id, TRAILERS, END_HEADERS | END_STREAM),
                    frame(Frame.RST_STREAM, 0, stream_id, b"\0\0\0\x08"),
                )
            )
        )
    for _ in range(chance.randint(0, 5)):
        stream_id = chance.choice((0, 1, 3))
        sent.insert(
            chance.randint(0, len(sent)),
            chance.choice(
                (
                    PING,
                    frame(Frame.PING, ACK, 0, b"12345678"),
                    frame(Frame.WINDOW_UPDATE, 0, stream_id, chance.randint(0, 100_000).to_bytes(4, "big")),
                    frame(Frame.SETTINGS, 0, 0, settings({Setting.INITIAL_WINDOW_SIZE: chance.randint(0, 100_000)})),
                    frame(Frame.SETTINGS, ACK, 0, b""),
                    frame(Frame.PRIORITY, 0, 3, b"\0" * 5),
                    frame(Frame.GOAWAY, 0, 0, b"\0" * 8),
                    frame(chance.randint(0, 255), chance.randint(0, 255), stream_id, chance.randbytes(8)),
                )
            ),
        )
    return sent


def damaged(sent: list[bytes], chance: random.Random) -> bytes:
    """The bytes of some frames, with something wrong in them, or not."""
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        place = chance.randrange(len(sent))
        match chance.randrange(6):
            case 0:
                other = chance.randrange(len(sent))
                sent[place], sent[other] = sent[other], sent[place]
            case 1:
                sent.insert(place, sent[place])
            case 2 if len(sent) > 1:
                del sent[place]
            case 3 if sent[place]:  # in a frame's header
                bent = bytearray(sent[place])
                bent[chance.randrange(min(9, len(bent)))] ^= 1 << chance.randrange(8)
                sent[place] = bytes(bent)
            case 4 if sent[place]:  # anywhere
                bent = bytearray(sent[place])
                bent[chance.randrange(len(bent))] = chance.randrange(256)
                sent[place] = bytes(bent)
            case _:
                sent[place] = sent[place][: chance.randrange(len(sent[place]) + 1)]
    return OPENING + b"".join(sent)


def play(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    """A server that answers each stream with its end, as soon as it knows of it, and checks what it is told."""
    connection = Connection()
    events: list[Event] = []
    sent = b""
    open_ids: set[int] = set()
    for piece in pieces:
        for event in connection.receive_data(piece):
            events.append(event)
            if isinstance(event, Request):
                assert event.stream_id not in open_ids, "a stream has begun twice"
                open_ids.add(event.stream_id)
            elif isinstance(event, Data | Reset):
                assert event.stream_id in open_ids, "an event of a stream that has not begun"
                if isinstance(event, Reset):
                    open_ids.remove(event.stream_id)
        sent += connection.data_to_send()
    assert connection.open_streams <= MAX_CONCURRENT_STREAMS
    assert connection.closed or connection.open_streams == len(open_ids), "a stream was forgotten, or not"
    for stream_id in sorted(open_ids):
        connection.respond(stream_id, RESPONSE, bytes(50_000), TRAILERS)
    sent += connection.data_to_send()
    for stream_id in open_ids:
        connection.reset(stream_id, ErrorCode.CANCEL)
    assert connection.closed or connection.open_streams == connection.waiting == 0, "something was left behind"
    frames(sent)
    return events, sent


class Echo:
    """Answers with what came; every third time fails."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, data: bytes) -> Step:
        self._count += 1
        assert self._count % 3, "on purpose"
        return Step(data[:1000], not data)


async def serve(pieces: list[bytes]) -> None:
    """The gRPC server behind the connection."""
    problems: list[dict[str, Any]] = []
    _LOG.disabled = True  # it would say each time what was wrong
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    server = Server({dict(REQUEST)[":path"]: Echo})
    client = Client(server)
    wire = Wire(client)
    for piece in pieces:
        wire.bring(piece)
        await asyncio.sleep(0)
    while server.busy:
        await asyncio.sleep(0)
    _LOG.disabled = False
    assert not problems, problems
    assert client.queued == 0, "the queue was counted wrongly"
    parts = sum(len(call.partial) for call in client._calls.values())
    assert client._partial == parts, "the parts of messages were counted wrongly"
    frames(wire.written)
    client.connection_lost(None)
    assert not server.connections


def once(seed: int) -> None:
    """One round.

    Raises:
        AssertionError: there is a mistake; so is any other exception.
    """
    chance = random.Random(seed)
    everything = damaged(conversation(chance), chance)
    pieces = []
    rest = everything
    while rest:
        size = chance.choice((1, 2, 9, 100, 10_000))
        pieces.append(rest[:size])
        rest = rest[size:]
    assert play([everything]) == play(pieces), "it matters how the bytes are cut"
    asyncio.run(serve(pieces))


def run(seconds: float, rounds: int = sys.maxsize, seed: int | None = None) -> int:
    """Rounds until the time is over; how many they were.

    Raises:
        AssertionError: there is a mistake; its note says how to see it again.
    """
    first = random.randrange(1 << 32) if seed is None else seed
    end = time.monotonic() + seconds
    done = 0
    while done < rounds and time.monotonic() < end:
        try:
            once(first + done)
        except Exception as error:
            error.add_note(f"again: python tests/fuzz/http2.py --seed {first + done} --rounds 1")
            raise
        done += 1
    return done


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--rounds", type=int, default=sys.maxsize)
    arguments.add_argument("--seed", type=int)
    options = arguments.parse_args()
    print(f"{run(options.seconds, options.rounds, options.seed)} conversations, nothing found")


if __name__ == "__main__":
    main()
