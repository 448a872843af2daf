"""Names that stand in Envoy's configuration or its messages, and that several folders must agree on.

Without `Final`: `--help` reads them, and would wait for `typing` (see `rejoinder.cli.arguments`).
"""

METADATA = "rejoinder"
"""This project's part of metadata, a route's and a request's."""
DETAILS = "rejoinder:"
"""What the response code details of our answers begin with."""
XDS_CLUSTER = "rejoinder_xds"
"""The control plane."""
TRUSTED_CA = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian, Ubuntu, Alpine and Envoy's images have the certificates of the public authorities."""
