/* Reads and asks decision programs: program.h has the contract, docs/program.md the bytes and their meaning.
 *
 * Reading order: the reader (every byte comes through it), the index, the records, then what is asked.
 */
#define _GNU_SOURCE /* memmem */
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { MAGIC_LENGTH = 6, VERSION = 1, BODY_RECORD = 1, RULE_RECORD = 2, FINAL = 1, UNCONDITIONAL = 2 };
enum { EVERY_PATH = 0, EXACT_PATH = 1, PREFIX_PATH = 2, REGEX_PATH = 3 };
enum { EXACT = 0, PREFIX = 1, SUFFIX = 2, CONTAINS = 3, REGEX = 4, PRESENT = 5 };

/* A list of texts as it stands in the bytes, already checked. */
typedef struct {
  const char *at;
  uint32_t count;
} texts;

typedef struct {
  uint8_t kind;
  uint32_t name;  /* of a header test: as in `line` */
  uint32_t regex;
  buffer key;     /* of a query test */
  buffer value;
} test;

typedef struct {
  bool final, unconditional;
  bool tests_routes;  /* it is not found by its routes */
  bool tests_path;    /* by `regex` */
  uint32_t regex;
  texts routes, methods;
  uint32_t first_test, header_tests, query_tests, first_reply, replies;
} rule;

/* A key of the index, and what it leads to. Bodies and header names are found in the same way. */
typedef enum { BODY, HEADER, HOST, HOST_SUFFIX, EVERY_HOST, AT_PATH, BELOW_PATH, ANY_PATH, ROUTE, ANY_ROUTE } kind;

/* Whom the lists of rules under a key are for; both are in the order of the rules. */
enum { ON_REQUEST, ON_STATUS, QUESTIONS };

typedef struct {
  kind kind;
  uint32_t parent;  /* a number of a node; 0: none */
  uint64_t hash;
  buffer text;
  buffer body;
  uint32_t number;          /* of a header; of a host: how many elements the longest prefix below it has */
  uint32_t first[QUESTIONS]; /* numbers of entries; 0: none */
  uint32_t last[QUESTIONS];
} node;

typedef struct {
  uint32_t rule, next;
} entry;

/* An array that grows. */
typedef struct {
  void *items;
  size_t count, room;
} array;

struct program {
  const engine *engine;
  uint64_t base; /* of the hash: nobody can foresee what collides */
  array rules, replies, headers, tests, entries, nodes, names;
  uint32_t *slots;
  size_t slot_count; /* a power of two */
  uint32_t labels;   /* how many the longest wildcard has */
  bool answers_requests, needs_request, needs_routes, otherwise;
  uint64_t statuses[(LAST_STATUS - FIRST_STATUS) / 64 + 1];
};

#define ITEMS(type, array) ((type *)(array).items)

/* One more item, all zeros; NULL: no memory. */
static void *add(array *to, size_t size) {
  if (to->count == to->room) {
    size_t room = to->room ? to->room * 2 : 16;
    void *moved = room < UINT32_MAX ? realloc(to->items, room * size) : NULL;
    if (!moved) {
      return NULL;
    }
    to->items = moved;
    to->room = room;
  }
  return memset((char *)to->items + to->count++ * size, 0, size);
}

/* --- the reader: once something is wrong, it only gives zeros --- */

typedef struct {
  const char *at, *end, *start;
  size_t offset; /* of `start` in the configuration */
  size_t piece;  /* which one */
  failure *why;
  bool failed;
} reader;

static bool expect(reader *in, bool fine, const char *what) {
  if (!fine && !in->failed) {
    size_t offset = in->offset + (size_t)(in->at - in->start);
    if (in->piece) {
      snprintf(in->why->text, sizeof in->why->text, "part %zu: byte %zu: expected %s", in->piece, offset, what);
    } else {
      snprintf(in->why->text, sizeof in->why->text, "byte %zu: expected %s", offset, what);
    }
    in->failed = true;
  }
  return !in->failed;
}

static buffer bytes(reader *in, size_t length, const char *what) {
  if (!expect(in, length <= (size_t)(in->end - in->at), what)) {
    return (buffer){"", 0};
  }
  buffer read = {in->at, length};
  in->at += length;
  return read;
}

