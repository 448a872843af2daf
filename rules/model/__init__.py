"""What a rule file says, as values: the vocabulary of the whole project.

Everything here is frozen and compares by content; nothing here reads files, knows YAML or knows Envoy. `load` makes a
`Ruleset`, `decide` says what it means, `xds.plan` works it into routes. The words are those of docs/rule-format.md.
Each file has the values of one kind; all of them are imported from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rejoinder.rules.model.listeners import *
from rejoinder.rules.model.matches import *
from rejoinder.rules.model.routes import *
from rejoinder.rules.model.rules import *


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The content of all loaded files, merged. Names are unique within their kind."""

    listeners: tuple[Listener, ...] = (DEFAULT_LISTENER,)
    upstreams: tuple[Upstream, ...] = ()
    routes: tuple[Route, ...] = ()
    """In the order in which they are tried."""
    rules: tuple[Rule, ...] = ()
    """In the order in which they are tried."""
    homeless: tuple[Listener, ...] = ()
    """Listeners whose address belongs to another Gateway: Envoy does not get them until `--listen` moves them."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of listeners, in order."""
        return tuple(dict.fromkeys(listener.group for listener in self.listeners))

    def of_group(self, group: str) -> Ruleset:
        """What is in force at the listeners of one group: its routes, and every rule."""
        return replace(
            self,
            listeners=tuple(listener for listener in self.listeners if listener.group == group),
            routes=tuple(route for route in self.routes if route.group == group),
        )
