"""The faults of `chaos.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from chaos_site import ENVOY_KILLED, PATIENCE, SERVICE, STOPPED, UPSTREAM_KILLED, WORKERS, Site

Fault = Callable[[Site], Awaitable[None]]


def pause(site: Site) -> Awaitable[None]:
    return asyncio.sleep(site.chance.uniform(0.2, 1.5))


async def kill_serve(site: Site) -> None:
    with site.window(SERVICE):
        await site.end("serve")
        site.save(site.rules.edit())
        await pause(site)
        site.start("serve")
        await site.live()


async def kill_worker(site: Site) -> None:
    with site.window(SERVICE):
        os.kill(site.chance.choice(site.workers()), signal.SIGKILL)
        site.save(site.rules.edit())
        await site.live()
        await all_workers(site)


async def all_workers(site: Site) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(site.workers()) < WORKERS or not all(map(listens, range(site.ext_proc, site.ext_proc + WORKERS))):
            await asyncio.sleep(0.05)
    await site.edit()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def kill_envoy(site: Site) -> None:
    with site.window(ENVOY_KILLED):
        await site.end("envoy")
        site.save(site.rules.edit())
        site.start("envoy")
        await site.live()


async def kill_upstream(site: Site) -> None:
    name = site.chance.choice(sorted(site.upstreams))
    with site.window(UPSTREAM_KILLED):
        await site.end(name)
        await site.edit() if name != "a" else site.save(site.rules.edit())
        await pause(site)
        site.start(name)
        async with asyncio.timeout(PATIENCE):
            while not listens(site.upstreams[name]):
                await asyncio.sleep(0.02)
        await site.live()


async def stop(site: Site, pid: int, *windows: str) -> None:
    with site.window(STOPPED, *windows):
        os.kill(pid, signal.SIGSTOP)
        try:
            site.save(site.rules.edit())
            await pause(site)
        finally:
            os.kill(pid, signal.SIGCONT)
        await site.live()


async def stop_serve(site: Site) -> None:
    await stop(site, site.running["serve"].pid)


async def stop_worker(site: Site) -> None:
    await stop(site, site.chance.choice(site.workers()), SERVICE)


async def stop_envoy(site: Site) -> None:
    await stop(site, site.running["envoy"].pid)


async def stop_upstream(site: Site) -> None:
    await stop(site, site.running[site.chance.choice(sorted(site.upstreams))].pid)


async def mend(site: Site) -> None:
    await site.problems()
    await pause(site)
    await site.edit()


async def broken_rules(site: Site) -> None:
    text = site.rules.text()
    at = site.chance.randrange(len(text))
    broken = site.chance.choice(("", "rules: [", f"{text[:at]}\0{text[at:]}", "rules: {a: 1}\n", "\tx", "rulez: []\n"))
    assert not site.know(broken)
    site.file.write_text(broken)
    await mend(site)


async def deleted_rules(site: Site) -> None:
    site.file.unlink()
    await mend(site)


async def folder_for_rules(site: Site) -> None:
    site.file.unlink()
    site.file.mkdir()
    await site.problems()
    site.file.rmdir()
    await site.edit()


async def replaced_rules(site: Site) -> None:
    site.save(site.rules.replace())
    await site.live()


async def half_written_rules(site: Site) -> None:
    text = site.rules.edit()
    half = text[: site.chance.randrange(len(text))]
    site.know(half)  # it may well be a rule set
    with site.file.open("w") as file:
        file.write(half)
        file.flush()
        await pause(site)
        site.know(text)
        file.write(text[len(half) :])
    await site.live()


async def burst_of_edits(site: Site) -> None:
    for _ in range(20):
        site.save(site.rules.edit())
    await site.live()


async def no_permission(site: Site) -> None:
    what = site.chance.choice((site.file, site.disk))
    mode = what.stat().st_mode
    what.chmod(0)
    await site.problems()
    what.chmod(mode)
    await site.edit()


async def full_disk(site: Site) -> None:
    """The disk is full: an editor has truncated the file, and one that renames cannot write, either."""
    filler = site.disk / "filler"
    with filler.open("wb", buffering=0) as full, site.file.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while full.write(bytes(1 << 12)):
                pass
        for target in (file, full):
            with contextlib.suppress(OSError):
                assert not target.write(site.rules.text().encode())
    await site.problems()
    await pause(site)
    filler.unlink()
    await site.edit()


async def moved_clock(site: Site) -> None:
    for seconds in site.chance.sample((3600, -3600, 86_400 * 400, -86_400 * 400, 1, -1, 0), 3):
        site.clock.move(seconds)
        await site.edit()
    site.clock.move(0)
    await site.edit()


async def rejected_rules(site: Site) -> None:
    """A listener on an address that is not this machine's."""
    site.rules.edit()
    text = site.rules.text("192.0.2.1:1")
    assert site.know(text)
    site.file.write_text(text)
    await pause(site)
    await site.edit()


FAULTS: Final[dict[str, Fault]] = {
    "`serve` killed": kill_serve,
    "worker killed": kill_worker,
    "Envoy killed": kill_envoy,
    "upstream killed": kill_upstream,
    "`serve` stopped": stop_serve,
    "worker stopped": stop_worker,
    "Envoy stopped": stop_envoy,
    "upstream stopped": stop_upstream,
    "rules broken": broken_rules,
    "rules deleted": deleted_rules,
    "a folder for rules": folder_for_rules,
    "rules replaced": replaced_rules,
    "rules half written": half_written_rules,
    "20 edits at once": burst_of_edits,
    "rules without permission": no_permission,
    "disk full": full_disk,
    "clock moved": moved_clock,
    "rules that Envoy rejects": rejected_rules,
}
DEADLY: Final = {name for name in FAULTS if name.endswith("killed")}
