"""The filter that an Envoy with a configuration of its own can take from us by name (`config_discovery`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rejoinder.xds.translate.filters import ext_proc_filter
from rejoinder.xds.translate.settings import Json

EXTENSION: Final = "rejoinder"
"""The filter's name."""


def extensions() -> Iterator[Json]:
    """The TypedExtensionConfigs. They refer to a cluster that such an Envoy has to have already."""
    yield {"name": EXTENSION, "typed_config": foreign_filter()}


def foreign_filter() -> Json:
    """The ext_proc filter for an Envoy whose routes are not ours: the service matches requests by itself."""
    return ext_proc_filter(
        processing_mode={"request_header_mode": "SEND", "response_header_mode": "SEND"},
        request_attributes=["xds.route_name"],
    )
