"""How long rules take from the file to the bytes that are sent: at a start, and after an edit of one of them.

    python bench/compile.py [--short] [--rounds N]

Every measurement is a process of its own, so that nothing is remembered; importing the package is not counted. The
process then sees edits in the middle of the one file (KINDS): a body is changed; a rule is added, or removed, so that
all later rules move to other lines. The bytes are those that an Envoy on an incremental ADS stream gets.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from harness import Plot, Report, Series, Spread, arguments, publish

from rejoinder.rules.load import load
from rejoinder.rules.model import Endpoint
from rejoinder.rules.program import compile_rules
from rejoinder.rules.reload import Memory
from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.forms import SPLITS_SINCE, Node
from rejoinder.xds.plan import plan
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.session import Output
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, VIRTUAL_HOSTS, Snapshot
from rejoinder.xds.stream import Response
from rejoinder.xds.translate import Placement, Settings, translate
from rejoinder.xds.translate.encode import snapshot
from rejoinder.xds.wire import encode_delta_response

STAGES: Final = ("load", "compile", "plan", "translate", "encode", "send")
EDITS: Final = 5
"""Of each kind, in a process."""
START: Final = "start"
TARGET: Final = 0.15
"""Seconds from an edit of one of the most rules to the bytes."""
SETTINGS: Final = Settings(Endpoint("127.0.0.1", 18001), Placement.MODULE, fallback=True)
"""One object for everything in a process, as in `rejoinder serve`: much is remembered by identity."""

MATCHES: Final[dict[str, Callable[[str], str]]] = {
    "paths": "{{path: /path/{}}}".format,
    "domains": "{{domains: [shop-{}.example.com]}}".format,
    "paths, for a status": "{{path: /path/{}}}\n  enable_on_status: [5xx]".format,
}
"""How the rules of a file differ."""

CASES: Final = (*(("paths", count) for count in (10, 100, 1_000, 10_000)), *((of, 10_000) for of in [*MATCHES][1:]))


# ---- what is edited


class Mocks:
    """The rules of a file."""

    def __init__(self, match: str, count: int) -> None:
        self._match = MATCHES[match]
        self._rules = [(str(number), f"body {number}") for number in range(count)]
        """Names and bodies."""

    def text(self) -> str:
        return "rules:\n" + "".join(
            f"- name: mock-{name}\n  match: {self._match(name)}\n  headers: [X-Rule={name}]\n  body: {body}\n"
            for name, body in self._rules
        )

    def change_body(self, number: int) -> None:
        middle = len(self._rules) // 2
        self._rules[middle] = (self._rules[middle][0], f"edit {number}")

    def add(self, number: int) -> None:
        self._rules.insert(len(self._rules) // 2, (f"added-{number}", "added"))

    def remove(self, _: int) -> None:
        del self._rules[len(self._rules) // 4]  # none that was added


KINDS: Final[dict[str, Callable[[Mocks, int], None]]] = {
    "body changed": Mocks.change_body,
    "rule added": Mocks.add,
    "rule removed": Mocks.remove,
}


# ---- the receiver


class Envoy:
    """A client that has asked for everything over an incremental ADS stream, and accepts every response."""

    def __init__(self) -> None:
        self._session = Incremental()
        self._filters: dict[str, frozenset[str]] = {}
        """The filters that it has by ECDS, by listener."""

    def connect(self, has: Snapshot) -> list[bytes]:
        """Ask; returns the responses."""
        listeners = (has.split or has).by_type[LISTENERS].values()
        routes = tuple(name for listener in listeners for kind, name in listener.references if kind is ROUTES)
        clusters = DeltaRequest(CLUSTERS.url, node=Node(envoy=SPLITS_SINCE))
        requests = (clusters, DeltaRequest(LISTENERS.url), DeltaRequest(ROUTES.url, routes))
        sent = self._accept(self._session.on_snapshot(has))
        for request in (*requests, DeltaRequest(VIRTUAL_HOSTS.url)):
            sent += self._accept(self._session.on_request(request))
        return sent

    def take(self, given: Snapshot) -> list[bytes]:
        """Be brought to another snapshot; returns the responses."""
        return self._accept(self._session.on_snapshot(given))

    def _accept(self, outputs: Sequence[Output]) -> list[bytes]:
        responses = [output for output in outputs if isinstance(output, Response)]
        sent = [encode_delta_response(response) for response in responses]
        for response in responses:
            requests = [DeltaRequest(response.type.url, nonce=response.nonce)]
            if response.type is LISTENERS:
                requests.insert(0, self._ask_for_filters(response))  # before it answers, as Envoy does
            for request in requests:
                sent += self._accept(self._session.on_request(request))
        return sent

    def _ask_for_filters(self, response: Response) -> DeltaRequest:
        had = frozenset[str]().union(*self._filters.values())
        self._filters.update((extension.name, fetched_filters(extension.body)) for extension in response.resources)
        for name in response.removed:
            self._filters.pop(name, None)
        has = frozenset[str]().union(*self._filters.values())
        return DeltaRequest(EXTENSIONS.url, subscribe=tuple(has - had), unsubscribe=tuple(had - has))


def fetched_filters(listener: bytes) -> frozenset[str]:
    """The names of the filters that a listener has by ECDS."""
    filters = (http_filter for chain in _LISTENER.FromString(listener).filter_chains for http_filter in chain.filters)
    managers = (_MANAGER.FromString(http_filter.typed_config.value) for http_filter in filters)
    http_filters = (http_filter for manager in managers for http_filter in manager.http_filters)
    return frozenset(http_filter.name for http_filter in http_filters if http_filter.HasField("config_discovery"))


_LISTENER: Final = message_class("envoy.config.listener.v3.Listener")
_MANAGER: Final = message_class("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")


# ---- what is measured


@dataclass(frozen=True, slots=True)
class Way:
    """From the file to the bytes."""

    seconds: dict[str, float]
    """By stage."""
    size: int
    """How many bytes."""

    @property
    def all(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process."""

    ways: dict[str, list[Way]]
    """The one at the start, and those after the edits of each kind."""
    memory: float
    """In MB, at its highest."""


