"""How Envoys and operators reach the services: addresses, Unix sockets, TLS, and what all gRPC services have.

Reading order: `addresses`, `unix`, `tls` (our side), `accepting`, `sparing` (the log), `envoy_side` (Envoy's),
`standard` (health and reflection).
"""
