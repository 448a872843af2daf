"""Everything that Envoy gets at one moment, as one value.

In: the encoded messages that `translate` makes. Out: a `Snapshot`, which has resources by type and name, each with a
version, and one version for the whole. Versions are hashes of content: two servers over the same rules give the same
versions, and an Envoy can move from one to the other without being sent anything. `check` finds inconsistencies;
nothing here raises.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from rejoinder.xds.protobuf import message_class, varint
from rejoinder.xds.remember import Frozen

_DiscoveryResponse: Final = message_class("envoy.service.discovery.v3.DiscoveryResponse")
_Resource: Final = message_class("envoy.service.discovery.v3.Resource")


@dataclass(frozen=True, slots=True)
class ResourceType:
    """A type of resource that Envoy asks for."""

    name: str
    """Its name in messages and in the names of golden files."""
    message: str
    """The full name of its protobuf message."""
    whole: bool
    """A state-of-the-world response lists all of them, and missing ones are removed. Otherwise it may list some."""
    wildcard: bool
    """A client may ask for all of them without giving names."""

    @property
    def url(self) -> str:
        return f"type.googleapis.com/{self.message}"


# In ADS sending order: a resource comes before those that refer to it, except that Envoy asks for the routes of a
# listener only when it has the listener.
# https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
RESOURCE_TYPES: Final = (
    CLUSTERS := ResourceType("clusters", "envoy.config.cluster.v3.Cluster", whole=True, wildcard=True),
    LISTENERS := ResourceType("listeners", "envoy.config.listener.v3.Listener", whole=True, wildcard=True),
    ROUTES := ResourceType("routes", "envoy.config.route.v3.RouteConfiguration", whole=False, wildcard=False),
    # Those outside of their route configuration; its name is theirs up to the last `/`.
    VIRTUAL_HOSTS := ResourceType("virtual hosts", "envoy.config.route.v3.VirtualHost", whole=False, wildcard=True),
    EXTENSIONS := ResourceType("extensions", "envoy.config.core.v3.TypedExtensionConfig", whole=False, wildcard=False),
)

_MOST_SUBSETS: Final = 32
"""For how many sets of route configurations the virtual hosts are remembered. Envoys mostly ask for the same ones;
other clients may ask for any."""

Reference = tuple[ResourceType, str]

Resources = Frozen[str, "Resource"]


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. Two are equal if type, name and body are."""

    type: ResourceType = field(compare=False)
    name: str = field(compare=False)
    body: bytes = field(compare=False, repr=False)
    references: frozenset[Reference] = field(default=frozenset(), compare=False)
    """The resources that it needs: a listener its route configurations, a route configuration its clusters, ..."""
    with_logs: Callable[[bool, bool], bytes] | None = field(default=None, compare=False, repr=False)
    """Makes the body of a listener with access logs, as for `Snapshot.logged`; None: it cannot have any."""
    version: str = field(init=False)
    """A hash of type, name and body."""
    encoded: bytes = field(init=False, compare=False, repr=False)
    """The resource as part of a response: field 2 of a DiscoveryResponse, holding the body as `google.protobuf.Any`.
    Made once and shared by all clients."""
    delta_head: bytes = field(init=False, compare=False, repr=False)
    """The bytes before `encoded` in an incremental response."""

    def __post_init__(self) -> None:
        response = _DiscoveryResponse()
        response.resources.add(type_url=self.type.url, value=self.body)
        encoded = response.SerializeToString()
        object.__setattr__(self, "encoded", encoded)
        version = _hash([self.name, encoded])
        object.__setattr__(self, "version", version)
        # In a DeltaDiscoveryResponse, field 2 is a Resource, whose own field 2 is the Any: `encoded`, including its
        # tag. So the Resource is encoded without it, and the length in front is increased by that of `encoded`.
        inner: bytes = _Resource(name=self.name, version=version).SerializeToString()
        object.__setattr__(self, "delta_head", b"\x12" + varint(len(inner) + len(encoded)) + inner)

    def logged(self, counts: bool, lines: bool) -> Resource:
        """The same with access logs."""
        return replace(self, body=self.with_logs(counts, lines)) if self.with_logs else self


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state that an Envoy is to have. Two are equal if their resources are, in whatever order they were given."""

    resources: tuple[Resource, ...] = field(compare=False)
    split: Snapshot | None = field(default=None, compare=False, repr=False)
    """The same, with virtual hosts as resources of their own, for clients that can take them; None: there is none."""
    without_module: Snapshot | None = field(default=None, compare=False, repr=False)
    """The same, with ext_proc in place of the module, for clients that cannot load it; None: there is none."""
    by_type: Mapping[ResourceType, Resources] = field(init=False, compare=False, repr=False)
    """Has every type. Of two resources with the same name (see `check`) it has one."""
    versions: Mapping[ResourceType, str] = field(init=False, compare=False, repr=False)
    """The `content_version` of each type."""
    version: str = field(init=False)
    _hosts: dict[frozenset[str], Resources] = field(default_factory=dict, init=False, compare=False, repr=False)
    _logged: dict[tuple[bool, bool], Snapshot] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_type: dict[ResourceType, Resources] = {kind: Frozen() for kind in RESOURCE_TYPES}
        for resource in self.resources:
            by_type[resource.type][resource.name] = resource
        versions = {kind: content_version(resources) for kind, resources in by_type.items()}
        object.__setattr__(self, "by_type", by_type)
        object.__setattr__(self, "versions", versions)
        forms = [form.version for form in (self.split, self.without_module) if form]
        object.__setattr__(self, "version", _hash([*versions.values(), *forms]))

    def virtual_hosts(self, routes: frozenset[str]) -> Resources:
        """The virtual hosts of some route configurations, by their names: the same object for the same names."""
        # A client may have asked for names that are not ours; these must not add entries to what is remembered.
        routes = routes.intersection(self.by_type[ROUTES])
        if routes not in self._hosts:
            if len(self._hosts) >= _MOST_SUBSETS:
                self._hosts.clear()
            ours = self.by_type[VIRTUAL_HOSTS]
            wanted = Frozen({name: host for name, host in ours.items() if routes_of(name) in routes})
            self._hosts[routes] = ours if len(wanted) == len(ours) else wanted
        return self._hosts[routes]

    def logged(self, counts: bool, lines: bool) -> Snapshot:
        """The same, with access logs.

        Args:
            counts: answers are counted.
            lines: each request is a line on Envoy's standard output.
        """
        if not (counts or lines):
            return self
        if (counts, lines) not in self._logged:
            made = copy.copy(self)  # keeps the hashes of most resources
            listeners = Frozen({name: one.logged(counts, lines) for name, one in self.by_type[LISTENERS].items()})
            versions = {**self.versions, LISTENERS: content_version(listeners)}
            object.__setattr__(made, "by_type", {**self.by_type, LISTENERS: listeners})
            object.__setattr__(made, "versions", versions)
            object.__setattr__(made, "version", _hash(versions.values()))
            self._logged[counts, lines] = made
        return self._logged[counts, lines]

    def check(self) -> tuple[str, ...]:
        """The inconsistencies, one line each; empty if Envoy may have the snapshot.

        If a name occurs twice in a type, Envoy would reject the response. If a resource refers to one that does not
        exist, Envoy would answer requests with 503, or wait for ever.
        """
        count = Counter((resource.type, resource.name) for resource in self.resources)
        twice = (f'{kind.name}: "{name}" comes {times} times' for (kind, name), times in count.items() if times > 1)
        dangling = (
            f'{resource.type.name}: "{resource.name}" refers to "{name}", which is not among the {kind.name}'
            for resource in self.resources
            for kind, name in sorted(self._dangling(resource), key=lambda reference: (reference[0].name, reference[1]))
        )
        forms = (form.check() for form in (self.split, self.without_module) if form)
        # A cluster's problem is in all forms of the snapshot.
        return tuple(dict.fromkeys((*twice, *dangling, *(problem for form in forms for problem in form))))

    def _dangling(self, resource: Resource) -> Iterator[Reference]:
        references = resource.references
        if resource.type is VIRTUAL_HOSTS:
            references |= {(ROUTES, routes_of(resource.name))}
        return ((kind, name) for kind, name in references if name not in self.by_type[kind])


def routes_of(virtual_host: str) -> str:
    """The name of the route configuration of a virtual host that is a resource of its own."""
    return virtual_host.rpartition("/")[0]


def content_version(resources: Resources) -> str:
    """The version of some resources of one type: a hash of their names and content."""
    return _hash(resources[name].version for name in sorted(resources))


def _hash(parts: Iterable[str | bytes]) -> str:
    # 80 bits: two states of one installation will never collide by chance, and people can still read it aloud.
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.hexdigest()
