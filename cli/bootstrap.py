"""`rejoinder bootstrap`: what to put into an Envoy that somebody else runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import SplitResult

from rejoinder import envoy
from rejoinder.cli import console, handlers, transport
from rejoinder.cli.arguments import UnusableError
from rejoinder.envoy.module import library
from rejoinder.rules.load import load
from rejoinder.rules.model import Endpoint, Ruleset, Upstream
from rejoinder.rules.program import Program, compile_rules, needs, needs_python, services_asked
from rejoinder.rules.program_bytes import encode
from rejoinder.transport.envoy_side import EnvoyTls, secret
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.clusters import ext_proc_cluster, upstream_cluster
from rejoinder.xds.translate.ext_proc import sees_requests
from rejoinder.xds.translate.extensions import FOREIGN, foreign_discovery, foreign_filters
from rejoinder.xds.translate.module import module_filter

Part = tuple[str, Any]
"""A comment, and what stands below it."""
Parts = Iterator[Part]

_MODULE_CLUSTER: Final = "rejoinder_module"
_SEARCH_PATH: Final = (
    f"# Start Envoy with ENVOY_DYNAMIC_MODULES_SEARCH_PATH={library.LIBRARY.parent}\n"
    "# (and, for rules with regular expressions or handlers, with what docs/module.md says of Python)"
)
_FILTERS_GO: Final = "# Into http_filters of the http_connection_manager, before all others."


def run(options: argparse.Namespace) -> int:
    tls = None if options.kind == "secret" else transport.envoy_tls(options)
    if options.kind == "secret":
        parts = _secret(options)
    elif options.kind == "ads":
        parts = _ads(options, tls)
    elif not options.sources:
        parts = _follow(options, tls)
    else:
        loaded = load(options.sources, upstreams=dict(options.upstream))
        console.print_problems(loaded.complaints)
        if loaded.ruleset is None:
            return 1
        _warn_of_routes(loaded.ruleset)
        program = compile_rules(loaded.ruleset.rules)
        if options.kind == "ext_proc":
            parts = _ext_proc(options, program, tls)
        else:
            parts = _module(options, program, loaded.ruleset.upstreams)
    for number, (comment, value) in enumerate(parts):
        print("\n" * bool(number) + comment)
        console.print_yaml(value)
    return 0


def _ads(options: argparse.Namespace, tls: EnvoyTls | None) -> Parts:
    if options.sources:
        raise UnusableError("bootstrap ads takes no rule files: `rejoinder serve` has them")
    yield (
        "# Start Envoy with this file: it takes everything else from `rejoinder serve`.\n"
        f"# With `rejoinder serve --conditional module`:\n{_SEARCH_PATH}",
        envoy.bootstrap(
            options.xds,
            tls=tls,
            admin=options.envoy_admin,
            access_log=options.access_log,
            counts=None if options.no_counts else 5.0,
        ),
    )


def _secret(options: argparse.Namespace) -> Parts:
    if bool(options.envoy_ca) is bool(options.envoy_cert and options.envoy_key):
        raise UnusableError(
            "bootstrap secret: expected --envoy-cert and --envoy-key, or --envoy-ca, with paths of PEM files"
        )
    yield (
        "# Envoy reads this where --envoy-cert or --envoy-ca names it, and what it names again whenever that changes.",
        secret(options.envoy_cert, options.envoy_key, options.envoy_ca),
    )


def _warn_of_routes(ruleset: Ruleset) -> None:
    if acting := [route.name for route in ruleset.routes if route.name]:
        console.say(
            f"note: the routes of these files ({', '.join(acting[:5])}{', ...' if len(acting) > 5 else ''}) count for "
            "nothing in an Envoy with routes of its own: only the rules do"
        )


def _ext_proc(options: argparse.Namespace, program: Program, tls: EnvoyTls | None) -> Parts:
    left_out = {"requests"} if not sees_requests(program) else set()
    left_out |= {"host"} if not needs(program).hosts else set()
    filters = foreign_filters(program, Placement.EXT_PROC)
    yield (
        f"{_FILTERS_GO} It fails open: when the service\n"
        "# is slow, dead or restarting, requests and responses pass as if there were no rules. docs/ext_proc.md\n"
        "# explains each field. Print it again when rules begin to look at another status or header, at paths, hosts,\n"
        "# methods or routes, or to answer without an upstream; without rule files, this command prints what follows\n"
        "# the rules by itself.",
        [entry for entry in filters if entry["name"].rpartition(".")[2] not in left_out],
    )
    yield "# Into the clusters: where `rejoinder serve` answers.", [_ext_proc_cluster(options, tls)]


def _ext_proc_cluster(options: argparse.Namespace, tls: EnvoyTls | None) -> Any:
    return ext_proc_cluster(transport.ext_proc(options), options.workers, tls)


def _module(options: argparse.Namespace, program: Program, upstreams: Sequence[Upstream]) -> Parts:
    url, services = options.remote, services_asked(program)
    comment = f"{_FILTERS_GO} The rules are in it: print it anew\n# when they change. docs/module.md says more.\n"
    comment += "# Envoy fetches the module and checks its hash." if url else _SEARCH_PATH
    if any(map(needs_python, program.rules)):
        variables = library.environment(handlers=handlers.folders_of(options.sources)).items()
        comment += "\n# These rules need Python in Envoy, for handlers or regular expressions:"
        comment += "".join(f"\n#   {name}={value}" for name, value in variables)
    try:
        source = _remote(url) if url else None
    except OSError as error:
        raise UnusableError(f"the module was not compiled when Rejoinder was installed: {error}") from None
    ((name, _),) = FOREIGN[Placement.MODULE].items()
    yield comment, [{"name": name, "typed_config": module_filter(name, encode(program), source)}]
    asked = [upstream for upstream in upstreams if upstream in services]
    what = ["what is asked for pages"] * bool(asked)
    if url:
        tls = url.scheme == "https"
        asked.append(Upstream(_MODULE_CLUSTER, (Endpoint(url.hostname, url.port or (443 if tls else 80)),), tls=tls))
        what.append("where Envoy fetches the module")
    if asked:
        clusters = [upstream_cluster(upstream, options.trusted_ca) for upstream in asked]
        yield f"# Into the clusters: {' and '.join(what)}.", clusters


def _remote(url: SplitResult) -> dict[str, Any]:
    where = {"uri": url.geturl(), "cluster": _MODULE_CLUSTER, "timeout": "10s"}
    return {"remote": {"http_uri": where, "sha256": library.sha256()}}


def _follow(options: argparse.Namespace, tls: EnvoyTls | None) -> Parts:
    kind = Placement(options.kind)
    by_module = kind is Placement.MODULE
    yield (
        f"{_FILTERS_GO} Envoy has the rest, and every change of\n"
        "# it, from `rejoinder serve`; until that is there, everything passes. Envoy needs a `node` with an id, by\n"
        "# which `serve` calls it, and a cluster." + (f"\n{_SEARCH_PATH}" if by_module else ""),
        list(foreign_discovery(kind)),
    )
    comment, clusters = "# Into the clusters: where `rejoinder serve` tells", [envoy.xds_cluster(options.xds, tls)]
    if by_module:
        comment += (
            ".\n# For each upstream that rules ask for a page, Envoy needs a cluster of its name: `rejoinder\n"
            "# bootstrap module RULES` prints them. Without it there is no page."
        )
    else:
        comment += ", and where it answers."
        clusters.append(_ext_proc_cluster(options, tls))
    yield comment, clusters
