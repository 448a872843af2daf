/* Writes over the headers of responses: replace.h has the contract. */
#include "replace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

header *headers_of(void *envoy, int type, header few[FEW_HEADERS], size_t *count) {
  *count = CALLBACK(http_get_headers_size)(envoy, type);
  header *all = *count <= FEW_HEADERS ? few : malloc(*count * sizeof *all);
  if (!all || !CALLBACK(http_get_headers)(envoy, type, all)) {
    *count = 0;
  }
  return all;
}

bool remove_all(void *envoy, int type) {
  header few[FEW_HEADERS];
  char short_names[2048];
  size_t count, length = 0;
  header *all = headers_of(envoy, type, few, &count);
  for (size_t i = 0; i < count; i++) {
    length += all[i].name_length;
  }
  /* Removing one may invalidate what Envoy has told of the others. */
  char *names = length <= sizeof short_names ? short_names : malloc(length), *end = names;
  bool done = all && names;
  for (size_t i = 0; names && i < count; i++) {
    memcpy(end, all[i].name, all[i].name_length);
    all[i].name = end;
    end += all[i].name_length;
  }
  for (size_t i = 0; names && i < count; i++) {
    if (all[i].name_length && all[i].name[0] != ':') {
      CALLBACK(http_set_header)(envoy, type, (buffer){all[i].name, all[i].name_length}, (buffer){0});
    }
  }
  if (names != short_names) {
    free(names);
  }
  if (all != few) {
    free(all);
  }
  return done;
}

/* RFC 9110, section 8.6: with a 204 there must be none, with a 304 it would speak of another response. */
static void set_length(void *envoy, size_t length, uint32_t status) {
  char digits[24];
  int count = snprintf(digits, sizeof digits, "%zu", length);
  if (status != 204 && status != 304) {
    CALLBACK(http_set_header)(envoy, RESPONSE_HEADERS, TEXT("content-length"), (buffer){digits, (size_t)count});
  }
}

bool replace_headers(void *envoy, const reply *reply, uint32_t status) {
  if (!remove_all(envoy, RESPONSE_HEADERS)) {
    return false;
  }
  if (reply->status) {
    char digits[12];
    int length = snprintf(digits, sizeof digits, "%u", (unsigned)reply->status);
    CALLBACK(http_set_header)(envoy, RESPONSE_HEADERS, TEXT(":status"), (buffer){digits, (size_t)length});
  }
  for (size_t i = 0; i < reply->header_count; i++) {
    const header *each = &reply->headers[i];
    CALLBACK(http_add_header)(envoy, RESPONSE_HEADERS, (buffer){each->name, each->name_length},
                              (buffer){each->value, each->value_length});
  }
  set_length(envoy, reply->body.length, reply->status ? reply->status : status);
  return true;
}
