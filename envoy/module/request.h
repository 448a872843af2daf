/* What a program looks at of a request, in one block of memory. */
#ifndef REJOINDER_REQUEST_H
#define REJOINDER_REQUEST_H

#include "index.h"

/* A path that a rule may be about: so many bytes of the request's, and their hash. */
typedef struct {
  size_t length;
  uint64_t hash;
} prefix;

struct request {
  buffer method, authority, host, path, query; /* `path` is without it; `query.ptr` is NULL where there is no `?` */
  uint64_t path_hash;
  size_t prefix_count, line_count;
  prefix *prefixes; /* the shortest first: one for each element */
  line *lines;
};

/* As `request_new`, for the index that paths will be looked up in. */
request *request_take(const text_index *index, buffer method, buffer authority, buffer path, const line *lines,
                      size_t count);

#endif
