"""All that Envoy is told at one moment, as one value.

In go the encoded messages that `translate` makes, out comes a `Snapshot`: resources by type and name, each with a
version, and one version for the whole. Versions are hashes of content, so two servers over the same rules give the same
ones, and an Envoy may move from one to the other without being sent anything. `check` finds what is inconsistent;
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
    """A kind of thing that Envoy asks for."""

    name: str
    """What people call it; also names golden files."""
    message: str
    """The full name of its protobuf message."""
    whole: bool
    """A state-of-the-world response lists all of them, and what is missing is removed. Otherwise it may list some."""
    wildcard: bool
    """A client may ask for all of them without saying names."""

    @property
    def url(self) -> str:
        return f"type.googleapis.com/{self.message}"


# In ADS sending order: what is referred to comes before what refers to it, except that Envoy asks for the routes of a
# listener only when it has the listener.
# https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
RESOURCE_TYPES: Final = (
    CLUSTERS := ResourceType("clusters", "envoy.config.cluster.v3.Cluster", whole=True, wildcard=True),
    LISTENERS := ResourceType("listeners", "envoy.config.listener.v3.Listener", whole=True, wildcard=True),
    ROUTES := ResourceType("routes", "envoy.config.route.v3.RouteConfiguration", whole=False, wildcard=False),
    # Those that do not stand in their route configuration, whose name is theirs up to the last `/`.
    VIRTUAL_HOSTS := ResourceType("virtual hosts", "envoy.config.route.v3.VirtualHost", whole=False, wildcard=True),
    EXTENSIONS := ResourceType("extensions", "envoy.config.core.v3.TypedExtensionConfig", whole=False, wildcard=False),
)

_MOST_SUBSETS: Final = 32
"""Of how many sets of route configurations the virtual hosts are remembered. Envoys mostly ask for the same ones; a
client may ask for any."""

Reference = tuple[ResourceType, str]

Resources = Frozen[str, "Resource"]


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that Envoy is told. Two are equal if type, name and body are."""

    type: ResourceType = field(compare=False)
    name: str = field(compare=False)
    body: bytes = field(compare=False, repr=False)
    references: frozenset[Reference] = field(default=frozenset(), compare=False)
    """What it needs: a listener its route configurations, a route configuration its clusters, and so on."""
    with_logs: Callable[[bool, bool], bytes] | None = field(default=None, compare=False, repr=False)
    """Makes the body of a listener with access logs, as for `Snapshot.logged`; None: there are none to be had."""
    version: str = field(init=False)
    """A hash of type, name and body."""
    encoded: bytes = field(init=False, compare=False, repr=False)
    """As it stands in a response: field 2 of a DiscoveryResponse, holding the body as `google.protobuf.Any`. Made once
    and shared by all clients."""
    delta_head: bytes = field(init=False, compare=False, repr=False)
    """What comes before `encoded` in an incremental response."""

    def __post_init__(self) -> None:
        response = _DiscoveryResponse()
        response.resources.add(type_url=self.type.url, value=self.body)
        encoded = response.SerializeToString()
        object.__setattr__(self, "encoded", encoded)
        version = _hash([self.name, encoded])
        object.__setattr__(self, "version", version)
        # In a DeltaDiscoveryResponse, field 2 is a Resource, whose own field 2 is the Any: `encoded`, tag and all. So
        # the Resource is encoded without it, and the length that stands before it put up by that of `encoded`.
        inner: bytes = _Resource(name=self.name, version=version).SerializeToString()
        object.__setattr__(self, "delta_head", b"\x12" + varint(len(inner) + len(encoded)) + inner)

    def logged(self, counts: bool, lines: bool) -> Resource:
        """The same with access logs."""
        return replace(self, body=self.with_logs(counts, lines)) if self.with_logs else self


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an Envoy is to have. Two are equal if their resources are, in whatever order they were given."""

    resources: tuple[Resource, ...] = field(compare=False)
    split: Snapshot | None = field(default=None, compare=False, repr=False)
    """The same, with virtual hosts as resources of their own, for clients that can take them; None: there is none."""
    without_module: Snapshot | None = field(default=None, compare=False, repr=False)
    """The same, with ext_proc in place of the module, for clients that cannot load it; None: there is none."""
    by_type: Mapping[ResourceType, Resources] = field(init=False, compare=False, repr=False)
    """Has every type. Of two resources with one name (see `check`) it knows one."""
    versions: Mapping[ResourceType, str] = field(init=False, compare=False, repr=False)
    """What `content_version` says for each type."""
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
        """The virtual hosts of some route configurations, by the names of these: the same object for the same ones."""
        # A client may have asked for names that are not ours; let them not make one more to remember.
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
            made = copy.copy(self)  # most of it need not be hashed again
            listeners = Frozen({name: one.logged(counts, lines) for name, one in self.by_type[LISTENERS].items()})
            versions = {**self.versions, LISTENERS: content_version(listeners)}
            object.__setattr__(made, "by_type", {**self.by_type, LISTENERS: listeners})
            object.__setattr__(made, "versions", versions)
            object.__setattr__(made, "version", _hash(versions.values()))
            self._logged[counts, lines] = made
        return self._logged[counts, lines]

    def check(self) -> tuple[str, ...]:
        """What is inconsistent, one line each; empty if Envoy may have the snapshot.

        A name that occurs twice in a type would be rejected by Envoy. A reference to a resource that does not exist
        would have it answer requests with 503, or wait for ever.
        """
        count = Counter((resource.type, resource.name) for resource in self.resources)
        twice = (f'{kind.name}: "{name}" comes {times} times' for (kind, name), times in count.items() if times > 1)
        dangling = (
            f'{resource.type.name}: "{resource.name}" refers to "{name}", which is not among the {kind.name}'
            for resource in self.resources
            for kind, name in sorted(self._dangling(resource), key=lambda reference: (reference[0].name, reference[1]))
        )
        forms = (form.check() for form in (self.split, self.without_module) if form)
        # What is wrong with a cluster is so in all forms.
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
    """The version of some resources of one type: a hash of which there are, and of their content."""
    return _hash(resources[name].version for name in sorted(resources))


def _hash(parts: Iterable[str | bytes]) -> str:
    # 80 bits: no two states of one installation will meet by chance, and the name can still be read out.
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.hexdigest()
