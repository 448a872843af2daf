/* Reads decision programs: program.h has the contract, docs/program.md the bytes. ask.c asks them.
 *
 * Reading order: the index, then the records. Every byte comes through reader.h.
 */
#include "program.h"

#include <stdlib.h>
#include <string.h>

#include "compiled.h"
#include "request.h"
#include "template.h"

enum { MAGIC_LENGTH = 6, VERSION = 3, BODY_RECORD = 1, RULE_RECORD = 2, TEMPLATE_RECORD = 3 };
enum { FINAL = 1, UNCONDITIONAL = 2, UNLESS = 4, OBSERVES = 8, FLAGS_END = 16, PASSES = 1, ASKS = 2, GRPC = 4, REPLY_FLAGS_END = 8 };

/* --- the index: domains, under them paths, under these routes, with lists of rules --- */

/* Add the rule that is being read to a node. */
static bool lead(program *of, uint32_t from, int question) {
  node *leading = index_node(&of->index, from);
  uint32_t last = leading->last[question], rule = (uint32_t)of->rules.count;
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
  buffer suffix = suffix_of(domain);
  if (!suffix.ptr) {
    return index_add(&of->index, 0, HOST, domain, hash_text(&of->index, domain));
  }
  if (!suffix.length) {
    return index_add(&of->index, 0, EVERY_HOST, suffix, 0);
  }
  uint32_t labels = count_of(suffix, '.');
  of->labels = labels > of->labels ? labels : of->labels;
  uint64_t hash = 0;
  for (size_t at = suffix.length; at > 0; at--) {
    hash = hash_byte(&of->index, hash, suffix.ptr[at - 1]);
  }
  return index_add(&of->index, 0, HOST_SUFFIX, suffix, hash);
}

/* With several domains the index would grow with their product. */
static bool by_routes(const scope *scope) { return scope->has_routes && scope->domains.count <= 1; }

/* Add the rule that is being read to the index by its domains, under them by its path, and under that by its routes. */
static bool index_rule(program *of, const rule *rule) {
  static const kind kinds[] = {ANY_PATH, AT_PATH, BELOW_PATH, ANY_PATH};
  const scope *scope = &rule->scope;
  kind path_kind = kinds[scope->path_kind];
  buffer path = path_kind == ANY_PATH ? (buffer){0} : scope->path;
  uint64_t hash = hash_text(&of->index, path);
  texts domains = scope->domains;
  uint32_t elements = path_kind == BELOW_PATH ? 1 + count_of(path, '/') - (path.ptr[0] == '/') : 0;
  uint32_t count = domains.count;
  for (uint32_t i = 0; i < (count ? count : 1); i++) {
    uint32_t host = host_node(of, count ? next_text(&domains) : TEXT("*"));
    uint32_t under = host ? index_add(&of->index, host, path_kind, path, hash) : 0;
    if (!under) {
      return false;
    }
    node *node = index_node(&of->index, host);
    node->number = elements > node->number ? elements : node->number;
    texts routes = scope->routes;
    bool named = by_routes(scope);
    for (uint32_t left = named ? routes.count : 1; left; left--) {
      buffer route = named ? next_text(&routes) : (buffer){0};
      uint32_t leaf = index_add(&of->index, under, named ? ROUTE : ANY_ROUTE, route, hash_text(&of->index, route));
      bool on_request = (rule->unconditional || rule->final) && !rule->sees_responses;
      if (!leaf || (on_request && !lead(of, leaf, ON_REQUEST)) ||
          ((!rule->unconditional || rule->final) && !lead(of, leaf, ON_STATUS))) {
        return false;
      }
    }
  }
  return true;
}

/* --- the records --- */

static bool memory(reader *in, bool got) { return expect(in, got, "memory for what stands here"); }

/* Add an item, if everything is fine so far. */
static bool keep(reader *in, array *to, const void *item, size_t size) {
  void *made = in->failed ? NULL : array_add(to, size);
  return memory(in, made) && memcpy(made, item, size);
}

