/* A short time for an upstream's body to end, before its connection is given up.
 *
 * Envoy has no timer for modules, but lets any thread have the hook `scheduled` called. So one thread, which is started
 * when it is first needed, keeps a queue of those that wait; all wait the same time, so that the first to come is the
 * first to go.
 */
#ifndef REJOINDER_GRACE_H
#define REJOINDER_GRACE_H

#include <stdbool.h>
#include <time.h>

enum { GRACE_MILLISECONDS = 100 };

/* Part of whoever waits, who may not move or go meanwhile. All zeros: it does not wait. */
typedef struct grace {
  struct grace *next, *previous;
  struct timespec until;
  void *scheduler;
} grace;

/* Have the hook called once the time is over, unless `grace_stop` comes first. `milliseconds`: GRACE_MILLISECONDS, or
 * 0: with the worker's next turn, which it is too where there can be no thread. */
void grace_start(grace *waiting, void *envoy, long milliseconds);

/* Once it returns, the hook is not called any more. Does nothing if it does not wait. */
void grace_stop(grace *waiting);

#endif
