/* Answer tables: upstream status -> reply.
 *
 * A table is made on Envoy's main thread, by Python, from a route's configuration; then it never changes, so that any
 * number of workers read it without a lock. All that is given to it is copied. It lives until `table_free`: as long as
 * Envoy holds the configuration. No function here calls Envoy or Python; those that allocate say so by returning
 * NULL or false when there is no memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

enum { FIRST_STATUS = 200, STATUS_COUNT = 400, MAX_REPLIES = UINT16_MAX };

typedef struct {
  uint32_t status;        /* what the client gets; 0: what the upstream gave */
  uint32_t handler;       /* the number of the Python handler that makes the reply; 0: it is all here */
  buffer rule;            /* the rule's name, for counters and logs */
  buffer body;
  buffer content_length;  /* the header's value; empty where there is to be none */
  header *headers;        /* to be added in this order */
  size_t header_count;
  bool empty_values;      /* some header has an empty value, which only a local reply can have */
} reply;

typedef struct {
  uint16_t by_status[STATUS_COUNT];  /* the reply's index + 1; 0: `otherwise` */
  uint16_t otherwise;                /* the same; 0: let it pass */
  uint16_t count;
  reply replies[];
} table;

static table *table_new(size_t count) {
  if (count > MAX_REPLIES) {
    return NULL;
  }
  table *made = calloc(1, sizeof(table) + count * sizeof(reply));
  if (made) {
    made->count = (uint16_t)count;
  }
  return made;
}

static void table_free(table *old) {
  if (!old) {
    return;
  }
  for (size_t i = 0; i < old->count; i++) {
    free(old->replies[i].headers); /* the head of one block with all the reply's bytes */
  }
  free(old);
}

static buffer copy(char **free_space, const char *bytes, size_t length) {
  buffer copied = {*free_space, length};
  if (length) {
    memcpy(*free_space, bytes, length);
  }
  *free_space += length;
  return copied;
}

/* Fill in a reply, once. False: no memory, or no such index. */
static bool table_reply(table *made, size_t index, uint32_t status, uint32_t handler, buffer rule,
                        const header *headers, size_t header_count, buffer body) {
  char length[24];
  /* RFC 9110, section 8.6: with a 204 there must be none, with a 304 it would speak of another response. */
  bool bodiless = status == 204 || status == 304;
  size_t digits = bodiless ? 0 : (size_t)snprintf(length, sizeof length, "%zu", body.length);
  size_t size = header_count * sizeof(header) + rule.length + body.length + digits + 1;
  for (size_t i = 0; i < header_count; i++) {
    size += headers[i].name_length + headers[i].value_length;
  }
  if (index >= made->count || made->replies[index].headers) {
    return false;
  }
  reply *filled = &made->replies[index];
  filled->headers = malloc(size);
  if (!filled->headers) {
    return false;
  }
  char *free_space = (char *)(filled->headers + header_count);
  filled->status = status;
  filled->handler = handler;
  filled->rule = copy(&free_space, rule.ptr, rule.length);
  filled->body = copy(&free_space, body.ptr, body.length);
  filled->content_length = copy(&free_space, length, digits);
  filled->header_count = header_count;
  for (size_t i = 0; i < header_count; i++) {
    buffer name = copy(&free_space, headers[i].name, headers[i].name_length);
    buffer value = copy(&free_space, headers[i].value, headers[i].value_length);
    filled->headers[i] = (header){name.ptr, name.length, value.ptr, value.length};
    filled->empty_values |= value.length == 0;
  }
  return true;
}

/* Have the statuses from `first` to `last` answered by a reply, but for those that have one. What is outside of 200-599
 * is left out. */
static void table_claim(table *made, uint32_t first, uint32_t last, size_t index) {
  for (uint32_t status = first; status <= last && status < FIRST_STATUS + STATUS_COUNT; status++) {
    if (status >= FIRST_STATUS && index < made->count && !made->by_status[status - FIRST_STATUS]) {
      made->by_status[status - FIRST_STATUS] = (uint16_t)(index + 1);
    }
  }
}

/* Have every other final status answered by a reply; called twice, the last one counts. */
static void table_otherwise(table *made, size_t index) {
  if (index < made->count) {
    made->otherwise = (uint16_t)(index + 1);
  }
}

/* The reply for an upstream's status; NULL: the response passes. Interim statuses always do. */
static const reply *table_find(const table *table, uint32_t status) {
  uint16_t found = 0;
  if (status >= FIRST_STATUS && status < FIRST_STATUS + STATUS_COUNT) {
    found = table->by_status[status - FIRST_STATUS];
  }
  if (!found && status >= FIRST_STATUS) {
    found = table->otherwise;
  }
  return found ? &table->replies[found - 1] : NULL;
}
