/* Reads decision programs: program.h has the contract, docs/program.md the bytes. ask.c asks them.
 *
 * Reading order: the index, then the records. Every byte comes through reader.h.
 */
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiled.h"

enum { MAGIC_LENGTH = 6, VERSION = 1, BODY_RECORD = 1, RULE_RECORD = 2, FINAL = 1, UNCONDITIONAL = 2 };
enum { EVERY_PATH = 0, EXACT_PATH = 1, PREFIX_PATH = 2, REGEX_PATH = 3 };

/* --- the index: domains, under them paths, under these routes, which lead to lists of rules --- */

/* Let a node lead to the newest rule. */
static bool lead(program *of, uint32_t from, int question) {
  node *leading = index_node(&of->index, from);
  uint32_t last = leading->last[question], rule = (uint32_t)of->rules.count - 1;
  if (last && ITEMS(entry, of->entries)[last].rule == rule) {
    return true; /* one of its domains stands there twice */
  }
  entry *made = from ? array_add(&of->entries, sizeof *made) : NULL;
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
    return index_add(&of->index, 0, EVERY_HOST, (buffer){0}, 0);
  }
  of->needs_request = true;
  if (domain.length < 2 || domain.ptr[0] != '*' || domain.ptr[1] != '.') {
    return index_add(&of->index, 0, HOST, domain, hash_text(&of->index, domain));
  }
  buffer suffix = {domain.ptr + 1, domain.length - 1};
  uint32_t labels = 0;
  for (size_t i = 0; i < suffix.length; i++) {
    labels += suffix.ptr[i] == '.';
  }
  of->labels = labels > of->labels ? labels : of->labels;
  return index_add(&of->index, 0, HOST_SUFFIX, suffix, hash_backwards(&of->index, suffix));
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
  uint64_t hash = hash_text(&of->index, path);
  uint32_t elements = path_kind == BELOW_PATH ? elements_of(path) : 0, count = domains.count;
  for (uint32_t i = 0; i < (count ? count : 1); i++) {
    uint32_t host = host_node(of, count ? next_text(&domains) : every);
    uint32_t under = host ? index_add(&of->index, host, path_kind, path, hash) : 0;
    if (!under) {
      return false;
    }
    node *found = index_node(&of->index, host);
    found->number = elements > found->number ? elements : found->number;
    texts routes = rule->routes;
    for (uint32_t left = by_routes ? routes.count : 1; left; left--) {
      buffer route = by_routes ? next_text(&routes) : (buffer){0};
      uint32_t leaf = index_add(&of->index, under, by_routes ? ROUTE : ANY_ROUTE, route, hash_text(&of->index, route));
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
  buffer id = read_bytes(in, ID_LENGTH, "the id of a body"), body = {in->at, (size_t)(in->end - in->at)};
  uint32_t made = in->failed ? 0 : index_add(&of->index, 0, BODY, id, hash_text(&of->index, id));
  if (!expect(in, made, "memory for what stands here")) {
    return;
  }
  node *found = index_node(&of->index, made);
  expect(in, !found->body.ptr || same(found->body, body), "the bytes that another body with this id has");
  found->body = body;
  in->at = in->end;
}

/* The number of a header that is looked at; false: no memory. */
static bool header_number(program *of, buffer name, uint32_t *number) {
  static const buffer authority = {":authority", 10};
  name = name.length == 4 && !memcmp(name.ptr, "host", 4) ? authority : name;
  uint32_t at = index_add(&of->index, 0, HEADER, name, hash_text(&of->index, name));
  node *found = index_node(&of->index, at);
  if (at && !found->number) { /* new: numbers begin with 1 there */
    buffer *named = array_add(&of->names, sizeof *named);
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
  uint32_t count = read_list(in, 9);
  for (uint32_t i = 0; i < count && !in->failed; i++) {
    test read = {.key = read_text(in)};
    read.kind = (uint8_t)read_choice(in, PRESENT + 1, "a kind of test: 0 to 5");
    read.value = read_text(in);
    expect(in, read.kind != PRESENT || !read.value.length, "an empty text, for a test of presence");
    read.regex = read.kind == REGEX ? regex_number(of, in, read.value) : 0;
    test *made = in->failed ? NULL : array_add(&of->tests, sizeof *made);
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
  uint32_t count = read_list(in, 8);
  for (uint32_t i = 0; i < count && !in->failed; i++) {
    buffer name = read_text(in), value = read_text(in);
    expect(in, is_header(name, value), "a header in front of here: a name in lower case, a value without line breaks");
    header *made = in->failed ? NULL : array_add(&of->headers, sizeof *made);
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

static void read_ranges(program *of, reader *in, reply *into, const rule *rule) {
  into->range_count = read_list(in, 4);
  into->ranges = in->at;
  expect(in, !into->range_count || !rule->unconditional, "no statuses: the rule is unconditional");
  for (uint32_t i = 0; i < into->range_count && !in->failed; i++) {
    uint32_t first = read_number(in, 2, "a status"), last = read_number(in, 2, "a status");
    if (expect(in, is_status(first) && is_status(last) && first <= last, "statuses from 200 to 599, a range of them")) {
      for (uint32_t status = first; status <= last; status++) {
        name_status(of, status);
      }
    }
  }
  if (!into->range_count && !rule->unconditional && !in->failed) {
    memset(of->statuses, 0xff, sizeof of->statuses);
  }
}

static void read_reply(program *of, reader *in, const rule *rule, buffer name) {
  reply read = {.rule = name};
  read_ranges(of, in, &read, rule);
  read.status = read_number(in, 2, "a status");
  expect(in, !read.status || (is_status(read.status)), "a status from 200 to 599, or 0, in front of here");
  buffer handler = read_text(in);
  read.by_handler = handler.length > 0;
  if (read.by_handler && !in->failed && !of->engine->handler(handler, &read.handler, in->why)) {
    in->failed = true;
  }
  of->needs_request |= read.by_handler;
  of->needs_routes |= read.by_handler;
  read_headers(of, in, &read);
  if (read_choice(in, 2, "1 and the id of a body, or 0")) {
    read.body = read_bytes(in, ID_LENGTH, "the id of a body"); /* until all bodies are known */
  }
  reply *made = in->failed ? NULL : array_add(&of->replies, sizeof *made);
  if (memory(in, made)) {
    *made = read;
  }
}

static void read_rule(program *of, reader *in) {
  uint32_t flags = read_choice(in, (FINAL | UNCONDITIONAL) + 1, "the flags of a rule: 1, 2, or both");
  buffer name = read_text(in);
  rule *made = in->failed ? NULL : array_add(&of->rules, sizeof *made);
  if (!memory(in, made)) {
    return;
  }
  rule read = {.final = flags & FINAL, .unconditional = flags & UNCONDITIONAL};
  texts domains = read_texts(in);
  bool has_routes = read_choice(in, 2, "1 and a list of routes, or 0 and an empty one");
  read.routes = read_texts(in);
  expect(in, has_routes || !read.routes.count, "an empty list of routes");
  uint32_t path = read_choice(in, REGEX_PATH + 1, "a kind of path: 0 to 3");
  buffer value = read_text(in);
  expect(in, path != EVERY_PATH || !value.length, "an empty text, for every path");
  read.tests_path = path == REGEX_PATH;
  read.regex = read.tests_path ? regex_number(of, in, value) : 0;
  read.methods = read_texts(in);
  read.first_test = (uint32_t)of->tests.count;
  read.header_tests = read_tests(of, in, true);
  read.query_tests = read_tests(of, in, false);
  read.first_reply = (uint32_t)of->replies.count;
  read.replies = read_list(in, 15);
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
    uint32_t kind = read_choice(in, RULE_RECORD + 1, "a kind of record: 1 or 2");
    in->at -= !kind && !in->failed;
    expect(in, kind, "a kind of record: 1 or 2");
    uint32_t length = read_number(in, 4, "the length of a record");
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
  size_t headers = 0;
  for (size_t i = 0; i < of->replies.count; i++) {
    reply *each = &ITEMS(reply, of->replies)[i];
    each->headers = each->header_count ? &ITEMS(header, of->headers)[headers] : NULL;
    headers += each->header_count;
    if (each->body.length) {
      uint32_t at = index_find(&of->index, 0, BODY, each->body, hash_text(&of->index, each->body));
      if (!at && whole) {
        snprintf(why->text, sizeof why->text, "rule %.*s: the body of a reply is in no record", (int)each->rule.length,
                 each->rule.ptr);
        return false;
      }
      each->body = at ? index_node(&of->index, at)->body : (buffer){0};
    }
  }
  return true;
}

bool program_open(buffer given, piece *opened, failure *why) {
  reader in = {.at = given.ptr, .end = given.ptr + given.length, .start = given.ptr, .why = why};
  buffer magic = read_bytes(&in, MAGIC_LENGTH, "a program or a part of one");
  bool is_part = !in.failed && !memcmp(magic.ptr, "RJPRT", MAGIC_LENGTH);
  *opened = (piece){.is_part = is_part};
  if (!is_part && !in.failed && memcmp(magic.ptr, "RJNDR", MAGIC_LENGTH)) {
    in.at = in.start;
    return expect(&in, false, "a program or a part of one");
  }
  expect(&in, read_number(&in, 2, "a version") == VERSION, "version 1 in front of here");
  if (is_part) {
    opened->id = read_bytes(&in, ID_LENGTH, "the id of the part").ptr;
  } else {
    opened->part_count = read_list(&in, ID_LENGTH);
    opened->parts = read_bytes(&in, opened->part_count * ID_LENGTH, "the ids of parts").ptr;
  }
  opened->records = (buffer){in.at, (size_t)(in.end - in.at)};
  opened->offset = (size_t)(in.at - in.start);
  return !in.failed;
}

program *program_read(const piece *pieces, size_t count, bool whole, const engine *engine, failure *why) {
  program *made = calloc(1, sizeof *made);
  bool ready = made && index_begin(&made->index) && array_add(&made->entries, sizeof(entry)); /* 0 is none */
  snprintf(why->text, sizeof why->text, "no memory for a program");
  if (ready) {
    made->engine = engine;
  }
  for (size_t i = 0; i < count && ready; i++) {
    const char *at = pieces[i].records.ptr;
    size_t part = whole && pieces[i].is_part ? i + 1 : 0;
    reader in = {at, at + pieces[i].records.length, at, pieces[i].offset, part, why, false};
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
    array *all[] = {&old->rules, &old->replies, &old->headers, &old->tests, &old->entries, &old->names};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
      free(all[i]->items);
    }
    index_free(&old->index);
    free(old);
  }
}