#define KEEP(in, array, item) keep(in, &(array), &(item), sizeof(item))

/* As `named`, but made if it is not there. */
static node *named_node(program *of, reader *in, kind kind, buffer name) {
  uint32_t made = in->failed ? 0 : index_add(&of->index, 0, kind, name, hash_text(&of->index, name));
  memory(in, made);
  return index_node(&of->index, made);
}

static void need(program *of, uint32_t what) {
  of->needs |= what & (NEEDS_TARGET | NEEDS_SCHEME | NEEDS_CLIENT) ? what | NEEDS_REQUEST : what;
}

/* The number of a header that the program needs from now on, as in `line`. */
static uint32_t look_at_header(program *of, reader *in, buffer name) {
  name = told_name(name);
  node *header = named_node(of, in, HEADER, name);
  if (!header->number && KEEP(in, of->names, name)) { /* new: numbers begin with 1 there */
    header->number = (uint32_t)of->names.count;
  }
  need(of, NEEDS_REQUEST);
  return header->number - 1;
}

/* A template, and what it needs of a request. */
static buffer take_template(program *of, reader *in) {
  buffer read = {0};
  if (!template_read(in, &read)) {
    return read;
  }
  for (buffer rest = template_pieces(read); rest.length;) {
    static const uint32_t needs[NAMES_END] = {
        [NAME_REQUEST_METHOD] = NEEDS_TARGET,
        [NAME_REQUEST_SCHEME] = NEEDS_SCHEME,
        [NAME_REQUEST_HOST] = NEEDS_TARGET,
        [NAME_REQUEST_PATH] = NEEDS_TARGET,
        [NAME_REQUEST_TARGET] = NEEDS_TARGET,
        [NAME_REQUEST_URL] = NEEDS_TARGET | NEEDS_SCHEME,
        [NAME_REQUEST_QUERY] = NEEDS_TARGET,
        [NAME_SOURCE] = NEEDS_SOURCE,
        [NAME_ROUTE] = NEEDS_ROUTE,
        [NAME_CLIENT] = NEEDS_CLIENT,
    };
    template_piece piece = template_next(&rest);
    if (piece.name == SHARED_TEXT) {
      KEEP(in, of->shared, piece.text);
      continue;
    }
    need(of, needs[piece.name]);
    if (piece.name == NAME_REQUEST_ID || piece.name == NAME_REQUEST_HEADER) {
      look_at_header(of, in, piece.name == NAME_REQUEST_ID ? TEXT("x-request-id") : piece.text);
    }
  }
  return read;
}

/* What a reply may refer to by an id: a body, or a template. */
static void read_named(program *of, reader *in, kind kind) {
  buffer id = read_bytes(in, ID_LENGTH, "the id of a body");
  buffer body = kind == TEMPLATE ? take_template(of, in) : read_bytes(in, (size_t)(in->end - in->at), "a body");
  node *made = named_node(of, in, kind, id);
  if (expect(in, !made->body.ptr || same(made->body, body), "the bytes that another body with this id has")) {
    made->body = body;
  }
}

static uint32_t regex_number(program *of, reader *in, buffer pattern) {
  uint32_t number = 0;
  if (!in->failed && !of->engine->regex(pattern, &number, in->why)) {
    in->failed = true;
  }
  return number;
}

/* The subjects of tests. */
enum { OF_HEADERS, OF_QUERY, OF_RESPONSE };

/* Tests; how many. */
static uint32_t read_tests(program *of, reader *in, int what) {
  uint32_t count = read_list(in, 9);
  for (uint32_t i = 0; i < count && !in->failed; i++) {
    test read = {.key = read_text(in)};
    read.kind = (uint8_t)read_choice(in, PRESENT + 1, "a kind of test: 0 to 5");
    read.value = read_text(in);
    expect(in, read.kind != PRESENT || !read.value.length, "an empty text, for a test of presence");
    read.regex = read.kind == REGEX ? regex_number(of, in, read.value) : 0;
    read.name = what == OF_HEADERS ? look_at_header(of, in, read.key) : 0;
    KEEP(in, of->tests, read);
  }
  need(of, !count ? 0 : what == OF_RESPONSE ? NEEDS_HEADERS : what == OF_QUERY ? NEEDS_TARGET : NEEDS_REQUEST);
  return count;
}

