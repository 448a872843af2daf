"""The cost of the last of many rules for Envoy: our buckets, in one virtual host and as many, against the ordered list.

    python bench/matching.py [--short]

Exact paths, each with an answer, and the same with 50 regexes spread among them; the last path is asked for. And
domains with one exact path each; the last domain is asked for. Virtual hosts by path, which Envoys on an incremental
ADS stream get as resources, stand in their route configuration here: for a request that makes no difference.
Prints CPU per request of Envoy in relation to the last of 10 rules in a list. Needs wrk.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import Final

from harness import Cost, Plot, Report, Series, Spread, arguments, gateway_cost, interleaved, publish, ratio, wrk

from rejoinder.envoy import bootstrap, find, running
from rejoinder.rules.model import Answer, Endpoint, Listener, PathKind, PathMatch, RequestMatch, Rule, Ruleset, Scope
from rejoinder.rules.program import compile_rules
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Configuration, Json, Settings, static_bootstrap, translate

NUMBERS: Final = (10, 100, 1_000, 10_000)
REGEXES: Final = 50
EXT_PROC: Final = Endpoint("127.0.0.1", 1)
HOSTS: Final = "virtual hosts by path"
STRUCTURES: Final = {
    "buckets": Settings(EXT_PROC, long_list=64),
    HOSTS: Settings(EXT_PROC, long_list=64, many_routes=0),
    "list": Settings(EXT_PROC, long_list=sys.maxsize),
}
"""With the settings that make it of any number of rules."""
DOMAINS: Final = "domains"
"""The structure in which each rule has a domain of its own."""


@dataclasses.dataclass(frozen=True)
class _Case:
    number: int
    regexes: int
    structure: str

    @property
    def name(self) -> str:
        return f"{self.number}/{self.regexes}/{self.structure}"

    @property
    def rules(self) -> tuple[Rule, ...]:
        return by_domain(self.number) if self.structure == DOMAINS else by_path(self.number, self.regexes)

    @property
    def last(self) -> tuple[str, str]:
        """Host and path of the last rule."""
        n = self.number - 1
        return (_domain(n), _path(0)) if self.structure == DOMAINS else ("localhost", _path(n))


def by_path(number: int, regexes: int) -> tuple[Rule, ...]:
    """This number of exact paths, and regexes spread evenly before and among them."""
    made = [_rule(f"page-{n}", PathMatch(PathKind.EXACT, _path(n))) for n in range(number)]
    for n in range(regexes):
        place = n * number // regexes + n
        made.insert(place, _rule(f"regex-{n}", PathMatch(PathKind.REGEX, f".*/x{n}/[0-9]+")))
    return tuple(made)


def by_domain(number: int) -> tuple[Rule, ...]:
    """This number of domains, each with one exact path."""
    path = PathMatch(PathKind.EXACT, _path(0))
    return tuple(_rule(f"shop-{n}", path, (_domain(n),)) for n in range(number))


def _rule(name: str, path: PathMatch, domains: tuple[str, ...] = ()) -> Rule:
    return Rule(name, (Answer(body=name.encode()),), Scope(domains=domains, request=RequestMatch(path)))


def _path(n: int) -> str:
    return f"/page/{n:05}"


def _domain(n: int) -> str:
    return f"shop-{n:05}.example.com"


def _listener(case: _Case) -> Json:
    ruleset = Ruleset(listeners=(Listener("127.0.0.1", 0),), rules=case.rules)
    settings = STRUCTURES.get(case.structure, STRUCTURES["list"])
    configuration = translate(ruleset, compile_rules(ruleset.rules), plan(ruleset), settings)
    if case.structure == HOSTS:
        configuration = _inline(configuration.split)
    listener: Json = static_bootstrap(configuration)["static_resources"]["listeners"][0]
    return {**listener, "name": case.name}


def _inline(split: Configuration | None) -> Configuration:
    """Virtual hosts in the only route configuration that they are of."""
    assert split is not None
    (head,) = (routes for routes in split.routes if "vhds" in routes)
    routes = {field: value for field, value in head.items() if field != "vhds"}
    return dataclasses.replace(split, routes=({**routes, "virtual_hosts": list(split.virtual_hosts)},))


async def main(seconds: int = 1, rounds: int = 3) -> None:
    made = [
        *(_Case(number, regexes, kind) for regexes in (0, REGEXES) for number in NUMBERS for kind in STRUCTURES),
        *(_Case(number, 0, DOMAINS) for number in NUMBERS),
    ]
    cases = {case.name: case for case in made}
    config = {
        "admin": bootstrap(admin=("127.0.0.1", 0))["admin"],
        "static_resources": {"listeners": [_listener(case) for case in made]},
    }
    async with running(find().path, config, concurrency=1, log_level="error") as envoy:
        bound = await envoy.ready(list(cases))

        async def measure(name: str) -> Cost:
            host, path = cases[name].last
            return await gateway_cost(envoy.pid, wrk(bound[name][0][1], path, seconds=seconds, headers={"Host": host}))

        costs = await interleaved(list(cases), rounds, measure)
    publish(
        "matching",
        _report(cases, {name: cpu for name, (cpu, _) in costs.items()}, f"{rounds} interleaved rounds of {seconds} s"),
    )


def _report(cases: dict[str, _Case], cpu: dict[str, Spread], rounds: str) -> Report:
    base = cpu["10/0/list"].median
    structures = dict.fromkeys(case.structure for case in cases.values())
    ratios = {kind: [cpu[_Case(number, 0, kind).name].median for number in NUMBERS] for kind in structures}
    lines = {(case.structure, case.regexes): None for case in cases.values()}
    series = tuple(
        Series(
            f"{structure}, {regexes} regexes" if regexes else structure,
            tuple(
                (case.number, cpu[name].over(base))
                for name, case in cases.items()
                if (case.structure, case.regexes) == (structure, regexes)
            ),
        )
        for structure, regexes in lines
    )
    return Report(
        title="The last of many rules",
        text=(
            "Exact paths, each with an answer of its own, and the same with regexes spread among them; the last path "
            "is asked for. Virtual hosts by path: what Envoys on an incremental ADS stream get of many rules; others "
            "get buckets. Domains: one exact path in each, and the last domain is asked for. CPU per request of an "
            f"Envoy with one worker, the last of 10 rules in an ordered list = 1 ({base:.1f} us). Medians (and ranges) "
            f"of {rounds}, 32 connections."
        ),
        columns=("rules", "regexes", "structure", "CPU per request"),
        rows=tuple(
            (str(case.number), str(case.regexes), case.structure, str(cpu[name].over(base)))
            for name, case in cases.items()
        ),
        plot=Plot("The last of many rules", "rules", "CPU per request", series, logarithmic=True),
        conclusion=(
            f"What the last of {NUMBERS[-1]:,} costs in relation to the last of {NUMBERS[0]}, without regexes: "
            f"{', '.join(f'{kind} {ratio(costs[-1], costs[0]):.2f}' for kind, costs in ratios.items())}."
        ),
    )


if __name__ == "__main__":
    asyncio.run(main(1, 1) if arguments(__doc__, "once").parse_args().short else main())
