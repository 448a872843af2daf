"""The dynamic module: conditional answers inside Envoy's process (docs/module.md).

Reading order: `filter.c` (the hot path, with `table.c` and `abi.h`), `config` (a route's configuration, as values),
`embedded` (the Python inside Envoy), `build` (how both become librejoinder.so), `available` (whether it can be used).
"""
