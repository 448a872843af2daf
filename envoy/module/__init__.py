"""The dynamic module: conditional answers inside Envoy's process (docs/module.md).

Reading order: `program.h` (what a program is asked; `program.c` reads it, with `reader` and `index`; `ask.c` asks it,
with `request`; `make.c` makes replies that depend on who asks, with `accept` and `template`), `filter.c` (the hot path,
with `abi.h`, `replace` and `grace`), `config` (programs and their parts, as Envoy brings them), `beside.h` (what Python
is needed for, with `beside.c`, and on its side `embedded.c` and `embedded.py`), `build` (how they become libraries),
`library` (whether these can be used).
"""