static uint32_t number_at(const char *at, size_t size) {
  uint32_t number = 0;
  for (size_t i = size; i > 0; i--) {
    number = number << 8 | (unsigned char)at[i - 1];
  }
  return number;
}

static uint32_t number(reader *in, size_t size, const char *what) {
  buffer read = bytes(in, size, what);
  return number_at(read.ptr, read.length);
}

/* A number below `end`. */
static uint32_t choice(reader *in, uint32_t end, const char *what) {
  uint32_t chosen = number(in, 1, what);
  in->at -= !in->failed && chosen >= end; /* to say where it stands */
  return expect(in, chosen < end, what) ? chosen : 0;
}

/* RFC 3629, section 4. */
static bool is_utf8(buffer text) {
  for (size_t i = 0; i < text.length;) {
    const unsigned char *at = (const unsigned char *)text.ptr + i;
    size_t more = at[0] < 0x80 ? 0 : at[0] >= 0xc2 && at[0] < 0xe0 ? 1 : (at[0] & 0xf0) == 0xe0 ? 2 : 3;
    if (more >= text.length - i || at[0] > 0xf4 || (at[0] >= 0x80 && at[0] < 0xc2) ||
        (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
        (at[0] == 0xf4 && at[1] > 0x8f)) {
      return false;
    }
    for (size_t n = 1; n <= more; n++) {
      if ((at[n] & 0xc0) != 0x80) {
        return false;
      }
    }
    i += more + 1;
  }
  return true;
}

static buffer text(reader *in) {
  buffer read = bytes(in, number(in, 4, "the length of a text"), "a text of that length");
  expect(in, is_utf8(read), "a text in UTF-8 in front of here");
  return read;
}

/* A list's count; `least`: how many bytes an entry has at least. */
static uint32_t list(reader *in, size_t least) {
  uint32_t count = number(in, 4, "the length of a list");
  return expect(in, count <= (size_t)(in->end - in->at) / least, "a list of that length") ? count : 0;
}

static texts text_list(reader *in) {
  texts read = {.count = list(in, 4)};
  read.at = in->at;
  for (uint32_t i = 0; i < read.count && !in->failed; i++) {
    text(in);
  }
  return read;
}

static buffer next_text(texts *in) {
  buffer next = {in->at + 4, number_at(in->at, 4)};
  in->at = next.ptr + next.length;
  in->count--;
  return next;
}

static bool same(buffer one, buffer other) {
  return one.length == other.length && (one.ptr == other.ptr || !one.length || !memcmp(one.ptr, other.ptr, one.length));
}

static bool contains(texts in, buffer wanted) {
  while (in.count) {
    if (same(next_text(&in), wanted)) {
      return true;
    }
  }
  return false;
}

/* --- the index: a hash table of nodes ---
 *
 * The hash of a text is a polynomial modulo a prime, so that it can be continued byte by byte: that of each prefix of a
 * path comes along the way to the whole path's. Wildcards (`.example.com`) are hashed from their end.
 */

static const uint64_t PRIME = (1ull << 61) - 1;

static uint64_t hash_byte(uint64_t base, uint64_t hash, char byte) {
  unsigned __int128 product = (unsigned __int128)hash * base + (unsigned char)byte + 1;
  uint64_t folded = (uint64_t)(product & PRIME) + (uint64_t)(product >> 61);
  return folded >= PRIME ? folded - PRIME : folded;
}

static uint64_t hash_text(uint64_t base, buffer text, bool backwards) {
  uint64_t hash = 0;
  for (size_t i = 0; i < text.length; i++) {
    hash = hash_byte(base, hash, text.ptr[backwards ? text.length - 1 - i : i]);
  }
  return hash;
}

/* A slot for the node: its own, or the empty one where it would be. */
static uint32_t *slot_of(const program *in, uint32_t parent, kind kind, buffer text, uint64_t hash) {
  uint64_t mixed = hash ^ ((uint64_t)parent << 4 | kind) * 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ mixed >> 32) * (in->base | 1);
  for (size_t at = mixed >> 29;; at++) {
    uint32_t *slot = &in->slots[at & (in->slot_count - 1)];
    const node *each = &ITEMS(node, in->nodes)[*slot];
    if (!*slot || (each->hash == hash && each->parent == parent && each->kind == kind && same(each->text, text))) {
      return slot;
    }
  }
}

