/* Takes requests apart: request.h has the contract. */
#include "request.h"

#include <stdlib.h>
#include <string.h>

static buffer copy(char **space, buffer from) {
  buffer copied = {*space, from.length};
  if (from.length) {
    memcpy(*space, from.ptr, from.length);
  }
  *space += from.length;
  return copied;
}

/* Without its port; an IPv6 address is in brackets. */
static size_t host_length(buffer authority) {
  for (size_t at = authority.length; at > 0 && authority.ptr[at - 1] != ']'; at--) {
    if (authority.ptr[at - 1] == ':') {
      return at - 1;
    }
  }
  return authority.length;
}

static void split_path(const text_index *index, request *of) {
  const char *mark = of->path.length ? memchr(of->path.ptr, '?', of->path.length) : NULL;
  if (mark) {
    of->query = (buffer){mark + 1, (size_t)(of->path.ptr + of->path.length - mark - 1)};
    of->path.length = (size_t)(mark - of->path.ptr);
  }
  for (size_t i = 0; i < of->path.length; i++) {
    if (i && of->path.ptr[i] == '/') {
      of->prefixes[of->prefix_count++] = (prefix){i, of->path_hash};
    }
    of->path_hash = hash_byte(index, of->path_hash, of->path.ptr[i]);
  }
  of->prefixes[of->prefix_count++] = (prefix){of->path.length, of->path_hash};
}

request *request_take(const text_index *index, buffer method, buffer authority, buffer path, const line *lines,
                      size_t count) {
  size_t elements = 1, size = method.length + 2 * authority.length + path.length;
  for (size_t i = 0; i < path.length; i++) {
    elements += path.ptr[i] == '/';
  }
  for (size_t i = 0; i < count; i++) {
    size += lines[i].value.length;
  }
  request *made = malloc(sizeof *made + elements * sizeof(prefix) + count * sizeof(line) + size);
  if (!made) {
    return NULL;
  }
  *made = (request){.line_count = count, .prefixes = (prefix *)(made + 1)};
  made->lines = (line *)(made->prefixes + elements);
  char *space = (char *)(made->lines + count);
  for (size_t i = 0; i < count; i++) {
    made->lines[i] = (line){lines[i].name, copy(&space, lines[i].value)};
  }
  made->method = copy(&space, method);
  made->path = copy(&space, path);
  made->authority = copy(&space, authority);
  made->host = (buffer){space, host_length(authority)};
  for (size_t i = 0; i < made->host.length; i++) {
    char byte = authority.ptr[i];
    *space++ = byte >= 'A' && byte <= 'Z' ? (char)(byte + 'a' - 'A') : byte;
  }
  split_path(index, made);
  return made;
}

buffer request_method(const request *of) { return of->method; }
buffer request_authority(const request *of) { return of->authority; }
buffer request_path(const request *of) {
  return (buffer){of->path.ptr, of->path.length + (of->query.ptr ? 1 + of->query.length : 0)};
}
