"""Rules become Envoy resources, and Envoys get them.

Reading order: `plan` (the rules worked into routes), `translate` (routes in Envoy's words), `snapshot` (a set of
encoded resources), `build` (the three in one step), `session` (one client; `sotw` and `delta` are the two variants of
the protocol, `stream` is the state of one type, `virtual_hosts` of the one that is unlike the others, `order` says when
something of a type is sent, `forms` which snapshot a client can use), `standing` (which snapshot new clients get),
`server` (the loop), `events` (what it reports), `blame` (which rule an Envoy complains about). `protobuf` has the
message classes of Envoy's API and encodes dictionaries; `wire` reads and writes the protocol's messages.
"""