static uint32_t find(const program *in, uint32_t parent, kind kind, buffer text, uint64_t hash) {
  return *slot_of(in, parent, kind, text, hash);
}

static bool grow_slots(program *of, size_t count) {
  uint32_t *old = of->slots;
  if (!(of->slots = calloc(count, sizeof *of->slots))) {
    of->slots = old;
    return false;
  }
  of->slot_count = count;
  for (uint32_t i = 1; i < of->nodes.count; i++) {
    const node *each = &ITEMS(node, of->nodes)[i];
    *slot_of(of, each->parent, each->kind, each->text, each->hash) = i;
  }
  free(old);
  return true;
}

/* The number of a node, which is made if it is not there; 0: no memory. */
static uint32_t node_for(program *of, uint32_t parent, kind kind, buffer text, uint64_t hash) {
  uint32_t *slot = slot_of(of, parent, kind, text, hash);
  if (*slot) {
    return *slot;
  }
  node *made = add(&of->nodes, sizeof *made);
  if (!made) {
    return 0;
  }
  made->kind = kind, made->parent = parent, made->hash = hash, made->text = text;
  uint32_t number = *slot = (uint32_t)of->nodes.count - 1;
  return of->nodes.count * 2 <= of->slot_count || grow_slots(of, of->slot_count * 2) ? number : 0;
}

/* Let a node lead to the newest rule. */
static bool lead(program *of, uint32_t from, int question) {
  node *leading = &ITEMS(node, of->nodes)[from];
  uint32_t last = leading->last[question], rule = (uint32_t)of->rules.count - 1;
  if (last && ITEMS(entry, of->entries)[last].rule == rule) {
    return true; /* one of its domains stands there twice */
  }
  entry *made = from ? add(&of->entries, sizeof *made) : NULL;
  if (!made) {
    return false;
  }
  uint32_t number = (uint32_t)of->entries.count - 1;
  made->rule = rule;
  *(last ? &ITEMS(entry, of->entries)[last].next : &leading->first[question]) = number;
  leading->last[question] = number;
  return true;
}

static uint32_t host_node(program *of, buffer domain) {
  if (domain.length == 1 && *domain.ptr == '*') {
    return node_for(of, 0, EVERY_HOST, (buffer){0}, 0);
  }
  of->needs_request = true;
  if (domain.length < 2 || domain.ptr[0] != '*' || domain.ptr[1] != '.') {
    return node_for(of, 0, HOST, domain, hash_text(of->base, domain, false));
  }
  buffer suffix = {domain.ptr + 1, domain.length - 1};
  uint32_t labels = 0;
  for (size_t i = 0; i < suffix.length; i++) {
    labels += suffix.ptr[i] == '.';
  }
  of->labels = labels > of->labels ? labels : of->labels;
  return node_for(of, 0, HOST_SUFFIX, suffix, hash_text(of->base, suffix, true));
}

/* How many elements a prefix has. */
static uint32_t elements_of(buffer path) {
  uint32_t elements = 1;
  for (size_t i = 1; i < path.length; i++) {
    elements += path.ptr[i] == '/';
  }
  return elements;
}

/* Have the newest rule found by its domains, under them by its path, and under that by its routes, or by every one. */
static bool index_rule(program *of, const rule *rule, texts domains, kind path_kind, buffer path, bool by_routes) {
  static const buffer every = {"*", 1};
  uint64_t hash = hash_text(of->base, path, false);
  uint32_t elements = path_kind == BELOW_PATH ? elements_of(path) : 0, count = domains.count;
  for (uint32_t i = 0; i < (count ? count : 1); i++) {
    uint32_t host = host_node(of, count ? next_text(&domains) : every);
    uint32_t under = host ? node_for(of, host, path_kind, path, hash) : 0;
    if (!under) {
      return false;
    }
    node *found = &ITEMS(node, of->nodes)[host];
    found->number = elements > found->number ? elements : found->number;
    texts routes = rule->routes;
    for (uint32_t left = by_routes ? routes.count : 1; left; left--) {
      buffer route = by_routes ? next_text(&routes) : (buffer){0};
      uint32_t leaf = node_for(of, under, by_routes ? ROUTE : ANY_ROUTE, route, hash_text(of->base, route, false));
      if (!leaf || ((rule->unconditional || rule->final) && !lead(of, leaf, ON_REQUEST)) ||
          ((!rule->unconditional || rule->final) && !lead(of, leaf, ON_STATUS))) {
        return false;
      }
    }
  }
  return true;
}

