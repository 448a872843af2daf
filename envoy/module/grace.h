/* A short time for an upstream's body to end, before its connection is given up.
 *
 * Envoy has no timer for modules, but any thread can make it call the hook `scheduled`. So one thread, which is started
 * when it is first needed, keeps a queue of waiting streams; all wait the same time, so that the first to come is the
 * first to go.
 */
#ifndef REJOINDER_GRACE_H
#define REJOINDER_GRACE_H

#include <stdbool.h>
#include <time.h>

enum { GRACE_MILLISECONDS = 100 };

/* A part of a waiting stream, which may not move or go meanwhile. All zeros: it does not wait. */
typedef struct grace {
  struct grace *next, *previous;
  struct timespec until;
  void *scheduler;
} grace;

/* Have the hook called once the time is over, unless `grace_stop` comes first. `milliseconds`: GRACE_MILLISECONDS, or
 * 0: at the worker's next turn, as always if the thread cannot be started. */
void grace_start(grace *waiting, void *envoy, long milliseconds);

/* Once it returns, the hook is not called any more. Does nothing if it does not wait. */
void grace_stop(grace *waiting);

#endif
