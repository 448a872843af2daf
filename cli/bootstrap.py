"""`rejoinder bootstrap`: what to put into an Envoy that somebody else runs."""

from __future__ import annotations

import argparse

from rejoinder import envoy
from rejoinder.cli import arguments, console
from rejoinder.envoy.module import library
from rejoinder.rules.answers import AnswerTable, Choice
from rejoinder.rules.model import Answer, Endpoint
from rejoinder.xds.translate import filters
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.extensions import EXTENSION, foreign_filter
from rejoinder.xds.translate.module import module_filter, module_route


def run(options: argparse.Namespace) -> int:
    if options.kind == "ads":
        print("# Start Envoy with this file: it takes everything else from `rejoinder serve`.")
        console.print_yaml(envoy.bootstrap(options.xds, admin=options.envoy_admin))
        return 0
    if options.kind == "module":
        _print_module()
        return 0
    cluster = ext_proc_cluster(Endpoint(*(options.ext_proc_advertise or arguments.EXT_PROC)), options.workers)
    print(
        "# Into http_filters of the http_connection_manager, before all others. It fails open: when the service is\n"
        "# slow, dead or restarting, requests and responses pass as if there were no rules. docs/ext_proc.md explains\n"
        "# each field."
    )
    console.print_yaml([{"name": EXTENSION, "typed_config": foreign_filter()}])
    print("\n# Into the clusters: where `rejoinder serve` answers.")
    console.print_yaml([cluster])
    return 0


def _print_module() -> None:
    print(
        "# Into http_filters of the http_connection_manager, before all others. docs/module.md says more. Start Envoy\n"
        "# with these environment variables, so that it finds the module, and Python in it what is installed here:\n#"
    )
    for name, value in library.environment().items():
        print(f"#   {name}={value}")
    console.print_yaml([{"name": filters.MODULE, "disabled": True, "typed_config": module_filter()}])
    print("\n# Into each route (or virtual host) that is to be answered for: upstream status -> reply.")
    choice = Choice("busy", Answer(503, (("retry-after", "30"),), b"We are busy.\n"))
    table = AnswerTable(by_status=((503, choice),))
    console.print_yaml({"typed_per_filter_config": {filters.MODULE: module_route(table, "")}})
