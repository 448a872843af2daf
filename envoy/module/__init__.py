"""The dynamic module: conditional answers inside Envoy's process (docs/module.md).

Reading order: `program.h` (what is asked of a program, with `index` and `program.c`), `filter.c` (the hot path, with `abi.h`
and `grace.c`), `config.c` (programs and their parts, as Envoy brings them), `beside.h` (what Python is needed for, with
`beside.c`, and on its side `embedded.c` and `embedded`), `build` (how they become libraries), `library` (whether these can be
used).
"""
