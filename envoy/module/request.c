/* Parses requests: request.h has the contract. */
#include "request.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "compiled.h"

enum { IPV4_PREFIX = 96 };
static const unsigned char mapped[IPV4_PREFIX / 8] = {[10] = 0xff, [11] = 0xff}; /* RFC 4291, section 2.5.5.2 */

static prefix no_prefix;
const request no_request = {.prefixes = &no_prefix};

static buffer copy(char **space, buffer from) {
  buffer copied = {*space, from.length};
  *space = put(*space, from);
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

/* It may be no IP address: a socket's path. */
static void read_address(request *of, buffer client) {
  char text[INET6_ADDRSTRLEN];
  size_t length = host_length(client);
  if (length > 1 && client.ptr[0] == '[') {
    client.ptr++, length -= 2;
  }
  const char *zone = length ? memchr(client.ptr, '%', length) : NULL; /* RFC 4007: `fe80::1%eth0` */
  size_t numbers = zone ? (size_t)(zone - client.ptr) : length;
  if (!numbers || numbers >= sizeof text) {
    return;
  }
  memcpy(text, client.ptr, numbers);
  text[numbers] = 0;
  if (inet_pton(AF_INET, text, of->address + sizeof mapped) == 1) {
    memcpy(of->address, mapped, sizeof mapped);
  } else if (inet_pton(AF_INET6, text, of->address) != 1) {
    return;
  }
  of->client = (buffer){client.ptr, length};
}

request *request_new(const program *asked, const arrived *from) {
  buffer authority = from->authority;
  size_t elements = 1 + count_of(from->path, '/'), size = from->client.length + 2 * authority.length;
  size += from->method.length + from->scheme.length + from->path.length;
  for (size_t i = 0; i < from->line_count; i++) {
    size += from->lines[i].value.length;
  }
  request *made = malloc(sizeof *made + elements * sizeof(prefix) + from->line_count * sizeof(line) + size);
  if (!made) {
    return NULL;
  }
  *made = (request){.line_count = from->line_count, .prefixes = (prefix *)(made + 1)};
  made->lines = (line *)(made->prefixes + elements);
  char *space = (char *)(made->lines + made->line_count);
  for (size_t i = 0; i < made->line_count; i++) {
    made->lines[i] = (line){from->lines[i].name, copy(&space, from->lines[i].value)};
  }
  made->method = copy(&space, from->method);
  made->scheme = copy(&space, from->scheme);
  made->path = copy(&space, from->path);
  made->authority = copy(&space, authority);
  read_address(made, copy(&space, from->client));
  made->host = (buffer){space, host_length(authority)};
  for (size_t i = 0; i < made->host.length; i++) {
    char byte = authority.ptr[i];
    *space++ = byte >= 'A' && byte <= 'Z' ? (char)(byte + 'a' - 'A') : byte;
  }
  split_path(&asked->index, made);
  return made;
}

bool request_parameter(const request *of, buffer name, buffer *value) {
  buffer rest = of->query;
  while (rest.length) {
    const char *end = memchr(rest.ptr, '&', rest.length);
    size_t length = end ? (size_t)(end - rest.ptr) : rest.length;
    const char *equals = length ? memchr(rest.ptr, '=', length) : NULL;
    size_t key = equals ? (size_t)(equals - rest.ptr) : length, from = equals ? key + 1 : length;
    if (length && same((buffer){rest.ptr, key}, name)) {
      *value = (buffer){rest.ptr + from, length - from};
      return true;
    }
    rest = end ? (buffer){end + 1, rest.length - length - 1} : (buffer){0};
  }
  return false;
}

/* An IPv4 address is in no network of IPv6. */
bool request_is_from(const request *of, const char *network) {
  const unsigned char *given = (const unsigned char *)network + 1;
  size_t bits = (unsigned char)network[0];
  unsigned char rest = (unsigned char)(0xff00 >> bits % 8); /* of the last byte, what counts */
  return of->client.length && (bits >= IPV4_PREFIX || memcmp(of->address, mapped, sizeof mapped)) &&
         !memcmp(of->address, given, bits / 8) && (!rest || !((of->address[bits / 8] ^ given[bits / 8]) & rest));
}

buffer request_path(const request *of) {
  return (buffer){of->path.ptr, of->path.length + (of->query.ptr ? 1 + of->query.length : 0)};
}
