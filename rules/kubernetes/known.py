"""The fields of every kind of object that is read: one table for each, which readers, pages and tests share.

In: a place within an object, and the table of what may stand there. Out: nothing; what the table does not have, or has
as refused, is noted as a mistake. So no field is lost in silence: a misspelt `filters` would lose an answer, and a
misspelt `hostnames` would serve every host. `kubectl` refuses fields that are not of an API, too.

The fields are those of the newest API that is listed in docs/gateway-api.md, experimental ones included.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from rejoinder.rules.document import List, Map, Scalar, ScalarKind
from rejoinder.rules.fields import Place


class Use(enum.Enum):
    """What becomes of a field; the value is how pages call it."""

    READ = "read"
    HARMLESS = "without effect"
    """Known, and nothing is lost without it."""
    REFUSED = "not supported"
    """Known, and not to be left out in silence: a mistake."""


Table: TypeAlias = "Mapping[str, Use | Table]"
"""Fields by name. A table in place of a `Use`: the field is read, and these are the fields of what stands there, or of
each entry of the list that stands there."""

READ: Final = Use.READ
HARMLESS: Final = Use.HARMLESS
REFUSED: Final = Use.REFUSED


def check(place: Place, table: Table) -> None:
    """Note each field that a table does not have, and each that it refuses; wrong types are left to the readers."""
    if isinstance(place.node, List):
        for item in place.items():
            check(item, table)
    if not isinstance(place.node, Map):
        return
    for name in place.node.entries:
        use = table.get(name)
        if use is None:
            place.unknown(name, table)
        elif _is_null(field := place.field(name)):
            continue
        elif use is REFUSED:
            place.key(name).error(f"{name} is not supported")
        elif isinstance(use, Mapping):
            check(field, use)


def _is_null(place: Place) -> bool:
    return isinstance(place.node, Scalar) and place.node.kind is ScalarKind.NULL


def without(table: Table, *names: str) -> Table:
    """A table that lets pass what stands in some fields, which is checked elsewhere."""
    return {**table, **dict.fromkeys(names, READ)}


def rows(table: Table, path: str = "") -> Iterator[tuple[str, dict[Use, list[str]]]]:
    """Where fields stand, and which of them are read, without effect, refused: a line for each mapping."""
    uses: dict[Use, list[str]] = {use: [] for use in Use}
    for name, use in table.items():
        uses[use if isinstance(use, Use) else READ].append(name)
    yield path, uses
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            yield from rows(inner, f"{path}.{name}" if path else name)


def markdown(table: Table) -> str:
    """A table as a page shows it."""
    lines = ["| in | read | without effect | not supported |", "|---|---|---|---|"]
    for path, uses in rows(table):
        cells = (", ".join(f"`{name}`" for name in uses[use]) for use in Use)
        lines.append(f"| {f'`{path}`' if path else ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# --- what all objects have ---

METADATA: Final[Table] = {
    "name": READ,
    "namespace": READ,
    "labels": READ,
    "annotations": READ,
    "creationTimestamp": READ,
    "generation": READ,
    **dict.fromkeys(
        (
            "generateName",
            "uid",
            "resourceVersion",
            "selfLink",
            "managedFields",
            "ownerReferences",
            "finalizers",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ),
        HARMLESS,
    ),
}


def _object(**fields: Use | Table) -> Table:
    return {"apiVersion": READ, "kind": READ, "metadata": READ, **fields, "status": HARMLESS}


# --- Gateway API: https://gateway-api.sigs.k8s.io/reference/spec/ ---

_REFERENCE: Final[Table] = {"group": READ, "kind": READ, "namespace": READ, "name": READ}
_HEADERS: Final[Table] = {"name": READ, "value": READ}
_HEADER_CHANGES: Final[Table] = {"set": _HEADERS, "add": _HEADERS, "remove": READ}
_PATH_MODIFIER: Final[Table] = {"type": READ, "replaceFullPath": READ, "replacePrefixMatch": READ}
_VALUE_MATCH: Final[Table] = {"type": READ, "name": READ, "value": READ}
_SELECTOR: Final[Table] = {
    "matchLabels": READ,
    "matchExpressions": {"key": READ, "operator": READ, "values": READ},
}

CLIENT_VALIDATION: Final[Table] = {"caCertificateRefs": _REFERENCE, "mode": READ}

LISTENER: Final[Table] = {
    "name": READ,
    "hostname": READ,
    "port": READ,
    "protocol": READ,
    "tls": {
        "mode": READ,
        "certificateRefs": _REFERENCE,
        "frontendValidation": CLIENT_VALIDATION,
        "options": REFUSED,  # such as one that demands client certificates
    },
    "allowedRoutes": {
        "namespaces": {"from": READ, "selector": _SELECTOR},
        "kinds": {"group": READ, "kind": READ},
    },
}

GATEWAY: Final = _object(
    spec={
        "gatewayClassName": HARMLESS,
        "listeners": LISTENER,
        "addresses": {"type": READ, "value": READ},
        "infrastructure": HARMLESS,
        "allowedListeners": HARMLESS,
        "tls": {
            "frontend": {
                "default": {"validation": CLIENT_VALIDATION},
                "perPort": {"port": READ, "tls": {"validation": CLIENT_VALIDATION}},
            },
            "backend": REFUSED,
        },
        "backendTLS": REFUSED,
        "defaultScope": REFUSED,
    }
)

_COMMON_FILTERS: Final[Table] = {
    "type": READ,
    "requestHeaderModifier": _HEADER_CHANGES,
    "responseHeaderModifier": _HEADER_CHANGES,
    "requestMirror": {
        "backendRef": {**_REFERENCE, "port": READ},
        "percent": READ,
        "fraction": {"numerator": READ, "denominator": READ},
    },
    "requestRedirect": {
        "scheme": READ,
        "hostname": READ,
        "path": _PATH_MODIFIER,
        "port": READ,
        "statusCode": READ,
    },
    "urlRewrite": {"hostname": READ, "path": _PATH_MODIFIER},
    "extensionRef": {"group": READ, "kind": READ, "name": READ},
    "externalAuth": REFUSED,
}
_CORS: Final[Table] = {
    "allowOrigins": READ,
    "allowMethods": READ,
    "allowHeaders": READ,
    "exposeHeaders": READ,
    "allowCredentials": READ,
    "maxAge": READ,
}

HTTP_MATCH: Final[Table] = {
    "path": {"type": READ, "value": READ},
    "headers": _VALUE_MATCH,
    "queryParams": _VALUE_MATCH,
    "method": READ,
}

HTTP_RULE: Final[Table] = {
    "name": READ,
    "matches": HTTP_MATCH,
    "filters": {
        **_COMMON_FILTERS,
        "cors": _CORS,
        "directResponse": {"statusCode": READ, "body": {"string": READ}},
    },
    "backendRefs": {
        **_REFERENCE,
        "port": READ,
        "weight": READ,
        "filters": {**_COMMON_FILTERS, "cors": REFUSED, "directResponse": REFUSED},
    },
    "timeouts": {"request": READ, "backendRequest": READ},
    "retry": REFUSED,
    "sessionPersistence": REFUSED,
}

HTTP_ROUTE: Final = _object(
    spec={
        "parentRefs": {**_REFERENCE, "sectionName": READ, "port": READ},
        "hostnames": READ,
        "rules": HTTP_RULE,
        "useDefaultGateways": REFUSED,
    }
)

REFERENCE_GRANT: Final = _object(
    spec={
        "from": {"group": READ, "kind": READ, "namespace": READ},
        "to": {"group": READ, "kind": READ, "name": READ},
    }
)

# --- kgateway ---

DIRECT_RESPONSE: Final = _object(spec={"status": READ, "body": READ, "bodyFormat": REFUSED})

# --- Kubernetes' own: https://kubernetes.io/docs/reference/kubernetes-api/ ---

SERVICE: Final = _object(
    spec={
        "ports": {
            "name": READ,
            "port": READ,
            "targetPort": READ,
            "appProtocol": READ,
            "protocol": HARMLESS,
            "nodePort": HARMLESS,
        },
        "clusterIP": READ,
        **dict.fromkeys(
            (
                "type",
                "selector",
                "clusterIPs",
                "externalIPs",
                "externalName",
                "externalTrafficPolicy",
                "internalTrafficPolicy",
                "healthCheckNodePort",
                "ipFamilies",
                "ipFamilyPolicy",
                "loadBalancerIP",
                "loadBalancerClass",
                "loadBalancerSourceRanges",
                "allocateLoadBalancerNodePorts",
                "publishNotReadyAddresses",
                "sessionAffinity",
                "sessionAffinityConfig",
                "trafficDistribution",
            ),
            HARMLESS,
        ),
    }
)

NAMESPACE: Final = _object(spec={"finalizers": HARMLESS})

SECRET: Final = _object(data=READ, stringData=READ, type=HARMLESS, immutable=HARMLESS)

CONFIG_MAP: Final = _object(data=READ, binaryData=HARMLESS, immutable=HARMLESS)

_BACKEND: Final[Table] = {
    "service": {"name": READ, "port": {"number": READ, "name": READ}},
    "resource": {"apiGroup": READ, "kind": READ, "name": READ},
}

INGRESS_PATH: Final[Table] = {"path": READ, "pathType": READ, "backend": _BACKEND}
INGRESS_HTTP: Final[Table] = {"paths": INGRESS_PATH}
INGRESS_RULE: Final[Table] = {"host": READ, "http": INGRESS_HTTP}

INGRESS: Final = _object(
    spec={
        "ingressClassName": HARMLESS,
        "defaultBackend": _BACKEND,
        "tls": READ,  # without effect, with a warning
        "rules": INGRESS_RULE,
    }
)

# --- Higress ---

WASM_PLUGIN: Final = _object(
    spec={
        "url": READ,
        "priority": READ,
        "defaultConfig": READ,
        "defaultConfigDisable": READ,
        "pluginConfig": READ,
        "matchRules": {
            "config": READ,
            "configDisable": READ,
            "domain": READ,
            "ingress": READ,
            "service": READ,
            "routeType": REFUSED,
        },
        **dict.fromkeys(
            (
                "failStrategy",
                "imagePullPolicy",
                "imagePullSecret",
                "phase",
                "pluginName",
                "selector",
                "sha256",
                "verificationKey",
                "vmConfig",
            ),
            HARMLESS,
        ),
    }
)

MCP_BRIDGE: Final = _object(
    spec={
        "registries": {
            **dict.fromkeys(("type", "name", "domain", "port", "protocol", "sni"), READ),
            "proxyName": REFUSED,
            # Of registries that are servers to ask, and of Model Context Protocol servers.
            **dict.fromkeys(
                (
                    "allowMcpServers",
                    "authSecretName",
                    "consulDatacenter",
                    "consulNamespace",
                    "consulRefreshInterval",
                    "consulServiceTag",
                    "enableMCPServer",
                    "enableScopeMcpServers",
                    "mcpServerBaseUrl",
                    "mcpServerExportDomains",
                    "metadata",
                    "nacosAccessKey",
                    "nacosAddressServer",
                    "nacosGroups",
                    "nacosNamespace",
                    "nacosNamespaceId",
                    "nacosRefreshInterval",
                    "nacosSecretKey",
                    "nacosTimeout",
                    "vport",
                    "zkServicesPath",
                ),
                HARMLESS,
            ),
        },
        "proxies": HARMLESS,
    }
)

KINDS: Final[Mapping[tuple[str, str], Table]] = {
    # API group and kind: other projects have a Gateway, too.
    ("gateway.networking.k8s.io", "Gateway"): GATEWAY,
    ("gateway.networking.k8s.io", "HTTPRoute"): HTTP_ROUTE,
    ("gateway.networking.k8s.io", "ReferenceGrant"): REFERENCE_GRANT,
    ("gateway.kgateway.dev", "DirectResponse"): DIRECT_RESPONSE,
    ("gateway.gloo.solo.io", "DirectResponse"): DIRECT_RESPONSE,  # as it was called before kgateway
    ("networking.k8s.io", "Ingress"): INGRESS,
    ("extensions.higress.io", "WasmPlugin"): WASM_PLUGIN,
    ("networking.higress.io", "McpBridge"): MCP_BRIDGE,
    ("", "Service"): SERVICE,
    ("", "Namespace"): NAMESPACE,
    ("", "Secret"): SECRET,
    ("", "ConfigMap"): CONFIG_MAP,
}
"""Every kind that is read. Kinds are told apart by their name from here on: those here that share one are the same."""


def spec_of(table: Table) -> Table:
    """The fields of an object's `spec`."""
    spec = table["spec"]
    assert isinstance(spec, Mapping)
    return spec
