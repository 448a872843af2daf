/* Asks decision programs: program.h has the contract, docs/program.md the meaning. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "compiled.h"
#include "request.h"

bool program_names(const program *asked, uint32_t status) {
  return is_status(status) && asked->statuses[(status - FIRST_STATUS) / 64] >> (status - FIRST_STATUS) % 64 & 1;
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
      buffer suffix = {host.ptr + at - 1, host.length - at + 1};
      ask_paths(&asked, index_find(&of->index, 0, HOST_SUFFIX, suffix, hash));
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
