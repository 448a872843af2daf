"""Manifests of the Gateway API for tests."""

from __future__ import annotations

TEAPOT = "{group: gateway.kgateway.dev, kind: DirectResponse, name: teapot}"

MANIFESTS = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: one, namespace: shop}, spec: {ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: two, namespace: shop}, spec: {ports: [{port: 80}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: shop}
spec:
  gatewayClassName: rejoinder
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: web, port: 80, protocol: HTTP}
  - {name: other, port: 8081, protocol: HTTP}
  - {name: wide, port: 8082, protocol: HTTP, hostname: "*.iso.test"}
  - {name: narrow, port: 8082, protocol: HTTP, hostname: one.iso.test}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: forward, namespace: shop}
spec:
  parentRefs: [{name: main, port: 80}]
  hostnames: [forward.test]
  rules:
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: one, port: 80}, {name: gone, port: 80}]
  - matches: [{path: {value: /zero}}]
    backendRefs: [{name: one, port: 80, weight: 0}]
  - matches: [{path: {value: /prefix/one}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /strip}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: in.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/whole\\1'}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /backend-headers}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: X-Set, value: "100%"}], add: [{name: X-Add, value: b}], remove: [X-Gone]}
    backendRefs:
    - name: two
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Backend, value: two}]}}
      - {type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev, kind: DirectResponse, name: teapot}}
  - matches: [{path: {value: /only/one}}]
    backendRefs:
    - name: one
      port: 80
      filters:
      - {type: URLRewrite, urlRewrite: {hostname: in.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
  - matches: [{path: {value: /elsewhere}}]
    backendRefs:
    - {name: one, port: 80, filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.test}}]}
  - matches: [{path: {value: /one-of-two}}]
    backendRefs:
    - {name: one, port: 80, weight: 0}
    - {name: two, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: two.test}}]}
  - matches: [{path: {value: /several}}]
    backendRefs:
    - {name: one, port: 80}
    - {name: two, port: 80, filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.test}}]}
  - matches: [{path: {value: /cors}}]
    filters:
    - type: CORS
      cors: {allowOrigins: ["https://*.web.test"], allowMethods: [GET, PUT], allowHeaders: [X-One], maxAge: 60}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /any-origin}}]
    filters: [{type: CORS, cors: {allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /mirror}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /patience}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: one, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: order, namespace: shop}
spec:
  parentRefs: [{name: main, port: 80}]
  hostnames: [order.test, "*.order.test"]
  rules:
  - {matches: [{path: {value: /}}], filters: [{type: ExtensionRef, extensionRef: TEAPOT}]}
  - {matches: [{path: {value: /a}}], backendRefs: [{name: one, port: 80}]}
  - {matches: [{path: {value: /a}, method: POST}], backendRefs: [{name: two, port: 80}]}
  - {matches: [{path: {value: /a}, headers: [{name: x-v, value: "2"}]}], backendRefs: [{name: two, port: 80}]}
  - {matches: [{path: {value: /a}, queryParams: [{name: v, value: "2"}]}], backendRefs: [{name: two, port: 80}]}
  - {matches: [{path: {type: Exact, value: /a/b}}], backendRefs: [{name: two, port: 80}]}
  - {matches: [{path: {type: RegularExpression, value: "/a/[0-9]+"}}], backendRefs: [{name: two, port: 80}]}
  - {matches: [{path: {type: RegularExpression, value: "/(a"}}], backendRefs: [{name: one, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: deeper, namespace: shop}
spec:
  parentRefs: [{name: main, port: 80}]
  hostnames: [deep.order.test]
  rules: [{matches: [{path: {value: /a/deep}}], backendRefs: [{name: two, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: redirect, namespace: shop}
spec:
  parentRefs: [{name: main, port: 80}, {name: main, sectionName: other}]
  hostnames: [redirect.test]
  rules:
  - {matches: [{path: {value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}
  - {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: new.test}}]}
  - matches: [{path: {value: /port}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 308, port: 8443}}]
  - {matches: [{path: {value: /eighty}}], filters: [{type: RequestRedirect, requestRedirect: {port: 80}}]}
  - {matches: [{path: {value: /both}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 80}}]}
  - matches: [{path: {value: /old}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-why, value: moved}]}}
  - matches: [{path: {value: /all}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: wide, namespace: shop}
spec:
  parentRefs: [{name: main, sectionName: wide}]
  rules: [{backendRefs: [{name: one, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: narrow, namespace: shop}
spec:
  parentRefs: [{name: main, sectionName: narrow}]
  rules: [{matches: [{path: {value: /only}}], backendRefs: [{name: two, port: 80}]}]
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {name: teapot, namespace: shop}
spec: {status: 418, body: short and stout}
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {name: broken, namespace: shop}
spec: {status: 42}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: direct, namespace: shop}
spec:
  parentRefs: [{name: main, port: 80}]
  hostnames: [direct.test]
  rules:
  - matches: [{path: {value: /tea}}]
    filters:
    - {type: ExtensionRef, extensionRef: TEAPOT}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: Content-Type, value: text/tea}], add: [{name: x-pot, value: "1"}]}
  - {matches: [{path: {value: /two}}], filters: [{type: ExtensionRef, extensionRef: TEAPOT}, {type: ExtensionRef,
     extensionRef: TEAPOT}]}
  - matches: [{path: {value: /redirect}}]
    filters: [{type: ExtensionRef, extensionRef: TEAPOT}, {type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /backend}}]
    filters: [{type: ExtensionRef, extensionRef: TEAPOT}]
    backendRefs: [{name: one, port: 80}]
  - {matches: [{path: {value: /missing}}], filters: [{type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev,
     kind: DirectResponse, name: nothing}}]}
  - {matches: [{path: {value: /broken}}], filters: [{type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev,
     kind: DirectResponse, name: broken}}]}
  - matches: [{path: {value: /own}}]
    filters: [{type: DirectResponse, directResponse: {statusCode: 403, body: {string: Forbidden}}}]
  - {matches: [{path: {value: /unknown}}], filters: [{type: Teleport}], backendRefs: [{name: one, port: 80}]}
""".replace("TEAPOT", TEAPOT)

RULES = """
rules:
  - name: everywhere
    match: {domains: [rules.test]}
    body: from a rule file
  - name: narrower
    match: {prefix: /prefix/one/two}
    enable_on_status: [418]
    body: never
  - name: errors
    match: {domains: [order.test], routes: [httproute/shop/order/rule/1]}
    enable_on_status: [404]
    body: sorry
"""
