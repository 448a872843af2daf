/* Reads and asks decision programs: program.h has the contract, docs/program.md the bytes and their meaning.
 *
 * Reading order: the index, the records, then what is asked. Every byte comes through reader.h.
 */
#define _GNU_SOURCE /* memmem */
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reader.h"
#include "request.h"

enum { MAGIC_LENGTH = 6, VERSION = 1, BODY_RECORD = 1, RULE_RECORD = 2, FINAL = 1, UNCONDITIONAL = 2 };
enum { EVERY_PATH = 0, EXACT_PATH = 1, PREFIX_PATH = 2, REGEX_PATH = 3 };
enum { EXACT = 0, PREFIX = 1, SUFFIX = 2, CONTAINS = 3, REGEX = 4, PRESENT = 5 };

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
enum { ON_REQUEST, ON_STATUS };

typedef struct {
  uint32_t rule, next;
} entry;

struct program {
  const engine *engine;
  text_index index;
  array rules, replies, headers, tests, entries, names;
  uint32_t labels;   /* how many the longest wildcard has */
  bool answers_requests, needs_request, needs_routes, otherwise;
  uint64_t statuses[(LAST_STATUS - FIRST_STATUS) / 64 + 1];
};

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

static bool is_status(uint32_t status) { return status >= FIRST_STATUS && status <= LAST_STATUS; }

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
    of->otherwise = true;
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
    reader in = {at, at + pieces[i].records.length, at, pieces[i].offset, whole && pieces[i].is_part ? i + 1 : 0, why, false};
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

request *request_new(const program *asked, buffer method, buffer authority, buffer path, const line *lines,
                     size_t count) {
  return request_take(&asked->index, method, authority, path, lines, count);
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
  for (int regexes = 0; regexes < 2; regexes++) {
    for (uint32_t i = 0; i < rule->header_tests + rule->query_tests; i++) {
      const test *each = &ITEMS(test, asked->program->tests)[rule->first_test + i];
      if ((each->kind == REGEX) == regexes && !(i < rule->header_tests ? header_fits : parameter_fits)(asked, each)) {
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
  for (uint32_t at = leaf ? index_node(&of->index, leaf)->first[asked->on] : 0; at; at = entries[at].next) {
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
    ask_list(asked, index_find(&asked->program->index, path, ANY_ROUTE, (buffer){0}, 0));
    if (asked->route.length) {
      uint64_t hash = hash_text(&asked->program->index, asked->route);
      ask_list(asked, index_find(&asked->program->index, path, ROUTE, asked->route, hash));
    }
  }
}

static void ask_paths(question *asked, uint32_t host) {
  if (!host) {
    return;
  }
  const program *of = asked->program;
  const request *request = asked->request;
  ask_routes(asked, index_find(&of->index, host, AT_PATH, request->path, request->path_hash));
  size_t count = index_node(&of->index, host)->number;
  for (size_t i = count < request->prefix_count ? count : request->prefix_count; i > 0; i--) {
    const prefix *each = &request->prefixes[i - 1];
    ask_routes(asked, index_find(&of->index, host, BELOW_PATH, (buffer){request->path.ptr, each->length}, each->hash));
  }
  ask_routes(asked, index_find(&of->index, host, ANY_PATH, (buffer){0}, 0));
}

static const reply *ask(const program *of, const request *request, buffer route, int on, uint32_t status) {
  static prefix none;
  static const struct request nothing = {.prefixes = &none};
  question asked = {of, request ? request : &nothing, route, on, status, UINT32_MAX, NULL};
  buffer host = asked.request->host;
  ask_paths(&asked, index_find(&of->index, 0, HOST, host, hash_text(&of->index, host)));
  uint64_t hash = 0;
  uint32_t labels = 0;
  for (size_t at = host.length; at > 1 && labels < of->labels; at--) {
    hash = hash_byte(&of->index, hash, host.ptr[at - 1]);
    if (host.ptr[at - 1] == '.') {
      labels++;
      ask_paths(&asked, index_find(&of->index, 0, HOST_SUFFIX, (buffer){host.ptr + at - 1, host.length - at + 1}, hash));
    }
  }
  ask_paths(&asked, index_find(&of->index, 0, EVERY_HOST, (buffer){0}, 0));
  return asked.reply;
}

const reply *program_on_request(const program *asked, const request *request, buffer route) {
  return asked->answers_requests ? ask(asked, request, route, ON_REQUEST, FIRST_STATUS) : NULL;
}

const reply *program_on_status(const program *asked, const request *request, buffer route, uint32_t status) {
  return program_names(asked, status) ? ask(asked, request, route, ON_STATUS, status) : NULL;
}
