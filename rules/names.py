"""Names in Envoy's configuration or its messages that several folders must agree on.

Without `Final`: `--help` imports this file, and `typing` is slow to import (see `rejoinder.cli.arguments`).
"""

METADATA = "rejoinder"
"""The namespace of this project in the metadata of routes and requests."""
DETAILS = "rejoinder:"
"""The prefix of the response code details of our answers."""
XDS_CLUSTER = "rejoinder_xds"
"""The control plane."""
TRUSTED_CA = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian, Ubuntu, Alpine and Envoy's images have the certificates of the public authorities."""