static scope read_scope(program *of, reader *in) {
  scope read = {.domains = read_texts(in)};
  for (texts left = read.domains; left.count && !in->failed;) {
    need(of, same(next_text(&left), TEXT("*")) ? 0 : NEEDS_TARGET);
  }
  read.has_routes = read_choice(in, 2, "1 and a list of routes, or 0 and an empty one");
  read.routes = read_texts(in);
  expect(in, read.has_routes || !read.routes.count, "an empty list of routes");
  read.path_kind = (uint8_t)read_choice(in, REGEX_PATH + 1, "a kind of path: 0 to 3");
  read.path = read_text(in);
  expect(in, read.path_kind != EVERY_PATH || !read.path.length, "an empty text, for every path");
  if (read.path_kind == PREFIX_PATH && (!read.path.length || same(read.path, TEXT("/")))) {
    read.path_kind = EVERY_PATH;
  }
  read.regex = read.path_kind == REGEX_PATH ? regex_number(of, in, read.path) : 0;
  read.methods = read_texts(in);
  read.first_test = (uint32_t)of->tests.count;
  read.header_tests = read_tests(of, in, OF_HEADERS);
  read.query_tests = read_tests(of, in, OF_QUERY);
  read.client_count = read_list(in, 1 + ADDRESS_LENGTH);
  read.clients = in->at;
  for (uint32_t i = 0; i < read.client_count && !in->failed; i++) {
    read_choice(in, 8 * ADDRESS_LENGTH + 1, "the length of a prefix: 0 to 128");
    read_bytes(in, ADDRESS_LENGTH, "an address");
  }
  read.response_tests = read_tests(of, in, OF_RESPONSE);
  need(of, read.path_kind != EVERY_PATH || read.methods.count ? NEEDS_TARGET : 0);
  need(of, read.client_count ? NEEDS_CLIENT : 0);
  need(of, read.has_routes ? NEEDS_ROUTE : 0);
  return read;
}

/* RFC 9110, section 5.6.2, in lower case, and section 5.5. */
static bool is_header(buffer name, buffer value) {
  for (size_t i = 0; i < name.length; i++) {
    if (!in_token[(unsigned char)name.ptr[i]] || (name.ptr[i] >= 'A' && name.ptr[i] <= 'Z')) {
      return false;
    }
  }
  return name.length && is_header_value(value);
}

/* Headers, whose values are texts or templates; how many. */
static uint32_t read_headers(program *of, reader *in, bool by_template, array *into, bool *empty_values) {
  uint32_t count = read_list(in, 8);
  for (uint32_t i = 0; i < count && !in->failed; i++) {
    buffer name = read_text(in), value = by_template ? take_template(of, in) : read_text(in);
    bool legal = is_header(name, by_template ? (buffer){0} : value) &&
                 (!by_template || in->failed || template_fits_header(value));
    expect(in, legal, "a header in front of here: a name in lower case, a value without line breaks");
    header read = {name, value};
    KEEP(in, *into, read);
    *empty_values |= !value.length;
  }
  return in->failed ? 0 : count;
}

static void read_content(program *of, reader *in) {
  content read = {0};
  offer offered = {read_text(in), read_text(in)};
  read.header_count = read_headers(of, in, false, &of->headers, &read.empty_values);
  read.template_count = read_headers(of, in, true, &of->headers, &read.empty_values);
  static const char what[] = "1 and the id of a body, 3 and that of a template, or 0";
  uint32_t kind = read_choice(in, TEMPLATE_RECORD + 1, what);
  expect(in, kind != RULE_RECORD, what);
  read.by_template = kind == TEMPLATE_RECORD;
  if (kind) {
    read.body = read_bytes(in, ID_LENGTH, "the id of a body"); /* until all bodies are known */
  }
  KEEP(in, of->contents, read);
  KEEP(in, of->offers, offered);
}