/* --- the records --- */

static bool memory(reader *in, const void *got) { return expect(in, got != NULL, "memory for what stands here"); }

static void read_body(program *of, reader *in) {
  buffer id = bytes(in, ID_LENGTH, "the id of a body"), body = {in->at, (size_t)(in->end - in->at)};
  uint32_t made = in->failed ? 0 : node_for(of, 0, BODY, id, hash_text(of->base, id, false));
  if (!expect(in, made, "memory for what stands here")) {
    return;
  }
  node *found = &ITEMS(node, of->nodes)[made];
  expect(in, !found->body.ptr || same(found->body, body), "the bytes that another body with this id has");
  found->body = body;
  in->at = in->end;
}

/* The number of a header that is looked at; false: no memory. */
static bool header_number(program *of, buffer name, uint32_t *number) {
  static const buffer authority = {":authority", 10};
  name = name.length == 4 && !memcmp(name.ptr, "host", 4) ? authority : name;
  uint32_t at = node_for(of, 0, HEADER, name, hash_text(of->base, name, false));
  node *found = &ITEMS(node, of->nodes)[at];
  if (at && !found->number) { /* new: numbers begin with 1 there */
    buffer *named = add(&of->names, sizeof *named);
    if (!named) {
      return false;
    }
    *named = name;
    found->number = (uint32_t)of->names.count;
  }
  *number = found->number - 1;
  return at;
}

static uint32_t regex_number(program *of, reader *in, buffer pattern) {
  uint32_t number = 0;
  if (!in->failed && !of->engine->regex(pattern, &number, in->why)) {
    in->failed = true;
  }
  return number;
}

/* Tests of headers or of query parameters; how many. */
static uint32_t read_tests(program *of, reader *in, bool of_headers) {
  uint32_t count = list(in, 9);
  for (uint32_t i = 0; i < count && !in->failed; i++) {
    test read = {.key = text(in), .kind = (uint8_t)choice(in, PRESENT + 1, "a kind of test: 0 to 5")};
    read.value = text(in);
    expect(in, read.kind != PRESENT || !read.value.length, "an empty text, for a test of presence");
    read.regex = read.kind == REGEX ? regex_number(of, in, read.value) : 0;
    test *made = in->failed ? NULL : add(&of->tests, sizeof *made);
    if (memory(in, made) && (!of_headers || expect(in, header_number(of, read.key, &read.name), "memory"))) {
      *made = read;
    }
  }
  of->needs_request |= count > 0;
  return count;
}

/* RFC 9110, section 5.6.2, in lower case, and section 5.5. */
static bool is_header(buffer name, buffer value) {
  for (size_t i = 0; i < name.length; i++) {
    char byte = name.ptr[i];
    if (!(byte >= 'a' && byte <= 'z') && !(byte >= '0' && byte <= '9') && (!byte || !strchr("!#$%&'*+-.^_`|~", byte))) {
      return false;
    }
  }
  for (size_t i = 0; i < value.length; i++) {
    unsigned char byte = (unsigned char)value.ptr[i];
    if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
      return false;
    }
  }
  return name.length > 0;
}

static void read_headers(program *of, reader *in, reply *into) {
  uint32_t count = list(in, 8);
  for (uint32_t i = 0; i < count && !in->failed; i++) {
    buffer name = text(in), value = text(in);
    expect(in, is_header(name, value), "a header in front of here: a name in lower case, a value without line breaks");
    header *made = in->failed ? NULL : add(&of->headers, sizeof *made);
    if (memory(in, made)) {
      *made = (header){name.ptr, name.length, value.ptr, value.length};
      into->empty_values |= !value.length;
    }
  }
  into->header_count = in->failed ? 0 : count;
}

