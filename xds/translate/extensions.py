"""Extension configurations: the filters that answer for rules, which Envoys fetch by name (ECDS). Pure.

Envoys of ours give their unconditional answers by routes; those with routes of their own get all answers from these
filters, under other names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rejoinder.rules.names import XDS_CLUSTER
from rejoinder.rules.program import Program, compile_rules
from rejoinder.rules.program_bytes import Part, cut, encode
from rejoinder.xds.remember import REMEMBERED, Frozen
from rejoinder.xds.translate import ext_proc, filters, module
from rejoinder.xds.translate.filters import discovered, part_name
from rejoinder.xds.translate.settings import Json, Placement

_Make = Callable[[Program], Json]
_FOREIGN_MODULE: Final = "rejoinder.module"


_EXT_PROC: Final[Mapping[str, _Make]] = {
    filters.HOST: ext_proc.host_filter,
    filters.RULES: ext_proc.response_filter,
    filters.REQUESTS: ext_proc.request_filter,
}
"""In the order of the chain."""
_MODULE: Final[Mapping[str, _Make]] = {
    filters.RULES: lambda program: module.module_filter(filters.RULES, cut(program)[0]) if program else ext_proc.IDLE
}

FOREIGN: Final[Mapping[Placement, Mapping[str, _Make]]] = {
    Placement.EXT_PROC: {f"rejoinder.ext_proc.{name.rpartition('.')[2]}": make for name, make in _EXT_PROC.items()},
    Placement.MODULE: {_FOREIGN_MODULE: lambda program: module.module_filter(_FOREIGN_MODULE, encode(program))},
}
"""For Envoys with routes of their own: the filters, in the order of the chain."""
FOREIGN_TYPES: Final = {Placement.EXT_PROC: ext_proc.TYPES, Placement.MODULE: (module.TYPE,)}
"""The possible message types of these filters' configurations."""


def extensions(program: Program, conditional: Placement) -> Iterator[Json]:
    """The TypedExtensionConfigs for Envoys of ours, of all filters that a listener has.

    Args:
        program: the conditional rules.
        conditional: where the answers to statuses come from.
    """
    for name, make in (_MODULE if conditional is Placement.MODULE else _EXT_PROC).items():
        yield {"name": name, "typed_config": make(program)}
    if conditional is Placement.MODULE:
        yield from map(_part, cut(program)[1])


@functools.lru_cache(maxsize=REMEMBERED)
def _part(part: Part) -> Json:
    name = part_name(part)
    return Frozen({"name": name, "typed_config": module.module_filter(name, part.data)})


def foreign_filters(program: Program, placement: Placement) -> Iterator[Json]:
    """The filters for an Envoy with routes of its own, in the order of the chain. They refer to a cluster that such an
    Envoy must already have.

    Args:
        program: all rules.
    """
    for name, make in FOREIGN[placement].items():
        yield {"name": name, "typed_config": make(program)}


def foreign_discovery(placement: Placement) -> Iterator[Json]:
    """The chain entries by which such an Envoy fetches these filters from `serve`; until then, everything passes."""
    source = {
        "api_config_source": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
        },
        "resource_api_version": "V3",
    }
    for made in foreign_filters(compile_rules(()), placement):
        fetched = discovered(*FOREIGN_TYPES[placement], source=source)
        nothing = {"default_config": made["typed_config"], "apply_default_config_without_warming": True}
        fetched["config_discovery"] |= nothing
        yield {"name": made["name"], **fetched}