static void read_ranges(program *of, reader *in, reply *into, const rule *rule) {
  into->range_count = read_list(in, 4);
  into->ranges = in->at;
  expect(in, !into->range_count || !rule->unconditional, "no statuses: the rule is unconditional");
  for (uint32_t i = 0; i < into->range_count && !in->failed; i++) {
    uint32_t first = read_number(in, 2, "a status"), last = read_number(in, 2, "a status");
    if (expect(in, is_status(first) && is_status(last) && first <= last, "statuses from 200 to 599, a range of them")) {
      for (uint32_t status = first; status <= last; status++) {
        of->statuses[(status - FIRST_STATUS) / 64] |= 1ull << (status - FIRST_STATUS) % 64;
      }
    }
  }
  if (!into->range_count && !rule->unconditional && !in->failed) {
    memset(of->statuses, 0xff, sizeof of->statuses);
  }
}

static uint32_t read_remote(program *of, reader *in) {
  remote read = {.service = read_text(in), .host = read_text(in), .first_told = (uint32_t)of->told.count};
  read.timeout = read_number(in, 4, "a time");
  read.cache = read_number(in, 4, "a time");
  read.stays = read_choice(in, 2, "0 or 1, whether the response stays");
  bool any = false;
  read.told_count = read_headers(of, in, true, &of->told, &any);
  KEEP(in, of->remotes, read);
  return (uint32_t)of->remotes.count;
}

static void read_reply(program *of, reader *in, const rule *rule) {
  reply read = {.rule = rule->name, .first_content = (uint32_t)of->contents.count};
  read_ranges(of, in, &read, rule);
  uint32_t flags = read_choice(in, REPLY_FLAGS_END, "the flags of a reply: a sum of 1, 2 and 4");
  read.passes = flags & PASSES;
  read.status = read_number(in, 2, "a status");
  expect(in, !read.status || (is_status(read.status)), "a status from 200 to 599, or 0, in front of here");
  buffer handler = read_text(in);
  read.by_handler = handler.length > 0;
  if (read.by_handler && !in->failed && !of->engine->handler(handler, &read.handler, in->why)) {
    in->failed = true;
  }
  read.kept = read_texts(in);
  need(of, read.by_handler ? NEEDS_TARGET | NEEDS_ROUTE : 0);
  need(of, read.kept.count ? NEEDS_HEADERS : 0);
  read.asks = flags & ASKS ? read_remote(of, in) : 0;
  if (flags & GRPC) {
    read.grpc = read_choice(in, 17, "a gRPC status: 1 to 16");
    expect(in, read.grpc, "a gRPC status: 1 to 16, in front of here");
    read.grpc_message = take_template(of, in);
  }
  read.content_count = read_list(in, 17);
  expect(in, read.content_count, "a content");
  for (uint32_t i = 0; i < read.content_count && !in->failed; i++) {
    read_content(of, in);
  }
  if (read.content_count > 1) {
    look_at_header(of, in, TEXT("accept"));
    look_at_header(of, in, TEXT("accept-language"));
  }
  KEEP(in, of->replies, read);
}

