"""`rejoinder render`: the whole configuration as one static file for a plain Envoy."""

from __future__ import annotations

import argparse

from rejoinder.cli import console, handlers, transport
from rejoinder.cli.sources import loaded_from
from rejoinder.envoy.module import library
from rejoinder.rules.program import compile_rules
from rejoinder.transport.addresses import show
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Placement, conditional_program, static_bootstrap, translate


def run(options: argparse.Namespace) -> int:
    settings = transport.settings(options)
    loaded = loaded_from(options.sources, options)
    console.print_problems(loaded.complaints)
    if loaded.ruleset is None:
        return 1
    console.warn_of_echo(loaded.ruleset)
    program = compile_rules(loaded.ruleset.rules)
    built = translate(loaded.ruleset, program, plan(loaded.ruleset), settings)
    console.print_yaml(static_bootstrap(built))
    if any(listener.key for listener in loaded.ruleset.listeners) or any(
        upstream.tls_options.key for upstream in loaded.ruleset.upstreams
    ):
        console.say("note: private keys stand in it: write it to a file that nobody else may read (umask 077)")
    conditional = conditional_program(loaded.ruleset)
    if conditional and settings.conditional is Placement.MODULE:
        variables = library.environment(handlers=handlers.folders_of(options.sources))
        said = " ".join(f"{name}={value}" for name, value in variables.items())
        console.say(f"note: Envoy must be able to load the module; start it with {said}")
    elif conditional:
        console.say(
            f"note: answers to upstream statuses come from `rejoinder serve` with the same files, at "
            f"{show(transport.ext_proc(options))}; without it, upstream responses pass through"
        )
    return 0
