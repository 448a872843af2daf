/* The Python beside the core: a library of its own, for what C cannot do (regular expressions, handlers).
 *
 * The core loads `librejoinder_python.so` with the first program that needs it, and calls it through the functions
 * below. Both are built of this file; what differs in version is not used.
 */
#ifndef REJOINDER_BESIDE_H
#define REJOINDER_BESIDE_H

#include "program.h"

#define BESIDE_LIBRARY "librejoinder_python.so"
#define BESIDE_FUNCTION "rejoinder_beside"

enum { BESIDE_VERSION = 2 };

/* What comes of a handler. */
enum { PASS = 0, REPLY = 1, FAILURE = 2 };

/* What a handler is told of the request beside Envoy's headers: as it was before the route rewrote it. */
typedef struct {
  buffer method, authority, path, route;
} asked;

/* Called on any thread; they take the GIL. No function raises, or keeps what it is given. */
typedef struct {
  uint32_t version;
  engine engine;
  /* `status`: 0 before there is a response. REPLY: `*made` is for `reply_free`. */
  int (*handle)(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made);
} beside;

/* BESIDE_FUNCTION: starts Python. NULL: it cannot be, for the reason that is written. Called on Envoy's main thread. */
typedef const beside *beside_start(failure *why);

/* The core's side: an engine that loads the library when it is first asked, and calls of its handlers. */
extern const engine beside_engine;
int beside_handle(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made);

#endif
