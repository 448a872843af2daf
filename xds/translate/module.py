"""The dynamic module's filter, which gets the decision program. Pure.

`rules.program_bytes` makes the bytes, envoy/module/program.c reads them (docs/program.md).
"""

from __future__ import annotations

import base64
from typing import Final

from rejoinder.xds.translate.settings import Json, typed

NAME: Final = "rejoinder"
"""Of the module: Envoy looks for `librejoinder.so` in ENVOY_DYNAMIC_MODULES_SEARCH_PATH."""

TYPE: Final = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"


def module_filter(name: str, program: bytes, source: Json | None = None) -> Json:
    """The filter's configuration.

    Args:
        name: of the filter. Until all parts of a program have come, the module uses the last program of the same name.
        program: a whole program, or one that names its parts, or one part.
        source: where Envoy gets the module (`envoy.config.core.v3.AsyncDataSource`); None: it finds it by name.
    """
    where = {"module": source} if source else {"name": NAME}
    return typed(
        TYPE,
        # The namespace is the prefix of counter names. The module is never unloaded: it keeps state between programs,
        # and the Python for handlers can be started only once.
        dynamic_module_config={**where, "metrics_namespace": NAME, "do_not_close": True},
        filter_name=name,
        filter_config=typed("google.protobuf.BytesValue", value=base64.b64encode(program).decode()),
    )
