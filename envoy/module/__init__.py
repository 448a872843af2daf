"""The dynamic module: conditional answers inside Envoy's process (docs/module.md).

Reading order: `program.h` (the interface of a program; `program.c` reads it, with `reader` and `index`; `ask.c` asks
it, with `request`; `make.c` makes replies that depend on the request, with `accept` and `template`), `filter.c` (the
hot path, with `abi.h`, `page`, `replace` and `grace`), `config` (programs and their parts, as Envoy brings them),
`beside.h` (what needs Python, with `beside.c`, and on its side `embedded.c` and `embedded.py`), `build` (how the
libraries are built), `library` (whether they can be used).
"""
