/* Chooses one of several variants of an answer by Accept and Accept-Language (RFC 9110, section 12.5).
 *
 * The same as rules/accept.py, which defines the meaning. Pure, without memory of its own, and linear in the headers,
 * of which the first 8,192 bytes and 64 elements count.
 */
#ifndef REJOINDER_ACCEPT_H
#define REJOINDER_ACCEPT_H

#include "abi.h"

/* What a variant is; an axis that is left out is empty. */
typedef struct {
  buffer content_type, language;
} offer;

/* The number of the best variant. `accept` and `language`: all lines of the header, joined with ", "; empty: none. */
size_t accept_best(const offer *offers, size_t count, buffer accept, buffer language);

#endif
