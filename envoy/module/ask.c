/* Asks decision programs: program.h has the contract, docs/program.md the meaning. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "compiled.h"
#include "request.h"

bool program_names(const program *asked, uint32_t status) {
  return is_status(status) && asked->statuses[(status - FIRST_STATUS) / 64] >> (status - FIRST_STATUS) % 64 & 1;
}

bool program_answers_requests(const program *asked) { return asked->answers_requests; }
uint32_t program_needs(const program *asked) { return asked->needs; }

const buffer *program_headers(const program *asked, size_t *count) {
  *count = asked->names.count;
  return asked->names.items;
}

/* --- what is asked --- */

typedef struct {
  const program *program;
  const request *request;
  buffer route;
  const response *response;
  bool for_observers; /* consider only rules that observe; else only the others */
  bool for_replies;   /* ... only those with a reply */
  uint32_t from;      /* no rule before this one is looked at */
  uint32_t best;      /* ... or from here on */
  const reply *reply; /* of the best rule so far */
} search;

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
  return test->kind == PRESENT || (test->kind == SUFFIX ? ends_with : begins_with)(value, wanted);
}

static bool header_fits(const search *asked, const test *test) {
  for (size_t i = 0; i < asked->request->line_count; i++) {
    const line *line = &asked->request->lines[i];
    if (line->name == test->name && value_fits(asked->program, test, line->value)) {
      return true;
    }
  }
  return false;
}

static bool parameter_fits(const search *asked, const test *test) {
  buffer value;
  return request_parameter(asked->request, test->key, &value) && value_fits(asked->program, test, value);
}

static bool response_fits(const search *asked, const test *test) {
  for (size_t i = 0; asked->response && i < asked->response->header_count; i++) {
    const header *header = &asked->response->headers[i];
    if (same(header->name, test->key) && value_fits(asked->program, test, header->value)) {
      return true;
    }
  }
  return false;
}

static bool domains_cover(texts domains, buffer host) {
  bool covered = !domains.count;
  while (domains.count && !covered) {
    buffer domain = next_text(&domains), suffix = suffix_of(domain);
    bool ends = !suffix.length || (host.length > suffix.length && ends_with(host, suffix));
    covered = suffix.ptr ? ends : same(domain, host);
  }
  return covered;
}

/* By an exact path, or a prefix of whole elements. */
static bool path_fits(const scope *scope, buffer path) {
  size_t length = scope->path.length;
  return begins_with(path, scope->path) &&
         (path.length == length || (scope->path_kind == PREFIX_PATH && path.ptr[length] == '/'));
}

static bool is_client(const search *asked, const scope *scope) {
  for (uint32_t i = 0; i < scope->client_count; i++) {
    if (request_is_from(asked->request, scope->clients + i * (1 + ADDRESS_LENGTH))) {
      return true;
    }
  }
  return !scope->client_count;
}

/* Regular expressions come last: the engine may be slow. */
static bool scope_fits(const search *asked, const scope *scope) {
  const request *request = asked->request;
  if ((scope->methods.count && !contains(scope->methods, request->method)) ||
      (scope->has_routes && !(asked->route.length && contains(scope->routes, asked->route))) ||
      !domains_cover(scope->domains, request->host) || !is_client(asked, scope) ||
      (scope->path_kind != EVERY_PATH && scope->path_kind != REGEX_PATH && !path_fits(scope, request->path))) {
    return false;
  }
  uint32_t of_request = scope->header_tests + scope->query_tests, count = of_request + scope->response_tests;
  for (int regexes = 0; regexes < 2; regexes++) {
    for (uint32_t i = 0; i < count; i++) {
      const test *next = &ITEMS(test, asked->program->tests)[scope->first_test + i];
      if ((next->kind == REGEX) == regexes &&
          !(i < scope->header_tests ? header_fits : i < of_request ? parameter_fits : response_fits)(asked, next)) {
        return false;
      }
    }
  }
  return scope->path_kind != REGEX_PATH || asked->program->engine->fits(scope->regex, request->path);
}

/* The tests of a rule that the index does not cover. */
static bool fits(const search *asked, const rule *rule) {
  return (!rule->source || (asked->response && asked->response->is_local == (rule->source == LOCAL_SOURCE))) &&
         scope_fits(asked, &rule->scope) &&
         !(rule->unless && scope_fits(asked, &ITEMS(scope, asked->program->scopes)[rule->unless - 1]));
}

static const reply *reply_for(const program *of, const rule *rule, uint32_t status) {
  for (uint32_t i = 0; i < rule->replies; i++) {
    const reply *next = &ITEMS(reply, of->replies)[rule->first_reply + i];
    for (const char *at = next->ranges, *end = at + 4 * (size_t)next->range_count; at < end; at += 4) {
      if (number_at(at, 2) <= status && status <= number_at(at + 2, 2)) {
        return next;
      }
    }
    if (!next->range_count) {
      return next;
    }
  }
  return NULL;
}