static void read_rule(program *of, reader *in) {
  uint32_t flags = read_choice(in, FLAGS_END, "the flags of a rule: a sum of 1, 2, 4 and 8");
  rule read = {
      .name = read_text(in),
      .final = flags & FINAL,
      .unconditional = flags & UNCONDITIONAL,
      .observes = flags & OBSERVES,
  };
  read.source = (uint8_t)read_choice(in, LOCAL_SOURCE + 1, "a source: 0 to 2");
  read.scope = read_scope(of, in);
  read.sees_responses = read.source || read.scope.response_tests;
  if (flags & UNLESS) {
    scope unless = read_scope(of, in);
    KEEP(in, of->scopes, unless);
    read.unless = (uint32_t)of->scopes.count;
    read.sees_responses |= unless.response_tests > 0;
  }
  read.first_reply = (uint32_t)of->replies.count;
  read.replies = read_list(in, 36);
  expect(in, read.replies || (read.final && !read.unconditional), "a reply, for it is not final alone");
  for (uint32_t i = 0; i < read.replies && !in->failed; i++) {
    bool other = i && !ITEMS(reply, of->replies)[of->replies.count - 1].range_count;
    expect(in, !other, "no reply behind one for every other status");
    read_reply(of, in, &read);
  }
  need(of, read.source ? NEEDS_SOURCE : 0);
  of->answers_requests |= read.unconditional;
  of->has_observers |= read.observes;
  if (in->failed || !expect(in, index_rule(of, &read), "memory for the rule that ends here")) {
    return;
  }
  /* The index covers these: they are not tested again. */
  read.scope.has_routes &= !by_routes(&read.scope);
  read.scope.domains.count = 0;
  if (read.scope.path_kind != REGEX_PATH) {
    read.scope.path_kind = EVERY_PATH;
  }
  KEEP(in, of->rules, read);
}

static void read_records(program *of, reader *in) {
  while (in->at < in->end && !in->failed) {
    uint32_t kind = read_choice(in, TEMPLATE_RECORD + 1, "a kind of record: 1 to 3");
    in->at -= !kind && !in->failed;
    expect(in, kind, "a kind of record: 1 to 3");
    uint32_t length = read_number(in, 4, "the length of a record");
    expect(in, length <= (size_t)(in->end - in->at), "a record of that length");
    reader record = *in;
    record.end = in->failed ? record.at : record.at + length;
    if (!in->failed) {
      if (kind == RULE_RECORD) {
        read_rule(of, &record);
      } else {
        read_named(of, &record, kind == BODY_RECORD ? BODY : TEMPLATE);
      }
      expect(&record, record.at == record.end, "the end of the record");
    }
    in->failed = record.failed;
    in->at = record.end;
  }
}

/* Complete what was noted while arrays still moved and bodies were unknown. */
static bool finish(program *of, bool whole, failure *why) {
  size_t headers = 0;
  for (size_t i = 0; i < of->shared.count && whole; i++) {
    buffer id = ITEMS(buffer, of->shared)[i];
    if (!named(of, BODY, id)->body.ptr) {
      return REJECT(why, "a text of a template is in no record");
    }
  }
  for (size_t i = 0; i < of->replies.count; i++) {
    reply *given = &ITEMS(reply, of->replies)[i];
    content *first = &ITEMS(content, of->contents)[given->first_content];
    for (content *at = first; at < first + given->content_count; at++) {
      kind kind = at->by_template ? TEMPLATE : BODY;
      buffer body = at->body.length ? named(of, kind, at->body)->body : (buffer){0};
      if (at->body.length && !body.ptr && whole) {
        return REJECT(why, "rule %.*s: the body of a reply is in no record", (int)given->rule.length, given->rule.ptr);
      }
      at->body = body;
      at->by_template &= body.ptr != NULL;
      uint32_t count = at->header_count + at->template_count;
      at->headers = count ? &ITEMS(header, of->headers)[headers] : NULL;
      headers += count;
    }
    given->is_fixed = given->content_count == 1 && !first->template_count && !first->by_template &&
                      !given->kept.count && !given->grpc && !given->asks;
    given->headers = first->headers, given->header_count = first->header_count;
    given->body = first->body;
    given->empty_values = first->empty_values;
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
  expect(&in, read_number(&in, 2, "a version") == VERSION, "version 3 in front of here");
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
    array *all[] = {&old->rules,   &old->scopes, &old->replies, &old->contents, &old->offers,
                    &old->headers, &old->tests,  &old->entries, &old->names,
                    &old->remotes, &old->told,   &old->shared};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
      free(all[i]->items);
    }
    index_free(&old->index);
    free(old);
  }
}
