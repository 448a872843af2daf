/* The parts of a request that a program needs, in one block of memory. */
#ifndef REJOINDER_REQUEST_H
#define REJOINDER_REQUEST_H

#include "index.h"

/* A prefix of the request's path that a rule may have: its length in bytes, and its hash. */
typedef struct {
  size_t length;
  uint64_t hash;
} prefix;

enum { ADDRESS_LENGTH = 16 };

struct request {
  buffer method, scheme, authority, host;
  buffer path, query; /* `path` is without it; `query.ptr` is NULL where there is no `?` */
  buffer client;   /* its IP address; empty: it has none */
  unsigned char address[ADDRESS_LENGTH]; /* the same; IPv4 as it is mapped into IPv6 */
  uint64_t path_hash;
  size_t prefix_count, line_count;
  prefix *prefixes; /* the shortest first: one for each element */
  line *lines;
};

/* Used if there is no request. */
extern const request no_request;

/* The first query parameter of that name, undecoded; false: there is none. `?a` has an empty value. */
bool request_parameter(const request *of, buffer name, buffer *value);

/* Whether the client is in a network: a byte with the prefix's length, and an address. */
bool request_is_from(const request *of, const char *network);

#endif
