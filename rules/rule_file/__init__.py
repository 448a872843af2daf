"""The readers of the rule file's own format, which docs/rule-format.md describes: a file for each section.

`routes` (`routes`: matches and actions), `rules` (`rules`: scopes and their answers), `answers` (one answer: of a rule,
or of a route's `respond`) with `content` (its body, variants and templates) and `headers`, `matches` (tests of a
request: domains, path, methods, headers, query), `addresses` (`listen` and `upstreams`), `values` (what several of them
read). `branding` is in `content`. The custom-response plug-in's own forms are in `rules.higress`.

In: places of a document (see `rules.fields`). Out: values of `rules.model`; mistakes are noted in the place's `Source`.
A reader raises `FieldError` if it cannot make a value, and nothing else. To add a field, add it to the `Shape` of its
section (see `rules.shape`), to the reader and to the docs.
"""