def sample(match: str, count: int) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        file, memory, mocks, envoy = Path(folder, "rules.yaml"), Memory(), Mocks(match, count), Envoy()
        file.write_text(mocks.text())
        ways = {START: [way(file, memory, envoy.connect, gc.freeze)]}
        for number in range(1, EDITS + 1):
            for kind, edit in KINDS.items():
                edit(mocks, number)
                file.write_text(mocks.text())
                ways.setdefault(kind, []).append(way(file, memory, envoy.take))
        return Sample(ways, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def way(
    file: Path, memory: Memory, send: Callable[[Snapshot], list[bytes]], built: Callable[[], None] = lambda: None
) -> Way:
    """Measure one way. Garbage is collected as in `cli/making.py`: not while it loads and builds."""
    gc.disable()
    times = [time.perf_counter()]
    ruleset = load([file], memory=memory, look_for_shadowed=False).ruleset  # as `serve`, which warns afterwards
    assert ruleset is not None
    times.append(time.perf_counter())
    program = compile_rules(ruleset.rules)
    times.append(time.perf_counter())
    planned = plan(ruleset)
    times.append(time.perf_counter())
    configuration = translate(ruleset, program, planned, SETTINGS)
    times.append(time.perf_counter())
    made = snapshot(configuration)
    times.append(time.perf_counter())
    built()
    gc.enable()
    assert not made.check()  # as in `Server.publish`, before the first Envoy gets it
    sent = send(made)
    times.append(time.perf_counter())
    seconds = (after - before for before, after in itertools.pairwise(times))
    return Way(dict(zip(STAGES, seconds, strict=True)), sum(map(len, sent)))


def measured(match: str, count: int) -> Sample:
    """`sample` in a process of its own."""
    command = [sys.executable, __file__, "--sample", match, str(count)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return Sample({kind: [Way(**way) for way in ways] for kind, ways in said["ways"].items()}, said["memory"])


def report(samples: dict[tuple[str, int], list[Sample]], rounds: int) -> Report:
    ways = {
        (match, count, kind): [way for sample in of for way in sample.ways[kind]]
        for (match, count), of in samples.items()
        for kind in (START, *KINDS)
    }
    memory = {(*case, START): f"{max(sample.memory for sample in of):.0f}" for case, of in samples.items()}
    in_all = {key: Spread.of([way.all for way in of]) for key, of in ways.items()}
    series = (
        Series(f"{match}: {kind}", tuple((count, in_all[match, count, kind]) for of, count in samples if of == match))
        for match in MATCHES
        for kind in (START, *KINDS)
    )
    return Report(
        title="From a rule file to the bytes that travel",
        text=(
            f"Seconds, by the number of rules in one file and what tells them apart; medians (and ranges) of {rounds} "
            f"processes, and of {EDITS} edits of one rule of each kind in each. Sending is what is done for one Envoy "
            "on an incremental ADS stream, and the bytes are those for it. Memory is that of the whole process."
        ),
        columns=("rules", "of", "", *STAGES, "all", "bytes", "memory (MB)"),
        rows=tuple(
            (
                f"{count:,}",
                match,
                kind,
                *(f"{statistics.median(way.seconds[stage] for way in of):.3g}" for stage in STAGES),
                str(in_all[match, count, kind]),
                f"{statistics.median(way.size for way in of):,.0f}",
                memory.get((match, count, kind), ""),
            )
            for (match, count, kind), of in ways.items()
        ),
        plot=Plot(
            "From a rule file to the bytes that travel",
            "rules",
            "seconds",
            tuple(one for one in series if one.points),
            logarithmic=True,
        ),
        conclusion=conclusion({key: spread for key, spread in in_all.items() if key[2] != START}),
    )


def conclusion(edits: dict[tuple[str, int, str], Spread]) -> str:
    most = max(count for _, count, _ in edits)
    slowest: dict[str, tuple[str, Spread]] = {}
    for (match, count, kind), spread in edits.items():
        if count == most and (match not in slowest or spread.median > slowest[match][1].median):
            slowest[match] = kind, spread
    worst = "; ".join(
        f"{match}: {spread.median * 1e3:.0f} ms, at most {spread.high * 1e3:.0f} ms ({kind})"
        for match, (kind, spread) in slowest.items()
    )
    return (
        f"The slowest kind of edit of {most:,} rules, to the bytes: {worst}. Wanted: {TARGET * 1e3:.0f} ms for 10,000."
    )


def main() -> None:
    parser = arguments(__doc__, "few rules, once")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sample", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample:
        match, count = options.sample
        print(json.dumps(asdict(sample(match, int(count)))))
        return
    rounds = 1 if options.short else options.rounds
    cases = [(match, min(count, 1_000)) for match, count in (CASES[0], *CASES[-2:])] if options.short else CASES
    samples: dict[tuple[str, int], list[Sample]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            samples[case].append(measured(*case))
    publish("compile", report(samples, rounds))


if __name__ == "__main__":
    main()
