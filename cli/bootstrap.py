"""`rejoinder bootstrap`: what to put into an Envoy that somebody else runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
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

_MODULE_CLUSTER: Final = "rejoinder_module"
_FILTERS_GO: Final = "# Into http_filters of the http_connection_manager, before all others."


def run(options: argparse.Namespace) -> int:
    if options.kind == "secret":
        return _secret(options)
    tls = transport.envoy_tls(options)
    if options.kind == "ads":
        if options.sources:
            return console.fail("bootstrap ads takes no rule files: `rejoinder serve` has them")
        print("# Start Envoy with this file: it takes everything else from `rejoinder serve`.")
        print("# With `rejoinder serve --conditional module`:")
        _print_search_path()
        console.print_yaml(
            envoy.bootstrap(
                options.xds,
                tls=tls,
                admin=options.envoy_admin,
                access_log=options.access_log,
                counts=None if options.no_counts else 5.0,
            )
        )
        return 0
    if not options.sources:
        return _follow(options, tls)
    loaded = load(options.sources, upstreams=dict(options.upstream))
    console.print_problems(loaded.complaints)
    if loaded.ruleset is None:
        return 1
    _warn_of_routes(loaded.ruleset)
    program = compile_rules(loaded.ruleset.rules)
    if options.kind == "ext_proc":
        return _ext_proc(options, program, tls)
    asked = services_asked(program)
    return _module(options, program, [upstream for upstream in loaded.ruleset.upstreams if upstream in asked])


def _secret(options: argparse.Namespace) -> int:
    if bool(options.envoy_ca) is bool(options.envoy_cert and options.envoy_key):
        raise UnusableError(
            "bootstrap secret: expected --envoy-cert and --envoy-key, or --envoy-ca, with paths of PEM files"
        )
    print(
        "# Envoy reads this where --envoy-cert or --envoy-ca names it, and what it names again whenever that changes."
    )
    console.print_yaml(secret(options.envoy_cert, options.envoy_key, options.envoy_ca))
    return 0


def _warn_of_routes(ruleset: Ruleset) -> None:
    if acting := [route.name for route in ruleset.routes if route.name]:
        console.say(
            f"note: the routes of these files ({', '.join(acting[:5])}{', ...' if len(acting) > 5 else ''}) count for "
            "nothing in an Envoy with routes of its own: only the rules do"
        )


def _ext_proc(options: argparse.Namespace, program: Program, tls: EnvoyTls | None) -> int:
    names = {"requests"} if not sees_requests(program) else set()
    names |= {"host"} if not needs(program).hosts else set()
    print(
        f"{_FILTERS_GO} It fails open: when the service\n"
        "# is slow, dead or restarting, requests and responses pass as if there were no rules. docs/ext_proc.md\n"
        "# explains each field. Print it again when rules begin to look at another status or header, at paths, hosts,\n"
        "# methods or routes, or to answer without an upstream; without rule files, this command prints what follows\n"
        "# the rules by itself."
    )
    filters = foreign_filters(program, Placement.EXT_PROC)
    console.print_yaml([entry for entry in filters if entry["name"].rpartition(".")[2] not in names])
    _print_cluster(options, tls)
    return 0


def _print_cluster(options: argparse.Namespace, tls: EnvoyTls | None) -> None:
    print("\n# Into the clusters: where `rejoinder serve` answers.")
    console.print_yaml([ext_proc_cluster(transport.ext_proc(options), options.workers, tls)])


def _module(options: argparse.Namespace, program: Program, asked: Sequence[Upstream]) -> int:
    print(f"{_FILTERS_GO} The rules are in it: print it anew\n# when they change. docs/module.md says more.")
    if options.remote:
        print("# Envoy fetches the module and checks its hash.")
    else:
        _print_search_path()
    if any(map(needs_python, program.rules)):
        _print_environment(options.sources)
    try:
        source = _remote(options.remote) if options.remote else None
    except OSError as error:
        return console.fail(f"the module was not compiled when Rejoinder was installed: {error}")
    ((name, _),) = FOREIGN[Placement.MODULE].items()
    console.print_yaml([{"name": name, "typed_config": module_filter(name, encode(program), source)}])
    if asked:
        print("\n# Into the clusters: what is asked for pages.")
        console.print_yaml([upstream_cluster(upstream, options.trusted_ca) for upstream in asked])
    if options.remote:
        print("\n# Into the clusters: where Envoy fetches the module.")
        tls = options.remote.scheme == "https"
        endpoint = Endpoint(options.remote.hostname, options.remote.port or (443 if tls else 80))
        console.print_yaml([upstream_cluster(Upstream(_MODULE_CLUSTER, (endpoint,), tls=tls), options.trusted_ca)])
    return 0


def _remote(url: SplitResult) -> dict[str, Any]:
    where = {"uri": url.geturl(), "cluster": _MODULE_CLUSTER, "timeout": "10s"}
    return {"remote": {"http_uri": where, "sha256": library.sha256()}}


def _print_search_path() -> None:
    print(
        f"# Start Envoy with ENVOY_DYNAMIC_MODULES_SEARCH_PATH={library.LIBRARY.parent}\n"
        "# (and, for rules with regular expressions or handlers, with what docs/module.md says of Python)"
    )


def _print_environment(sources: Iterable[Path]) -> None:
    print("# These rules need Python in Envoy, for handlers or regular expressions:")
    for name, value in library.environment(handlers=handlers.folders_of(sources)).items():
        print(f"#   {name}={value}")


def _follow(options: argparse.Namespace, tls: EnvoyTls | None) -> int:
    kind = Placement(options.kind)
    print(
        f"{_FILTERS_GO} Envoy has the rest, and every change of\n"
        "# it, from `rejoinder serve`; until that is there, everything passes. Envoy needs a `node` with an id, by\n"
        "# which `serve` calls it, and a cluster."
    )
    if kind is Placement.MODULE:
        _print_search_path()
    console.print_yaml(list(foreign_discovery(kind)))
    print("\n# Into the clusters: where `rejoinder serve` tells.")
    if kind is Placement.MODULE:
        print(
            "# For each upstream that rules ask for a page, Envoy needs another one, of its name: `rejoinder\n"
            "# bootstrap module RULES` prints them. Without it there is no page."
        )
    console.print_yaml([envoy.xds_cluster(options.xds, tls)])
    if kind is Placement.EXT_PROC:
        _print_cluster(options, tls)
    return 0