static void name_status(program *of, uint32_t status) {
  of->statuses[(status - FIRST_STATUS) / 64] |= 1ull << (status - FIRST_STATUS) % 64;
}

static bool is_status(uint32_t status) { return status >= FIRST_STATUS && status <= LAST_STATUS; }

static void read_ranges(program *of, reader *in, reply *into, const rule *rule) {
  into->range_count = list(in, 4);
  into->ranges = in->at;
  expect(in, !into->range_count || !rule->unconditional, "no statuses: the rule is unconditional");
  for (uint32_t i = 0; i < into->range_count && !in->failed; i++) {
    uint32_t first = number(in, 2, "a status"), last = number(in, 2, "a status");
    if (expect(in, is_status(first) && is_status(last) && first <= last, "statuses from 200 to 599, a range of them")) {
      for (uint32_t status = first; status <= last; status++) {
        name_status(of, status);
      }
    }
  }
  if (!into->range_count && !rule->unconditional && !in->failed) {
    memset(of->statuses, 0xff, sizeof of->statuses);
    of->otherwise = true;
  }
}

static void read_reply(program *of, reader *in, const rule *rule, buffer name) {
  reply read = {.rule = name};
  read_ranges(of, in, &read, rule);
  read.status = number(in, 2, "a status");
  expect(in, !read.status || (is_status(read.status)), "a status from 200 to 599, or 0, in front of here");
  buffer handler = text(in);
  read.by_handler = handler.length > 0;
  if (read.by_handler && !in->failed && !of->engine->handler(handler, &read.handler, in->why)) {
    in->failed = true;
  }
  of->needs_request |= read.by_handler;
  of->needs_routes |= read.by_handler;
  read_headers(of, in, &read);
  if (choice(in, 2, "1 and the id of a body, or 0")) {
    read.body = bytes(in, ID_LENGTH, "the id of a body"); /* until all bodies are known */
  }
  reply *made = in->failed ? NULL : add(&of->replies, sizeof *made);
  if (memory(in, made)) {
    *made = read;
  }
}

static void read_rule(program *of, reader *in) {
  uint32_t flags = choice(in, (FINAL | UNCONDITIONAL) + 1, "the flags of a rule: 1, 2, or both");
  buffer name = text(in);
  rule *made = in->failed ? NULL : add(&of->rules, sizeof *made);
  if (!memory(in, made)) {
    return;
  }
  rule read = {.final = flags & FINAL, .unconditional = flags & UNCONDITIONAL};
  texts domains = text_list(in);
  bool has_routes = choice(in, 2, "1 and a list of routes, or 0 and an empty one");
  read.routes = text_list(in);
  expect(in, has_routes || !read.routes.count, "an empty list of routes");
  uint32_t path = choice(in, REGEX_PATH + 1, "a kind of path: 0 to 3");
  buffer value = text(in);
  expect(in, path != EVERY_PATH || !value.length, "an empty text, for every path");
  read.tests_path = path == REGEX_PATH;
  read.regex = read.tests_path ? regex_number(of, in, value) : 0;
  read.methods = text_list(in);
  read.first_test = (uint32_t)of->tests.count;
  read.header_tests = read_tests(of, in, true);
  read.query_tests = read_tests(of, in, false);
  read.first_reply = (uint32_t)of->replies.count;
  read.replies = list(in, 15);
  expect(in, read.replies, "a reply");
  for (uint32_t i = 0; i < read.replies && !in->failed; i++) {
    bool other = i && !ITEMS(reply, of->replies)[of->replies.count - 1].range_count;
    expect(in, !other, "no reply behind one for every other status");
    read_reply(of, in, &read, name);
  }
  bool by_routes = has_routes && domains.count <= 1;
  read.tests_routes = has_routes && !by_routes;
  of->needs_routes |= has_routes;
  of->answers_requests |= read.unconditional;
  kind kind = path == EXACT_PATH ? AT_PATH : path == PREFIX_PATH ? BELOW_PATH : ANY_PATH;
  if (kind == ANY_PATH || (kind == BELOW_PATH && (!value.length || (value.length == 1 && *value.ptr == '/')))) {
    kind = ANY_PATH, value = (buffer){0};
  }
  of->needs_request |= kind != ANY_PATH || read.tests_path || read.methods.count;
  if (!in->failed) {
    ITEMS(rule, of->rules)[of->rules.count - 1] = read;
    expect(in, index_rule(of, &read, domains, kind, value, by_routes), "memory for the rule that ends here");
  }
}

