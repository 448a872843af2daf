/* What a program is once it is read: for program.c, which makes it, and ask.c, which asks it. */
#ifndef REJOINDER_COMPILED_H
#define REJOINDER_COMPILED_H

#include "index.h"
#include "reader.h"

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
  bool answers_requests, needs_request, needs_routes;
  uint64_t statuses[(LAST_STATUS - FIRST_STATUS) / 64 + 1];
};

static inline bool is_status(uint32_t status) { return status >= FIRST_STATUS && status <= LAST_STATUS; }

#endif
