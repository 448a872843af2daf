"""Names that stand in Envoy's configuration or its messages, and that several folders must agree on."""

from typing import Final

METADATA: Final = "rejoinder"
"""This project's part of metadata, a route's and a request's."""
DETAILS: Final = "rejoinder:"
"""What the response code details of our answers begin with."""
XDS_CLUSTER: Final = "rejoinder_xds"
"""The control plane."""
TRUSTED_CA: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian, Ubuntu, Alpine and Envoy's images have the certificates of the public authorities."""