static void read_records(program *of, reader *in) {
  while (in->at < in->end && !in->failed) {
    uint32_t kind = choice(in, RULE_RECORD + 1, "a kind of record: 1 or 2");
    in->at -= !kind && !in->failed;
    expect(in, kind, "a kind of record: 1 or 2");
    uint32_t length = number(in, 4, "the length of a record");
    expect(in, length <= (size_t)(in->end - in->at), "a record of that length");
    reader record = *in;
    record.end = in->failed ? record.at : record.at + length;
    if (!in->failed) {
      (kind == BODY_RECORD ? read_body : read_rule)(of, &record);
      expect(&record, record.at == record.end, "the end of the record");
    }
    in->failed = record.failed;
    in->at = record.end;
  }
}

/* What was noted while arrays still moved and bodies were unknown. */
static bool finish(program *of, bool whole, failure *why) {
  header *headers = of->headers.items;
  for (size_t i = 0; i < of->replies.count; i++) {
    reply *each = &ITEMS(reply, of->replies)[i];
    each->headers = headers;
    headers += each->header_count;
    if (each->body.length) {
      uint32_t at = find(of, 0, BODY, each->body, hash_text(of->base, each->body, false));
      if (!at && whole) {
        snprintf(why->text, sizeof why->text, "rule %.*s: the body of a reply is in no record", (int)each->rule.length,
                 each->rule.ptr);
        return false;
      }
      each->body = at ? ITEMS(node, of->nodes)[at].body : (buffer){0};
    }
  }
  return true;
}

bool program_open(buffer given, piece *opened, failure *why) {
  reader in = {.at = given.ptr, .end = given.ptr + given.length, .start = given.ptr, .why = why};
  buffer magic = bytes(&in, MAGIC_LENGTH, "a program or a part of one");
  bool is_part = !in.failed && !memcmp(magic.ptr, "RJPRT", MAGIC_LENGTH);
  *opened = (piece){.is_part = is_part};
  if (!is_part && !in.failed && memcmp(magic.ptr, "RJNDR", MAGIC_LENGTH)) {
    in.at = in.start;
    return expect(&in, false, "a program or a part of one");
  }
  expect(&in, number(&in, 2, "a version") == VERSION, "version 1 in front of here");
  if (is_part) {
    opened->id = bytes(&in, ID_LENGTH, "the id of the part").ptr;
  } else {
    opened->part_count = list(&in, ID_LENGTH);
    opened->parts = bytes(&in, opened->part_count * ID_LENGTH, "the ids of parts").ptr;
  }
  opened->records = (buffer){in.at, (size_t)(in.end - in.at)};
  opened->offset = (size_t)(in.at - in.start);
  return !in.failed;
}

program *program_read(const piece *pieces, size_t count, bool whole, const engine *engine, failure *why) {
  program *made = calloc(1, sizeof *made);
  bool ready = made && getrandom(&made->base, sizeof made->base, 0) == sizeof made->base && grow_slots(made, 64) &&
               add(&made->nodes, sizeof(node)) && add(&made->entries, sizeof(entry)); /* 0 is none */
  snprintf(why->text, sizeof why->text, "no memory for a program");
  if (ready) {
    made->base %= PRIME;
    made->engine = engine;
  }
  for (size_t i = 0; i < count && ready; i++) {
    const char *at = pieces[i].records.ptr;
    reader in = {at, at + pieces[i].records.length, at, pieces[i].offset, pieces[i].is_part ? i + 1 : 0, why, false};
    read_records(made, &in);
    ready = !in.failed;
  }
  if (ready && finish(made, whole, why)) {
    return made;
  }
  program_free(made);
  return NULL;
}

void program_free(program *old) {
  if (old) {
    array *all[] = {&old->rules, &old->replies, &old->headers, &old->tests, &old->entries, &old->nodes, &old->names};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
      free(all[i]->items);
    }
    free(old->slots);
    free(old);
  }
}

