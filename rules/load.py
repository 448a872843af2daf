"""Rule files in, one `Ruleset` out, or all that is wrong with them.

In: paths of files and folders. Out: a `Loaded`. Nothing is raised, whatever the files hold. `load` is the way in:

    files -> document.parse -> a reader for the kind of document -> `Part`s -> merged, names checked -> `Ruleset`

A new kind of document is a reader in a file of its own and a line in `_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

from rejoinder.rules import addresses, document, higress, native
from rejoinder.rules.document import Map, Scalar, ScalarKind, quoted
from rejoinder.rules.fields import Mention, Place, Source, closest
from rejoinder.rules.files import MAX_FILE_SIZE, SUFFIXES, Files, Fingerprint, Unreadable
from rejoinder.rules.model import DEFAULT_LISTENER, Listener, Position, Route, Rule, Ruleset, Upstream
from rejoinder.rules.problem import Problem, Severity
