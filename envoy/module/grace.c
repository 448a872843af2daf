/* One thread and a queue: grace.h has the contract.
 *
 * Starting and stopping take the mutex for a moment. The thread is not woken for every stream: under load it checks the
 * queue ten times a second by itself, and only sleeps for good when no stream has waited meanwhile.
 */
#include "grace.h"

#include <pthread.h>
#include <signal.h>

#include "abi.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake;
static grace queue = {&queue, &queue, {0}, NULL}; /* a ring */
static enum { NEVER, RUNNING, ASLEEP, IMPOSSIBLE } thread;
static bool used; /* since the thread last looked */

static struct timespec now_and(long milliseconds) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  time.tv_nsec += milliseconds * 1000000;
  time.tv_sec += time.tv_nsec / 1000000000;
  time.tv_nsec %= 1000000000;
  return time;
}

static bool is_before(struct timespec one, struct timespec other) {
  return one.tv_sec != other.tv_sec ? one.tv_sec < other.tv_sec : one.tv_nsec < other.tv_nsec;
}

static void unlink_from_queue(grace *waiting) {
  waiting->previous->next = waiting->next;
  waiting->next->previous = waiting->previous;
  waiting->next = waiting->previous = NULL;
}

static void *run(void *unused) {
  pthread_mutex_lock(&lock);
  for (;;) {
    struct timespec now = now_and(0);
    while (queue.next != &queue && !is_before(now, queue.next->until)) {
      grace *due = queue.next;
      unlink_from_queue(due);
      /* With the mutex held, so that `grace_stop` cannot take the scheduler away. It only posts to the worker. */
      CALLBACK(http_filter_scheduler_commit)(due->scheduler, 0);
    }
    if (queue.next == &queue && !used) {
      thread = ASLEEP;
      pthread_cond_wait(&wake, &lock);
      thread = RUNNING;
    } else {
      struct timespec until = queue.next == &queue ? now_and(GRACE_MILLISECONDS) : queue.next->until;
      used = false;
      pthread_cond_timedwait(&wake, &lock, &until);
    }
  }
  return unused;
}

static void start_thread(void) {
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Envoy's own threads */
  pthread_t started;
  thread = pthread_create(&started, NULL, run, NULL) ? IMPOSSIBLE : RUNNING;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (thread == RUNNING) {
    pthread_detach(started);
  }
}

void grace_start(grace *waiting, void *envoy, long milliseconds) {
  waiting->scheduler = CALLBACK(http_filter_scheduler_new)(envoy);
  if (!milliseconds) {
    CALLBACK(http_filter_scheduler_commit)(waiting->scheduler, 0);
    return;
  }
  waiting->until = now_and(milliseconds);
  pthread_mutex_lock(&lock);
  if (thread == NEVER) {
    start_thread();
  }
  used = true;
  if (thread == IMPOSSIBLE) {
    CALLBACK(http_filter_scheduler_commit)(waiting->scheduler, 0);
  } else {
    waiting->previous = queue.previous;
    waiting->next = &queue;
    queue.previous = queue.previous->next = waiting;
    if (thread == ASLEEP) {
      pthread_cond_signal(&wake);
    }
  }
  pthread_mutex_unlock(&lock);
}

void grace_stop(grace *waiting) {
  if (!waiting->scheduler) {
    return;
  }
  pthread_mutex_lock(&lock);
  if (waiting->next) {
    unlink_from_queue(waiting);
  }
  pthread_mutex_unlock(&lock);
  CALLBACK(http_filter_scheduler_delete)(waiting->scheduler);
  waiting->scheduler = NULL;
}