bool program_names(const program *asked, uint32_t status) {
  if (!is_status(status)) {
    return status > LAST_STATUS && asked->otherwise;
  }
  return asked->statuses[(status - FIRST_STATUS) / 64] >> (status - FIRST_STATUS) % 64 & 1;
}

bool program_answers_requests(const program *asked) { return asked->answers_requests; }
bool program_needs_request(const program *asked) { return asked->needs_request; }
bool program_needs_routes(const program *asked) { return asked->needs_routes; }

const buffer *program_headers(const program *asked, size_t *count) {
  *count = asked->names.count;
  return asked->names.items;
}

/* --- a request --- */

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

static void split_path(const program *asked, request *of) {
  const char *mark = of->path.length ? memchr(of->path.ptr, '?', of->path.length) : NULL;
  if (mark) {
    of->query = (buffer){mark + 1, (size_t)(of->path.ptr + of->path.length - mark - 1)};
    of->path.length = (size_t)(mark - of->path.ptr);
  }
  for (size_t i = 0; i < of->path.length; i++) {
    if (i && of->path.ptr[i] == '/') {
      of->prefixes[of->prefix_count++] = (prefix){i, of->path_hash};
    }
    of->path_hash = hash_byte(asked->base, of->path_hash, of->path.ptr[i]);
  }
  of->prefixes[of->prefix_count++] = (prefix){of->path.length, of->path_hash};
}

request *request_new(const program *asked, buffer method, buffer authority, buffer path, const line *lines,
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
  split_path(asked, made);
  return made;
}

buffer request_method(const request *of) { return of->method; }
buffer request_authority(const request *of) { return of->authority; }
buffer request_path(const request *of) {
  return (buffer){of->path.ptr, of->path.length + (of->query.ptr ? 1 + of->query.length : 0)};
}

/* --- what is asked --- */

typedef struct {
  const program *program;
  const request *request;
  buffer route;
  int on;
  uint32_t status;
  uint32_t best;      /* no rule from here on is looked at */
  const reply *reply; /* of the best rule so far */
} question;

static bool value_fits(const program *of, const test *test, buffer value) {
  buffer wanted = test->value;
  if (test->kind == REGEX) {
    return of->engine->fits(test->regex, value);
  }
  if (test->kind == CONTAINS) {
    return !wanted.length || memmem(value.ptr, value.length, wanted.ptr, wanted.length);
  }
  if (test->kind == EXACT) {
    return same(value, wanted);
  }
  if (test->kind == PRESENT) {
    return true;
  }
  return wanted.length <= value.length &&
         same((buffer){value.ptr + (test->kind == SUFFIX ? value.length - wanted.length : 0), wanted.length}, wanted);
}

static bool header_fits(const question *asked, const test *test) {
  for (size_t i = 0; i < asked->request->line_count; i++) {
    const line *each = &asked->request->lines[i];
    if (each->name == test->name && value_fits(asked->program, test, each->value)) {
      return true;
    }
  }
  return false;
}

/* Of several parameters of one name the first counts; `?a` has an empty value. */
static bool parameter_fits(const question *asked, const test *test) {
  buffer rest = asked->request->query;
  while (rest.length) {
    const char *end = memchr(rest.ptr, '&', rest.length);
    size_t length = end ? (size_t)(end - rest.ptr) : rest.length;
    const char *equals = length ? memchr(rest.ptr, '=', length) : NULL;
    size_t name = equals ? (size_t)(equals - rest.ptr) : length, value = equals ? name + 1 : length;
    if (length && same((buffer){rest.ptr, name}, test->key)) {
      return value_fits(asked->program, test, (buffer){rest.ptr + value, length - value});
    }
    rest = end ? (buffer){end + 1, rest.length - length - 1} : (buffer){0};
  }
  return false;
}

/* All tests but those of what it was found by. Regular expressions come last: asking the engine may be dear. */
static bool fits(const question *asked, const rule *rule) {
  if ((rule->methods.count && !contains(rule->methods, asked->request->method)) ||
      (rule->tests_routes && !(asked->route.length && contains(rule->routes, asked->route)))) {
    return false;
  }
  const test *tests = ITEMS(test, asked->program->tests) + rule->first_test;
  for (int regexes = 0; regexes < 2; regexes++) {
    for (uint32_t i = 0; i < rule->header_tests + rule->query_tests; i++) {
      if ((tests[i].kind == REGEX) == regexes &&
          !(i < rule->header_tests ? header_fits : parameter_fits)(asked, &tests[i])) {
        return false;
      }
    }
  }
  return !rule->tests_path || asked->program->engine->fits(rule->regex, asked->request->path);
}

