/* A program after it was read: program.c makes it, ask.c asks it. */
#ifndef REJOINDER_COMPILED_H
#define REJOINDER_COMPILED_H

#include "accept.h"
#include "index.h"
#include "reader.h"

enum { EXACT = 0, PREFIX = 1, SUFFIX = 2, CONTAINS = 3, REGEX = 4, PRESENT = 5 };
enum { EVERY_PATH = 0, EXACT_PATH = 1, PREFIX_PATH = 2, REGEX_PATH = 3 };
enum { ANY_SOURCE = 0, UPSTREAM_SOURCE = 1, LOCAL_SOURCE = 2 };

typedef struct {
  uint8_t kind;
  uint32_t name;  /* of a header of the request: as in `line` */
  uint32_t regex;
  buffer key;
  buffer value;
} test;

/* The requests and responses that something applies to. The parts of a rule's own scope in the index are not here. */
typedef struct {
  texts domains, routes, methods;
  bool has_routes;
  uint8_t path_kind;
  buffer path;
  uint32_t regex;
  uint32_t first_test, header_tests, query_tests, response_tests;
  const char *clients; /* networks, as they are in the bytes */
  uint32_t client_count;
} scope;

typedef struct {
  buffer name;
  bool final, unconditional, observes;
  bool sees_responses; /* it tests more of a response than its status, and fits nothing before there is one */
  uint8_t source;
  scope scope;
  uint32_t unless;     /* in `scopes`, from 1 on; 0: none */
  uint32_t first_reply, replies;
} rule;

/* Headers and body of a reply, which may offer several. */
typedef struct {
  header *headers;     /* fixed ones first, then templates */
  uint32_t header_count, template_count;
  buffer body;
  bool by_template;    /* the body is a template */
  bool empty_values;   /* as in `reply` */
} content;

/* A page that is requested from another service. */
typedef struct {
  buffer service, host;
  uint32_t timeout, cache;
  bool stays;
  uint32_t first_told, told_count; /* headers whose values are templates */
} remote;

/* A key of the index, and its node. Bodies and header names are looked up in the same way. */
typedef enum {
  BODY, TEMPLATE, HEADER,
  HOST, HOST_SUFFIX, EVERY_HOST,
  AT_PATH, BELOW_PATH, ANY_PATH,
  ROUTE, ANY_ROUTE
} kind;

/* The lists of rules under a key, by what they are for; both are in the order of the rules. */
enum { ON_REQUEST, ON_STATUS };

typedef struct {
  uint32_t rule, next;
} entry;

struct program {
  const engine *engine;
  text_index index;
  array rules, scopes, replies, contents, offers, headers, tests, entries, names, remotes, told, shared;
  uint32_t labels;   /* how many the longest wildcard has */
  uint32_t needs;
  bool answers_requests, has_observers;
  uint64_t statuses[(LAST_STATUS - FIRST_STATUS) / 64 + 1];
};

/* The suffix of the hosts that a domain covers; for `*`, empty. `ptr` is NULL: it is a host itself. */
static inline buffer suffix_of(buffer domain) {
  bool wild = domain.length && domain.ptr[0] == '*' && (domain.length == 1 || domain.ptr[1] == '.');
  return wild ? (buffer){domain.ptr + 1, domain.length - 1} : (buffer){0};
}

/* The node of a body, a template or a header; all zeros: there is none. */
static inline node *named(const program *of, kind kind, buffer name) {
  return index_node(&of->index, index_find(&of->index, 0, kind, name, hash_text(&of->index, name)));
}

/* For `host`, the authority. */
static inline buffer told_name(buffer name) { return same(name, TEXT("host")) ? TEXT(":authority") : name; }

/* The number of a header that the program needs, as in `line`, from 1 on; 0: it does not need it. */
static inline uint32_t header_number(const program *of, buffer name) {
  return named(of, HEADER, told_name(name))->number;
}

static inline bool is_status(uint32_t status) { return status >= FIRST_STATUS && status <= LAST_STATUS; }

#endif