/* The first matching rule of a list. Whether a rule matches does not depend on the list, so the earliest matching rule
 * of several lists counts, in whatever order they are searched. */
static void ask_list(search *asked, uint32_t leaf) {
  const program *of = asked->program;
  const entry *entries = of->entries.items;
  int on = asked->response ? ON_STATUS : ON_REQUEST;
  uint32_t status = asked->response ? asked->response->status : FIRST_STATUS;
  for (uint32_t at = leaf ? index_node(&of->index, leaf)->first[on] : 0; at; at = entries[at].next) {
    const rule *next = &ITEMS(rule, of->rules)[entries[at].rule];
    if (entries[at].rule >= asked->best) {
      return;
    }
    if (next->observes != asked->for_observers || entries[at].rule < asked->from) {
      continue;
    }
    const reply *reply = next->unconditional == (on == ON_REQUEST) ? reply_for(of, next, status) : NULL;
    bool ends = asked->for_observers ? reply && !reply->passes : reply || (next->final && !asked->for_replies);
    if (ends && fits(asked, next)) {
      asked->best = entries[at].rule;
      asked->reply = reply && reply->passes ? NULL : reply;
      return;
    }
  }
}

static void ask_routes(search *asked, uint32_t path) {
  if (path) {
    ask_list(asked, index_find(&asked->program->index, path, ANY_ROUTE, (buffer){0}, 0));
    if (asked->route.length) {
      uint64_t hash = hash_text(&asked->program->index, asked->route);
      ask_list(asked, index_find(&asked->program->index, path, ROUTE, asked->route, hash));
    }
  }
}

static void ask_paths(search *asked, uint32_t host) {
  if (!host) {
    return;
  }
  const program *of = asked->program;
  const request *request = asked->request;
  ask_routes(asked, index_find(&of->index, host, AT_PATH, request->path, request->path_hash));
  size_t count = index_node(&of->index, host)->number;
  for (size_t i = count < request->prefix_count ? count : request->prefix_count; i > 0; i--) {
    const prefix *prefix = &request->prefixes[i - 1];
    buffer path = {request->path.ptr, prefix->length};
    ask_routes(asked, index_find(&of->index, host, BELOW_PATH, path, prefix->hash));
  }
  ask_routes(asked, index_find(&of->index, host, ANY_PATH, (buffer){0}, 0));
}

static void look(search *asked) {
  const program *of = asked->program;
  buffer host = asked->request->host;
  ask_paths(asked, index_find(&of->index, 0, HOST, host, hash_text(&of->index, host)));
  uint64_t hash = 0;
  uint32_t labels = 0;
  for (size_t at = host.length; at > 1 && labels < of->labels; at--) {
    hash = hash_byte(&of->index, hash, host.ptr[at - 1]);
    if (host.ptr[at - 1] == '.') {
      labels++;
      buffer suffix = {host.ptr + at - 1, host.length - at + 1};
      ask_paths(asked, index_find(&of->index, 0, HOST_SUFFIX, suffix, hash));
    }
  }
  ask_paths(asked, index_find(&of->index, 0, EVERY_HOST, (buffer){0}, 0));
}

static search search_for(const program *asked, const question *about, uint32_t end) {
  const request *request = about->request ? about->request : &no_request;
  bool asks = about->response ? program_names(asked, about->response->status) : asked->answers_requests;
  return (search){.program = asked, .request = request, .route = about->route, .response = about->response,
                  .best = asks ? end : 0};
}

const reply *program_ask(const program *asked, const question *about, uint32_t *end) {
  search made = search_for(asked, about, (uint32_t)asked->rules.count);
  if (made.best) {
    look(&made);
  }
  *end = made.best;
  return made.reply;
}

buffer program_passed(const program *asked, const question *about, uint32_t end) {
  uint32_t count = (uint32_t)asked->rules.count;
  search behind = search_for(asked, about, count);
  if (end >= behind.best) {
    return (buffer){0};
  }
  const rule *decides = &ITEMS(rule, asked->rules)[end];
  if (about->response) {
    const reply *reply = reply_for(asked, decides, about->response->status);
    return !decides->replies || (reply && reply->passes) ? decides->name : (buffer){0};
  }
  behind.from = end + 1;
  behind.for_replies = true;
  if (!decides->replies) {
    look(&behind);
  }
  return behind.best < count ? decides->name : (buffer){0};
}

uint32_t program_observed(const program *asked, const question *about, uint32_t from, uint32_t end, buffer *name) {
  search made = search_for(asked, about, end);
  made.from = from;
  made.for_observers = true;
  if (!asked->has_observers || from >= made.best) {
    return end;
  }
  look(&made);
  if (made.best < end) {
    *name = ITEMS(rule, asked->rules)[made.best].name;
  }
  return made.best;
}