static const reply *reply_for(const program *of, const rule *rule, uint32_t status) {
  for (uint32_t i = 0; i < rule->replies; i++) {
    const reply *each = &ITEMS(reply, of->replies)[rule->first_reply + i];
    for (const char *at = each->ranges, *end = at + 4 * (size_t)each->range_count; at < end; at += 4) {
      if (number_at(at, 2) <= status && status <= number_at(at + 2, 2)) {
        return each;
      }
    }
    if (!each->range_count) {
      return each;
    }
  }
  return NULL;
}

/* The first rule of a list that ends the search. A rule ends it or does not by itself, so that of several lists the
 * earliest such rule counts, in whatever order they are looked through. */
static void ask_list(question *asked, uint32_t leaf) {
  const program *of = asked->program;
  const entry *entries = of->entries.items;
  for (uint32_t at = leaf ? ITEMS(node, of->nodes)[leaf].first[asked->on] : 0; at; at = entries[at].next) {
    const rule *each = &ITEMS(rule, of->rules)[entries[at].rule];
    if (entries[at].rule >= asked->best) {
      return;
    }
    const reply *found = NULL;
    if (each->unconditional == (asked->on == ON_REQUEST)) {
      found = reply_for(of, each, asked->status);
    }
    if ((found || each->final) && fits(asked, each)) {
      asked->best = entries[at].rule;
      asked->reply = found;
      return;
    }
  }
}

static void ask_routes(question *asked, uint32_t path) {
  if (path) {
    ask_list(asked, find(asked->program, path, ANY_ROUTE, (buffer){0}, 0));
    if (asked->route.length) {
      uint64_t hash = hash_text(asked->program->base, asked->route, false);
      ask_list(asked, find(asked->program, path, ROUTE, asked->route, hash));
    }
  }
}

static void ask_paths(question *asked, uint32_t host) {
  if (!host) {
    return;
  }
  const program *of = asked->program;
  const request *request = asked->request;
  ask_routes(asked, find(of, host, AT_PATH, request->path, request->path_hash));
  size_t count = ITEMS(node, of->nodes)[host].number;
  for (size_t i = count < request->prefix_count ? count : request->prefix_count; i > 0; i--) {
    const prefix *each = &request->prefixes[i - 1];
    ask_routes(asked, find(of, host, BELOW_PATH, (buffer){request->path.ptr, each->length}, each->hash));
  }
  ask_routes(asked, find(of, host, ANY_PATH, (buffer){0}, 0));
}

static const reply *ask(const program *of, const request *request, buffer route, int on, uint32_t status) {
  static prefix none;
  static const struct request nothing = {.prefixes = &none};
  question asked = {of, request ? request : &nothing, route, on, status, UINT32_MAX, NULL};
  buffer host = asked.request->host;
  ask_paths(&asked, find(of, 0, HOST, host, hash_text(of->base, host, false)));
  uint64_t hash = 0;
  uint32_t labels = 0;
  for (size_t at = host.length; at > 1 && labels < of->labels; at--) {
    hash = hash_byte(of->base, hash, host.ptr[at - 1]);
    if (host.ptr[at - 1] == '.') {
      labels++;
      ask_paths(&asked, find(of, 0, HOST_SUFFIX, (buffer){host.ptr + at - 1, host.length - at + 1}, hash));
    }
  }
  ask_paths(&asked, find(of, 0, EVERY_HOST, (buffer){0}, 0));
  return asked.reply;
}

const reply *program_on_request(const program *asked, const request *request, buffer route) {
  return asked->answers_requests ? ask(asked, request, route, ON_REQUEST, FIRST_STATUS) : NULL;
}

const reply *program_on_status(const program *asked, const request *request, buffer route, uint32_t status) {
  return program_names(asked, status) ? ask(asked, request, route, ON_STATUS, status) : NULL;
}
