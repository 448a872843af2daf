"""From a ruleset to what Envoys and the ext_proc service get, in one step. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rejoinder.rules.model import Ruleset
from rejoinder.rules.program import Program, compile_rules
from rejoinder.xds.plan import Plan, plan
from rejoinder.xds.snapshot import Snapshot
from rejoinder.xds.translate import Configuration, Settings, translate
from rejoinder.xds.translate.encode import snapshot


@dataclass(frozen=True, slots=True)
class Build:
    """Everything that is made from one ruleset; the parts belong together."""

    ruleset: Ruleset
    program: Program
    """For the ext_proc service."""
    plan: Plan
    configuration: Configuration
    snapshot: Snapshot


def build(ruleset: Ruleset, settings: Settings) -> Build:
    """Compile, plan, translate and encode."""
    program, planned = compile_rules(ruleset.rules), plan(ruleset)
    configuration = translate(ruleset, program, planned, settings)
    return Build(ruleset, program, planned, configuration, snapshot(configuration))
