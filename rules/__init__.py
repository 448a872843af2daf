"""What the user wrote, and what it means.

Reading order: `model` (the vocabulary), `decide` (what it means; `request`, `matching` and `answers` with it), `load`
(files to a `Ruleset`: `files`, `document`, `shape`, `fields`, a reader for each format: `rule_file`, `higress`,
`kubernetes`; then `mentions`, names across files), `schema` (for editors), `shadow` and `misfit` (texts about
rules), `program` (the rules compiled; `program_bytes` for the module), `attributes` and `handlers` (requests as
ext_proc and Python functions see them), `watch` and `reload` (edits). `http`, `names`, `problem` and `log` are what
all of them share.
"""
