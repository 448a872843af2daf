/* Writes a reply's headers over a response's. */
#ifndef REJOINDER_REPLACE_H
#define REJOINDER_REPLACE_H

#include "program.h"

enum { FEW_HEADERS = 64 };

/* All headers, or trailers, as Envoy has them: in `few`, or, if they are more, in memory to be freed. NULL: there are
 * none. */
header *headers_of(void *envoy, int type, header few[FEW_HEADERS], size_t *count);

/* Remove all headers, or trailers, except pseudo headers. False: no memory, and nothing is removed. */
bool remove_all(void *envoy, int type);

/* The headers of a response with this status become the reply's. False: no memory, and nothing is changed. */
bool replace_headers(void *envoy, const reply *reply, uint32_t status);

#endif
