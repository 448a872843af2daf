"""How Envoys and operators reach the services: addresses, Unix sockets, TLS, and what every gRPC service is asked.

Reading order: `addresses`, `unix`, `tls` (our side), `accepting`, `sparing` (the log), `envoy_side` (Envoy's),
`standard` (health and reflection).
"""
