"""Which fields of manifests are known: what `check` says of the others, and that the pages show the same tables.

`pytest --rewrite-golden` writes the tables of the pages anew.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from rejoinder.cli import main
from rejoinder.rules.kubernetes import known
from rejoinder.rules.kubernetes.known import KINDS, METADATA, READ, REFUSED, Table, Use
from rejoinder.rules.load import load

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGES: Final = {
    "gateway-api.md": ("Gateway", "HTTPRoute", "ReferenceGrant", "Service", "Namespace", "Secret", "ConfigMap"),
    "kgateway.md": ("DirectResponse",),
    "higress.md": ("WasmPlugin", "Ingress", "McpBridge"),
}
TABLES: Final = {kind: table for (_, kind), table in KINDS.items()}


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


@pytest.mark.parametrize(("page", "kind"), [(page, kind) for page, kinds in PAGES.items() for kind in kinds])
def test_a_page_shows_the_fields_that_there_are(page: str, kind: str, pytestconfig: pytest.Config) -> None:
    path = DOCS / page
    text = path.read_text()
    match = re.search(rf"(?<=<!-- fields: {kind} -->\n\n).*?(?=\n<!-- end -->)", text, re.DOTALL)
    assert match, f"{page} has no table for {kind}"
    wanted = markdown({name: use for name, use in TABLES[kind].items() if name not in ("apiVersion", "kind")})
    if pytestconfig.getoption("--rewrite-golden"):
        path.write_text(text[: match.start()] + wanted + text[match.end() :])
    else:
        assert match[0] == wanted, "pytest --rewrite-golden tests/test_known_fields.py writes it anew"


def test_every_kind_is_on_a_page() -> None:
    assert sorted(TABLES) == sorted(kind for kinds in PAGES.values() for kind in kinds)


# --- a valid manifest of each kind, and what may be wrong with it ---

VALID: Final = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo, labels: {a: b}, annotations: {a: b}}
spec:
  gatewayClassName: any
  addresses: [{type: IPAddress, value: 127.0.0.1}]
  listeners:
  - name: http
    protocol: HTTP
    port: 80
    hostname: "*.test"
    allowedRoutes: {namespaces: {from: All}, kinds: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]}
  infrastructure: {labels: {a: b}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: demo}
spec:
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: demo, name: edge, sectionName: http}]
  hostnames: [shop.test]
  rules:
  - name: first
    matches:
    - path: {type: PathPrefix, value: /a}
      headers: [{type: Exact, name: a, value: b}]
      queryParams: [{name: a, value: b}]
      method: GET
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
    - {type: URLRewrite, urlRewrite: {hostname: in.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: app, port: 80}, fraction: {numerator: 1}}}
    - {type: CORS, cors: {allowOrigins: ["*"], allowMethods: [GET]}}
    backendRefs:
    - kind: Service
      name: app
      port: 80
      weight: 1
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [e]}}]
    timeouts: {request: 10s, backendRequest: 5s}
  - matches: [{path: {value: /closed}}]
    filters:
    - {type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev, kind: DirectResponse, name: closed}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: demo}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]
  to: [{group: "", kind: Service, name: app}]
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {name: closed, namespace: demo}
spec: {status: 503, body: closed}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: demo}
spec:
  type: ClusterIP
  clusterIP: 10.0.0.1
  ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}]
---
apiVersion: v1
kind: Namespace
metadata: {name: demo}
spec: {finalizers: [kubernetes]}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: demo}
type: Opaque
data: {a: Yg==}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: map, namespace: demo}
data: {a: b}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: demo}
spec:
  ingressClassName: higress
  rules:
  - host: a.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}
---
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata: {name: custom-response, namespace: higress-system}
spec:
  url: oci://example.com/custom-response:1.0.0
  phase: AUTHN
  priority: 1
  defaultConfigDisable: false
  defaultConfig: {enable_on_status: [503], body: busy}
  matchRules: [{configDisable: false, domain: [a.test], config: {enable_on_status: [404], body: none}}]
---
apiVersion: networking.higress.io/v1
kind: McpBridge
metadata: {name: default, namespace: higress-system}
spec:
  registries:
  - {type: static, name: legacy, domain: "10.0.0.1:80,10.0.0.2:81", port: 80}
  - {type: dns, name: far, domain: far.test, port: 443, protocol: HTTPS, sni: near.test}
  - {type: nacos2, name: found, domain: 10.0.0.1, port: 8848, nacosGroups: [DEFAULT_GROUP]}
"""

OBJECTS: Final[list[dict[str, Any]]] = list(yaml.safe_load_all(VALID))


def test_they_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "valid.yaml"
    path.write_text(VALID)
    assert main(["check", str(path), "--strict"]) == 0
    assert load([path]).complaints == ()
    assert {manifest["kind"] for manifest in OBJECTS} == set(TABLES)


def places(value: Any, table: Table) -> Iterator[tuple[dict[str, Any], Table]]:
    """The mappings of an object whose fields are known, with their tables."""
    if isinstance(value, list):
        for item in value:
            yield from places(item, table)
    elif isinstance(value, dict):
        yield value, table
        for name, inner in value.items():
            use = table.get(name)
            if isinstance(use, Mapping):
                yield from places(inner, use)


def misspelt(name: str, table: Table, dice: random.Random) -> str:
    """A name with a letter left out, doubled or swapped for another, which is not one that there is."""
    while True:
        at = dice.randrange(len(name))
        letter = dice.choice("aeinorstX")
        made = dice.choice(
            (name[:at] + name[at + 1 :], name[:at] + letter + name[at:], name[:at] + letter + name[at + 1 :])
        )
        if made and made not in table:
            return made


@pytest.mark.parametrize("seed", range(100))
def test_one_wrong_field_is_named_with_its_line(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(seed)
    objects = copy.deepcopy(OBJECTS)
    chosen = objects[seed % len(objects)]
    table: Table = {**TABLES[chosen["kind"]], "metadata": METADATA}
    where: dict[str, Any]
    fields: Table
    if chosen["kind"] == "WasmPlugin" and seed % 2:
        where, fields = chosen["spec"]["matchRules"][0]["config"], dict.fromkeys(("body", "enable_on_status"), Use.READ)
    else:
        where, fields = dice.choice(list(places(chosen, table)))
    refused = [name for name, use in fields.items() if use is REFUSED]
    # `kind` and `apiVersion` themselves say what a document is.
    names = [name for name in where if where is not chosen or name not in ("apiVersion", "kind")]
    if refused and dice.random() < 0.5:
        field = dice.choice(refused)
        where[field] = {"a": "b"}
        said = f"{field} is not supported"
    else:
        name = dice.choice(names)
        field = misspelt(name, fields, dice)
        entries = [(field if key == name else key, value) for key, value in where.items()]
        where.clear()
        where.update(entries)
        said = f'field "{field}"'
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(objects, sort_keys=False))
    lines = [number for number, line in enumerate(path.read_text().splitlines(), 1) if re.search(f"{field}'?:", line)]
    ended = main(["check", str(path), "--strict"])
    shown = [line for line in capsys.readouterr().out.splitlines() if said in line]
    assert ended == 1
    assert shown, f"nothing about {said}"
    assert any(f"yaml:{number}" in line or f"(line {number})" in line for line in shown for number in lines), shown


def test_kinds_of_one_name_are_the_same() -> None:
    assert all(table is TABLES[kind] for (_, kind), table in known.KINDS.items())
