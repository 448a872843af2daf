"""What the last of many rules costs at Envoy: our buckets against the ordered list.

    python bench/matching.py [SECONDS]

Exact paths, each with an answer, and the same with 50 regexes spread among them; the last path is asked for. Prints CPU
per request of Envoy in relation to the last of 10 rules in a list, and writes results/matching.json. Needs wrk.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import Final

from harness import Cost, gateway_cost, interleaved, write_result, wrk

from rejoinder.envoy import bootstrap, find, running
from rejoinder.rules.model import Answer, Endpoint, Listener, PathKind, PathMatch, RequestMatch, Rule, Ruleset, Scope
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Json, Settings, static_bootstrap, translate

NUMBERS: Final = (10, 100, 1_000, 10_000)
ROUNDS: Final = 5
REGEXES: Final = 50
STRUCTURES: Final = {"buckets": 64, "list": sys.maxsize}
"""From how many routes on a list is cut into buckets."""


def rules(number: int, regexes: int) -> tuple[Rule, ...]:
    """So many exact paths, and regexes spread evenly in front of and among them."""
    made = [_rule(f"page-{n}", PathMatch(PathKind.EXACT, f"/page/{n:05}")) for n in range(number)]
    for n in range(regexes):
        place = n * number // regexes + n
        made.insert(place, _rule(f"regex-{n}", PathMatch(PathKind.REGEX, f".*/x{n}/[0-9]+")))
    return tuple(made)


def _rule(name: str, path: PathMatch) -> Rule:
    return Rule(name, (Answer(body=name.encode()),), Scope(request=RequestMatch(path)))


def _listener(name: str, number: int, regexes: int, long_list: int) -> Json:
    ruleset = Ruleset(listeners=(Listener("127.0.0.1", 0),), rules=rules(number, regexes))
    settings = Settings(Endpoint("127.0.0.1", 1), long_list=long_list)
    listener: Json = static_bootstrap(translate(ruleset, plan(ruleset), settings))["static_resources"]["listeners"][0]
    return {**listener, "name": name}


@dataclasses.dataclass(frozen=True)
class _Case:
    number: int
    regexes: int
    structure: str

    @property
    def name(self) -> str:
        return f"{self.number}/{self.regexes}/{self.structure}"


async def main(seconds: int) -> None:
    cases = {
        case.name: case
        for regexes in (0, REGEXES)
        for number in NUMBERS
        for case in (_Case(number, regexes, structure) for structure in STRUCTURES)
    }
    listeners = [_listener(name, case.number, case.regexes, STRUCTURES[case.structure]) for name, case in cases.items()]
    config = {"admin": bootstrap(admin=("127.0.0.1", 0))["admin"], "static_resources": {"listeners": listeners}}
    async with running(find().path, config, concurrency=1, log_level="error") as envoy:
        bound = await envoy.ready(list(cases))

        async def measure(name: str) -> Cost:
            path = f"/page/{cases[name].number - 1:05}"
            return await gateway_cost(envoy.pid, wrk(bound[name][0][1], path, seconds=seconds))

        costs = await interleaved(list(cases), ROUNDS, measure)
    base = costs["10/0/list"][0].median
    print(f"CPU per request of Envoy, the last of 10 rules in a list = 1 ({base:.1f} us); {ROUNDS} x {seconds} s")
    print(f"{'rules':>7} {'regexes':>8} {'structure':<10} {'ratio':>6}  {'range'}")
    for name, case in cases.items():
        cpu = costs[name][0]
        print(
            f"{case.number:>7} {case.regexes:>8} {case.structure:<10} {cpu.median / base:>6.2f}"
            f"  {cpu.low / base:.2f}-{cpu.high / base:.2f}"
        )
    write_result(
        "matching",
        {
            "seconds": seconds,
            "rounds": ROUNDS,
            "cases": [
                {**dataclasses.asdict(case), "cpu_us": dataclasses.asdict(costs[name][0])}
                for name, case in cases.items()
            ],
        },
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
