"""The references of a rule of an HTTPRoute: to ports of Services, and to DirectResponses.

In: places. Out: upstreams and answers; a reference that cannot be resolved is noted with its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes import direct_response
from rejoinder.rules.kubernetes.cluster import Cluster, upstream_name
from rejoinder.rules.kubernetes.objects import Key, Object, open_fields, port, reference
from rejoinder.rules.kubernetes.status import RESOLVED_REFS, UNSUPPORTED_VALUE, refuse
from rejoinder.rules.model import Answer


@dataclass(frozen=True, slots=True)
class References:
    """The references of one route."""

    route: Object
    cluster: Cluster
    answers: Mapping[Key, Answer | None]
    """The DirectResponses; None: one that cannot be used."""

    def upstream(self, place: Place) -> str | None:
        """The upstream of a reference; None if it cannot be resolved, which is noted."""
        to = reference(place, self.route.key.namespace)
        _, group, kind, key = to
        if (group, kind) != ("", "Service"):
            shown = f"{group}/{kind}" if group else kind
            refuse(place, "InvalidKind", f"{shown} is not supported here: expected a Service", RESOLVED_REFS)
            return None
        number = open_fields(place).require("port", port, 0)
        if not self.cluster.granted(self.route, to):
            message = (
                f"Service {key} is in another namespace, which has no ReferenceGrant that lets HTTPRoutes of "
                f"{self.route.key.namespace} refer to it: add one there"
            )
            refuse(place, "RefNotPermitted", message, RESOLVED_REFS)
            return None
        if self.cluster.service_port(key, number) is None:
            refuse(place, "BackendNotFound", self.cluster.missing(key, number), RESOLVED_REFS)
            return None
        return upstream_name(key, number)

    def response(self, place: Place) -> Answer | None:
        """The answer of a DirectResponse, any answer if that cannot be used; None: the reference is to another kind."""
        fields = open_fields(place)
        group, kind = fields.get("group", Place.string, ""), fields.require("kind", Place.string, "")
        key = Key(self.route.key.namespace, fields.require("name", Place.string, ""))
        if group not in direct_response.GROUPS or kind != direct_response.KIND:
            message = f"{group}/{kind} is not supported: expected {direct_response.GROUP}/{direct_response.KIND}"
            refuse(place, "InvalidKind", message, RESOLVED_REFS)
            refuse(place, UNSUPPORTED_VALUE, message)
            return None
        if key not in self.answers:
            message = f"there is no DirectResponse {key}: add it to the files"
            refuse(place, "BackendNotFound", message, RESOLVED_REFS)
        elif self.answers[key] is None:
            refuse(place, UNSUPPORTED_VALUE, f"DirectResponse {key} cannot be used: see its own conditions")
        return self.answers.get(key) or Answer()
