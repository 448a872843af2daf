"""The fields of every kind of object that is read: one table for each, which readers and pages share.

In: a place within an object, and the table of its fields. Out: nothing; unknown and refused fields are noted as
mistakes. So no field is ignored in silence: with a misspelt `filters` an answer would be lost, and with a misspelt
`hostnames` a route would serve every host. `kubectl` also refuses unknown fields.

The fields are those of the newest API that is listed in docs/gateway-api.md, experimental ones included.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

from rejoinder.rules.document import List, Map
from rejoinder.rules.fields import Place


class Use(enum.Enum):
    """How a field is used; the value is its name in the docs."""

    READ = "read"
    HARMLESS = "without effect"
    """Known, and not needed here."""
    REFUSED = "not supported"
    """Known, but not supported: a mistake, because it must not be ignored in silence."""


Table: TypeAlias = "Mapping[str, Use | Table]"
"""Fields by name. A table in place of a `Use`: the field is read, and these are the fields of its value, or of each
entry if that is a list."""

READ: Final = Use.READ
HARMLESS: Final = Use.HARMLESS
REFUSED: Final = Use.REFUSED


def check(place: Place, table: Table) -> None:
    """Note each field that a table does not have or refuses; the readers check types."""
    if isinstance(place.node, List):
        for item in place.items():
            check(item, table)
    if not isinstance(place.node, Map):
        return
    for name in place.node.entries:
        use = table.get(name)
        if use is None:
            place.unknown(name, table)
        elif (field := place.field(name)).empty:
            continue
        elif use is REFUSED:
            place.key(name).error(f"{name} is not supported")
        elif isinstance(use, Mapping):
            check(field, use)


def without(table: Table, *names: str) -> Table:
    """A table that does not check the values of some fields, which are checked elsewhere."""
    return {**table, **dict.fromkeys(names, READ)}


def _table(read: str = "", *more: Table, harmless: str = "", refused: str = "", **inner: Use | Table) -> Table:
    """Fields by their use, as names separated by spaces; and, by keyword, fields that have fields themselves."""
    words = {READ: read, HARMLESS: harmless, REFUSED: refused}
    fields: Table = {name: use for use, names in words.items() for name in names.split()}
    return {**fields, **{name: use for table in more for name, use in table.items()}, **inner}


# --- what all objects have ---

METADATA: Final = _table(
    read="name namespace labels annotations creationTimestamp generation",
    harmless="generateName uid resourceVersion selfLink managedFields ownerReferences finalizers deletionTimestamp "
    "deletionGracePeriodSeconds",
)


def _object(**fields: Use | Table) -> Table:
    return {"apiVersion": READ, "kind": READ, "metadata": READ, **fields, "status": HARMLESS}


# --- Gateway API: https://gateway-api.sigs.k8s.io/reference/spec/ ---

_REFERENCE: Final = _table("group kind namespace name")
_HEADERS: Final = _table("name value")
_HEADER_CHANGES: Final = _table("remove", set=_HEADERS, add=_HEADERS)
_PATH_MODIFIER: Final = _table("type replaceFullPath replacePrefixMatch")
_VALUE_MATCH: Final = _table("type name value")
_SELECTOR: Final = _table("matchLabels", matchExpressions=_table("key operator values"))

CLIENT_VALIDATION: Final = _table("mode", caCertificateRefs=_REFERENCE)

LISTENER: Final = _table(
    "name hostname port protocol",
    tls=_table(
        "mode",
        refused="options",  # for example, an option that demands client certificates
        certificateRefs=_REFERENCE,
        frontendValidation=CLIENT_VALIDATION,
    ),
    allowedRoutes=_table(namespaces=_table("from", selector=_SELECTOR), kinds=_table("group kind")),
)

_FRONTEND: Final = _table(validation=CLIENT_VALIDATION)

GATEWAY: Final = _object(
    spec=_table(
        harmless="gatewayClassName infrastructure allowedListeners",
        refused="backendTLS defaultScope",
        listeners=LISTENER,
        addresses=_table("type value"),
        tls=_table(refused="backend", frontend=_table(default=_FRONTEND, perPort=_table("port", tls=_FRONTEND))),
    )
)

_COMMON_FILTERS: Final = _table(
    "type",
    refused="externalAuth",
    requestHeaderModifier=_HEADER_CHANGES,
    responseHeaderModifier=_HEADER_CHANGES,
    requestMirror=_table("percent", backendRef=_table("port", _REFERENCE), fraction=_table("numerator denominator")),
    requestRedirect=_table("scheme hostname port statusCode", path=_PATH_MODIFIER),
    urlRewrite=_table("hostname", path=_PATH_MODIFIER),
    extensionRef=_table("group kind name"),
)
_CORS: Final = _table("allowOrigins allowMethods allowHeaders exposeHeaders allowCredentials maxAge")

HTTP_MATCH: Final = _table("method", path=_table("type value"), headers=_VALUE_MATCH, queryParams=_VALUE_MATCH)

HTTP_RULE: Final = _table(
    "name",
    refused="retry sessionPersistence",
    matches=HTTP_MATCH,
    filters=_table("", _COMMON_FILTERS, cors=_CORS, directResponse=_table("statusCode", body=_table("string"))),
    backendRefs=_table(
        "port weight", _REFERENCE, filters=_table("", _COMMON_FILTERS, cors=REFUSED, directResponse=REFUSED)
    ),
    timeouts=_table("request backendRequest"),
)

HTTP_ROUTE: Final = _object(
    spec=_table(
        "hostnames", refused="useDefaultGateways", parentRefs=_table("sectionName port", _REFERENCE), rules=HTTP_RULE
    )
)

REFERENCE_GRANT: Final = _object(spec={"from": _table("group kind namespace"), "to": _table("group kind name")})

# --- kgateway ---

DIRECT_RESPONSE: Final = _object(spec=_table("status body", refused="bodyFormat"))

# --- Kubernetes' own: https://kubernetes.io/docs/reference/kubernetes-api/ ---

SERVICE: Final = _object(
    spec=_table(
        "clusterIP",
        harmless="type selector clusterIPs externalIPs externalName externalTrafficPolicy internalTrafficPolicy "
        "healthCheckNodePort ipFamilies ipFamilyPolicy loadBalancerIP loadBalancerClass loadBalancerSourceRanges "
        "allocateLoadBalancerNodePorts publishNotReadyAddresses sessionAffinity sessionAffinityConfig "
        "trafficDistribution",
        ports=_table("name port targetPort appProtocol", harmless="protocol nodePort"),
    )
)

NAMESPACE: Final = _object(spec=_table(harmless="finalizers"))

SECRET: Final = _object(data=READ, stringData=READ, type=HARMLESS, immutable=HARMLESS)

CONFIG_MAP: Final = _object(data=READ, binaryData=HARMLESS, immutable=HARMLESS)

_BACKEND: Final = _table(service=_table("name", port=_table("number name")), resource=_table("apiGroup kind name"))

INGRESS_PATH: Final = _table("path pathType", backend=_BACKEND)
INGRESS_HTTP: Final = _table(paths=INGRESS_PATH)
INGRESS_RULE: Final = _table("host", http=INGRESS_HTTP)

INGRESS: Final = _object(
    spec=_table(
        "tls",  # without effect, with a warning
        harmless="ingressClassName",
        defaultBackend=_BACKEND,
        rules=INGRESS_RULE,
    )
)

# --- Higress ---

WASM_PLUGIN: Final = _object(
    spec=_table(
        "url priority defaultConfig defaultConfigDisable pluginConfig",
        harmless="failStrategy imagePullPolicy imagePullSecret phase pluginName selector sha256 verificationKey "
        "vmConfig",
        matchRules=_table("config configDisable domain ingress service", refused="routeType"),
    )
)

MCP_BRIDGE: Final = _object(
    spec=_table(
        harmless="proxies",
        registries=_table(
            "type name domain port protocol sni",
            # Of registries that must be queried, and of Model Context Protocol servers.
            harmless="allowMcpServers authSecretName consulDatacenter consulNamespace consulRefreshInterval "
            "consulServiceTag enableMCPServer enableScopeMcpServers mcpServerBaseUrl mcpServerExportDomains metadata "
            "nacosAccessKey nacosAddressServer nacosGroups nacosNamespace nacosNamespaceId nacosRefreshInterval "
            "nacosSecretKey nacosTimeout vport zkServicesPath",
            refused="proxyName",
        ),
    )
)

KINDS: Final[Mapping[tuple[str, str], Table]] = {
    # By API group and kind: other projects have a Gateway, too.
    ("gateway.networking.k8s.io", "Gateway"): GATEWAY,
    ("gateway.networking.k8s.io", "HTTPRoute"): HTTP_ROUTE,
    ("gateway.networking.k8s.io", "ReferenceGrant"): REFERENCE_GRANT,
    ("gateway.kgateway.dev", "DirectResponse"): DIRECT_RESPONSE,
    ("gateway.gloo.solo.io", "DirectResponse"): DIRECT_RESPONSE,  # the group before the project was called kgateway
    ("networking.k8s.io", "Ingress"): INGRESS,
    ("extensions.higress.io", "WasmPlugin"): WASM_PLUGIN,
    ("networking.higress.io", "McpBridge"): MCP_BRIDGE,
    ("", "Service"): SERVICE,
    ("", "Namespace"): NAMESPACE,
    ("", "Secret"): SECRET,
    ("", "ConfigMap"): CONFIG_MAP,
}
"""Every kind that is read. Other code uses only the name of a kind: kinds here with the same name are the same."""
