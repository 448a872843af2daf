/* The decision program (docs/program.md) in C: read from bytes, and asked.
 *
 * `program_open` identifies some bytes, `program_read` makes a program from the records of one or more such pieces,
 * `request_new` copies what it needs of a request, `program_ask` asks it, and `reply_make` makes a reply that depends
 * on the request. Pure: neither Envoy nor Python is called, so that it can be fuzzed alone; an `engine` does what needs
 * them (regular expressions, handlers).
 *
 * A program never changes once it is read, so any number of threads can ask it without a lock. Its texts and bodies
 * point into the bytes, which must outlive it. Reading takes time and memory that are linear in the bytes; asking does
 * not depend on the number of rules, but on how many share the domain, path and route of the request.
 */
#ifndef REJOINDER_PROGRAM_H
#define REJOINDER_PROGRAM_H

#include <stdio.h>
#include <time.h>

#include "abi.h"

enum { FIRST_STATUS = 200, LAST_STATUS = 599, ID_LENGTH = 16 };

/* Why something is rejected, for people, with the offset of the mistake. */
typedef struct {
  char text[512];
} failure;

/* Write a reason; false. */
#define REJECT(why, ...) (snprintf((why)->text, sizeof (why)->text, __VA_ARGS__), false)

/* What C cannot do. The first two are called while a program is read, and return numbers; false: rejected, with a
 * reason. `fits` says whether a regex fits a whole text. */
typedef struct {
  bool (*regex)(buffer pattern, uint32_t *number, failure *why);
  bool (*handler)(buffer name, uint32_t *number, failure *why);
  bool (*fits)(uint32_t regex, buffer text);
} engine;

/* Identified bytes: a whole program, or a part of one. */
typedef struct {
  bool is_part;
  const char *id;       /* of a part */
  const char *parts;    /* the ids of a program's parts, one behind the other */
  size_t part_count;
  buffer records;
  size_t offset;        /* of the records in the bytes, for messages */
} piece;

/* A list of texts as it is in the bytes, already checked. */
typedef struct {
  const char *at;
  uint32_t count;
} texts;

/* What is sent in place of a response. */
typedef struct {
  uint32_t status;      /* of the reply; 0: the upstream's */
  bool passes;          /* nothing is sent: the response stays */
  bool by_handler;      /* `handler` makes the rest */
  bool is_fixed;        /* headers and body are the same for everybody; else `reply_make` makes them */
  bool empty_values;    /* some header has an empty value, which only a local reply can have */
  uint32_t handler;
  uint32_t grpc;        /* the status for a gRPC client; 0: the one that corresponds to `status` */
  uint32_t asks;        /* the page to be requested, one of the program's, from 1 on; 0: none */
  buffer rule;          /* the name of the rule */
  header *headers;
  size_t header_count;
  buffer body;
  buffer grpc_message;
  const char *ranges;   /* the statuses that it is for, as they are in the bytes */
  uint32_t range_count;
  texts kept;           /* the response's headers that stay: names, or prefixes of names followed by `*` */
  uint32_t first_content, content_count; /* of the program's */
  char **owned;         /* for a reply that was made: freed with it */
  size_t owned_count;
} reply;

/* A line of a header that the program needs: `name` is an index in `program_headers`. */
typedef struct {
  uint32_t name;
  buffer value;
} line;

/* A request as it came; what the program does not need may be missing. */
typedef struct {
  buffer method, scheme, authority;
  buffer path;          /* with its query */
  buffer client;        /* its address, with the port or without it: `192.0.2.1:80`, `[2001:db8::1]:80` */
  const line *lines;
  size_t line_count;
} arrived;

/* A response, an upstream's or Envoy's own; headers and source may be missing, too. */
typedef struct {
  uint32_t status;
  bool is_local;        /* Envoy has made it itself */
  const header *headers;
  size_t header_count;
} response;

typedef struct program program;
typedef struct request request;

bool program_open(buffer bytes, piece *opened, failure *why);

/* The records of all pieces, in this order. `whole`: there are no other pieces, so all bodies must be there. NULL: they
 * are wrong, or there is no memory. */
program *program_read(const piece *pieces, size_t count, bool whole, const engine *engine, failure *why);
void program_free(program *old);

/* What the program needs to be asked. */
enum {
  NEEDS_REQUEST = 1,    /* something of the request: `program_headers`, and the flags below */
  NEEDS_TARGET = 64,    /* method, authority, path */
  NEEDS_SCHEME = 2,
  NEEDS_CLIENT = 4,
  NEEDS_ROUTE = 8,
  NEEDS_SOURCE = 16,    /* of a response */
  NEEDS_HEADERS = 32    /* ... its headers */
};
uint32_t program_needs(const program *asked);
bool program_names(const program *asked, uint32_t status); /* whether some rule has a reply for it */
bool program_answers_requests(const program *asked);
const buffer *program_headers(const program *asked, size_t *count); /* in lower case; `:authority` for `host` */

/* A copy of what rules need, in one block, to be freed with `free`. NULL: no memory. */
request *request_new(const program *asked, const arrived *from);
buffer request_path(const request *of);

/* The question. */
typedef struct {
  const request *request;   /* may be NULL if the program needs none */
  buffer route;             /* the name of the request's route; empty: it has none */
  const response *response; /* NULL: there is none yet */
} question;

/* The answer to a request, or in place of a response; NULL: it continues, or passes. `end` is set to the number of the
 * deciding rule, or to a number after all rules. */
const reply *program_ask(const program *asked, const question *about, uint32_t *end);

/* The first rule in `from` to `end` (exclusive) that only observes and would have answered; returns its number, or
 * `end`. */
uint32_t program_observed(const program *asked, const question *about, uint32_t from, uint32_t end, buffer *name);

/* The name of the rule that has let this pass, if `program_ask` has given no reply and this `end`: for a response for
 * which other rules may have a reply, or a request for which a later rule has one; empty: none. */
buffer program_passed(const program *asked, const question *about, uint32_t end);

/* Make the parts of a program's reply to this question that are not fixed. The result needs the program, but none of
 * the other arguments. NULL: no memory. */
reply *reply_make(const program *asked, const reply *given, const question *about, time_t now);
void reply_free(reply *made);

/* A request to another service for a page, without a body. */
typedef struct {
  buffer service;       /* the name of its cluster */
  uint32_t timeout, cache; /* the limit of the request, and how long the page is kept for others, in milliseconds */
  bool stays;           /* without the page, the response is not changed */
  header *headers;      /* of the request, with `:method`, `:path` and `:authority` */
  size_t header_count;
  char **owned;
  size_t owned_count;
} asking;

/* The request of a reply that `asks`. It needs the program, but none of the other arguments. NULL: no memory. */
asking *reply_asks(const program *asked, const reply *given, const question *about, time_t now);
void asking_free(asking *made);

#endif
