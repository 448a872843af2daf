/* Templates: bytes with variables in them (docs/program.md), filled in exactly as by rules/template.py, byte for byte.
 *
 * `template_read` checks one in the bytes of a program, where it stays. The others need a checked template. Pure.
 */
#ifndef REJOINDER_TEMPLATE_H
#define REJOINDER_TEMPLATE_H

#include "reader.h"

enum {
  NAME_REQUEST_ID = 1,
  NAME_REQUEST_METHOD,
  NAME_REQUEST_SCHEME,
  NAME_REQUEST_HOST,
  NAME_REQUEST_PATH,
  NAME_REQUEST_URL,
  NAME_REQUEST_QUERY,
  NAME_REQUEST_HEADER,
  NAME_STATUS,
  NAME_STATUS_REASON,
  NAME_ORIGINAL_STATUS,
  NAME_SOURCE,
  NAME_ROUTE,
  NAME_RULE,
  NAME_TIME,
  NAME_CLIENT,
  NAME_REQUEST_TARGET,
  NAMES_END,
  SHARED_TEXT = 255 /* no name: a text that is a body of its own */
};

/* A part of a template: bytes, if `name` is 0, or a place for a value, or SHARED_TEXT. */
typedef struct {
  uint32_t name, escape;
  buffer text; /* the bytes; or the argument: a header in lower case, a query parameter, the id of a body, or nothing */
} template_piece;

/* The value of a name; valid until the next call. */
typedef buffer (*template_value)(void *context, uint32_t name, buffer argument);

bool template_read(reader *in, buffer *into);

/* Iterates over the pieces for `template_next`, as long as there are more. */
buffer template_pieces(buffer encoded);
template_piece template_next(buffer *rest);

/* Whether it may be a header's value: it has no control character, and no value adds one. */
bool template_fits_header(buffer encoded);

/* The text with its values, to be freed with `free`; false: no memory. */
bool template_fill(buffer encoded, template_value value, void *context, char **filled, size_t *length);

/* The reason phrase of a final status; empty: it has none. */
const char *status_reason(uint32_t status);

#endif
