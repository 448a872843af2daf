"""All kinds of faults, in random order, under a steady load: is every answer one that the rules ask for?

    python bench/chaos.py [--minutes 10] [--seed 1] [--write]

For each placement: `rejoinder serve` with two ext_proc workers, an Envoy with the output of `rejoinder bootstrap ads`,
and two upstreams, all of them processes. Every response is compared with `decide` for the rule sets that may be in
force: those before and after the last edit until the edit is live, then only the second. (A set that Envoy rejects
counts until the next one is live, because the ext_proc service has it.) The faults are in the table FAULTS; there is an
edit during each fault, and many edits between them. In the second half of the time no fault ends a process: memory is
compared between its beginning and its end.

Also allowed:
- while an Envoy is killed and not back yet: no answer;
- while an upstream is killed: the rules' answer to Envoy's own 503;
- with ext_proc, while `serve` or one of its workers is killed, stopped or comes back: the upstream's own response
  passes (docs/ext_proc.md). This is counted as "passed".

As root it uses a mount namespace with a disk that can be filled, and a `serve` without root's right to read everything.
Without root, there is no full disk. The clock needs a C compiler. `left out` lists what is missing.

`chaos_rules` has the rules, `chaos_requests` the requests and their right answers, `chaos_site` the processes and the
check of the answers, `chaos_faults` the faults, `chaos_report` the table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos_faults import DEADLY, FAULTS
from chaos_processes import MNT_DETACH, small_disk
from chaos_report import is_good, rows, write
from chaos_site import CONNECTIONS, RATE, Site, Tally
from harness import machine

from rejoinder.xds.translate import Placement


async def run(site: Site, minutes: float, left_out: frozenset[str]) -> Tally:
    for name in ("a", "b", "serve", "envoy"):
        if name == "serve":
            site.save(site.rules.text())
        site.start(name)
    loads: list[asyncio.Task[None]] = []
    try:
        await site.live()  # the time until then does not count
        site.tally = Tally()
        site._answered = time.monotonic()
        loads += (asyncio.ensure_future(site.load(number)) for number in range(CONNECTIONS))
        begin = time.monotonic()
        half, end = begin + minutes * 30, begin + minutes * 60
        await faults(site, half, sorted(FAULTS.keys() - left_out))
        rest = sorted(FAULTS.keys() - left_out - DEADLY)
        await faults(site, half + (end - half) / 4, rest)  # processes that were just started still grow
        site.tally.memory.append(site.sizes())
        await faults(site, end, rest)
        site.tally.memory.append(site.sizes())
    finally:
        for task in loads:
            task.cancel()
        ended = await asyncio.gather(*loads, return_exceptions=True)
        for process in site.running.values():
            process.kill()
            process.wait()
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return site.tally


async def faults(site: Site, until: float, names: Sequence[str]) -> None:
    """All of them in random order, again and again, with edits between."""
    order: list[str] = []
    while time.monotonic() < until:
        order = order or site.chance.sample(names, len(names))
        name = site.last = order.pop()
        try:
            await FAULTS[name](site)
        except TimeoutError:
            raise TimeoutError(
                f"{site.placement.value}: it does not recover from this: {name}\n{site.said()}"
            ) from None
        site.tally.faults[name] += 1
        for _ in range(site.chance.randrange(5)):
            await site.edit()


async def main(minutes: float, seed: int, placements: Sequence[Placement]) -> tuple[str, dict[Placement, Tally]]:
    left_out: set[str] = set()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rejoinder-chaos-"))
        sites = []
        for placement in placements:
            place = Path(folder, placement.value)
            disk = place / "disk"
            disk.mkdir(parents=True)
            if small_disk(disk):
                stack.callback(ctypes.CDLL(None).umount2, os.fsencode(disk), MNT_DETACH)
            else:
                left_out.add("disk full")
            sites.append(Site(placement, place, disk, seed))
        if not sites[0].clock.environ:
            left_out.add("clock moved")
        results = await asyncio.gather(*(run(site, minutes, frozenset(left_out)) for site in sites))
    tallies = dict(zip(placements, results, strict=True))
    where = machine()
    text = (
        f"`python bench/chaos.py --minutes {minutes:g} --seed {seed}`, {RATE} requests per second and placement over "
        f"{CONNECTIONS} connections, {where['cores']} cores, {where['cpu']}, Python {where['python']}; left out: "
        f"{', '.join(sorted(left_out)) or 'nothing'}.\n\n"
    )
    return text + "".join(f"| {' | '.join(row)} |\n" for row in rows(tallies)), tallies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--placement", choices=[placement.value for placement in Placement], help="one of them only")
    parser.add_argument("--write", action="store_true", help="put the report into docs/reliability.md")
    options = parser.parse_args()
    wanted = [Placement(options.placement)] if options.placement else list(Placement)
    report, tallies = asyncio.run(main(options.minutes, options.seed, wanted))
    print(report)
    for example in itertools.chain.from_iterable(tally.examples for tally in tallies.values()):
        print(example)
    if options.write:
        write(report)
    sys.exit(not all(map(is_good, tallies.values())))
