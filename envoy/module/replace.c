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
    length += all[i].name.length;
  }
  /* Removing one may invalidate the memory of the others. */
  char *names = length <= sizeof short_names ? short_names : malloc(length), *end = names;
  bool done = all && names;
  for (size_t i = 0; names && i < count; i++) {
    buffer name = all[i].name;
    all[i].name.ptr = end;
    end = put(end, name);
  }
  for (size_t i = 0; names && i < count; i++) {
    if (all[i].name.length && all[i].name.ptr[0] != ':') {
      CALLBACK(http_set_header)(envoy, type, all[i].name, (buffer){0});
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

static void set_number(void *envoy, buffer name, size_t number) {
  char digits[24];
  int length = snprintf(digits, sizeof digits, "%zu", number);
  CALLBACK(http_set_header)(envoy, RESPONSE_HEADERS, name, (buffer){digits, (size_t)length});
}

bool replace_headers(void *envoy, const reply *reply, uint32_t status) {
  if (!remove_all(envoy, RESPONSE_HEADERS)) {
    return false;
  }
  if (reply->status) {
    status = reply->status;
    set_number(envoy, TEXT(":status"), status);
  }
  for (size_t i = 0; i < reply->header_count; i++) {
    CALLBACK(http_add_header)(envoy, RESPONSE_HEADERS, reply->headers[i].name, reply->headers[i].value);
  }
  /* RFC 9110, section 8.6: forbidden with a 204; with a 304 it would be the length of another response. */
  if (status != 204 && status != 304) {
    set_number(envoy, TEXT("content-length"), reply->body.length);
  }
  return true;
}
