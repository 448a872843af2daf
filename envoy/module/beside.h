/* The Python beside the core: a separate library for what C cannot do (regular expressions, handlers).
 *
 * The core loads `librejoinder_python.so` with the first program that needs it, and calls it through the functions
 * below. Both are built from this file; a library of another version is not used.
 */
#ifndef REJOINDER_BESIDE_H
#define REJOINDER_BESIDE_H

#include "program.h"

#define BESIDE_LIBRARY "librejoinder_python.so"
#define BESIDE_FUNCTION "rejoinder_beside"

enum { BESIDE_VERSION = 2 };

/* The outcome of a handler. */
enum { PASS = 0, REPLY = 1, FAILURE = 2 };

/* What a handler gets of the request besides Envoy's headers: the original values, before the route rewrote them. */
typedef struct {
  buffer method, authority, path, route;
} asked;

/* Called on any thread; they take the GIL. No function raises, or keeps its arguments. */
typedef struct {
  uint32_t version;
  engine engine;
  /* `status`: 0 before there is a response. REPLY: `*made` is for `reply_free`. */
  int (*handle)(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made);
} beside;

/* BESIDE_FUNCTION: starts Python. NULL: it failed; the reason is written. Called on Envoy's main thread. */
typedef const beside *beside_start(failure *why);

/* The core's side: an engine that loads the library when it is first used, and calls of its handlers. */
extern const engine beside_engine;
int beside_handle(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made);

#endif
