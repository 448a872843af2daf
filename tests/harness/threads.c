/* The core's threads, under ThreadSanitizer: workers whose streams wait, end and go away, while a main thread brings
 * programs and parts, and some worker lets go of them last.
 *
 *   threads PROGRAM PART WHOLE     files; WHOLE names PART
 *
 * What must hold: no data race, a stream that waits is called once the time is over, and none that is gone.
 */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../envoy/module/config.h"
#include "../../envoy/module/grace.h"

enum { WORKERS = 4, ROUNDS = 400, GENERATIONS = 200 };

typedef struct {
  atomic_int called;
  atomic_bool gone;
} timer;

void *CALLBACK(http_filter_scheduler_new)(void *envoy) { return envoy; }
void CALLBACK(http_filter_scheduler_commit)(void *scheduler, uint64_t event) {
  (void)event;
  timer *of = scheduler;
  assert(!of->gone);
  of->called++;
}
void CALLBACK(http_filter_scheduler_delete)(void *scheduler) { ((timer *)scheduler)->gone = true; }
void CALLBACK(log)(int level, buffer text) { (void)level, (void)text; }

static _Atomic(config *) current;
static atomic_int readers;
static atomic_bool done;
static buffer files[3];
static const engine nothing;

static void pause_for(long milliseconds) { nanosleep(&(struct timespec){0, milliseconds * 1000000}, NULL); }

static void *streams(void *seed) {
  for (size_t round = 0, chance = (size_t)seed; round < ROUNDS; round++) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    timer fast = {0}, slow = {0};
    grace waiting = {0}, other = {0};
    grace_start(&waiting, &fast, GRACE_MILLISECONDS);
    if (chance >> 60 == 0) {
      grace_start(&other, &slow, GRACE_MILLISECONDS);
      for (int i = 0; i < 100 && !slow.called; i++) {
        pause_for(10);
      }
      assert(slow.called == 1);
      grace_stop(&other);
    }
    grace_stop(&waiting);
    assert(fast.called <= 1 && fast.gone);
    grace_stop(&waiting);
  }
  return NULL;
}

/* As Envoy does it: a stream keeps its configuration. */
static void *asks(void *unused) {
  while (!done) {
    readers++;
    config *held = current;
    const program *compiled = held ? config_program(held) : NULL;
    if (compiled) {
      uint32_t end;
      program_ask(compiled, &(question){.response = &(response){.status = 503}}, &end);
    }
    readers--;
  }
  return unused;
}

static void *lets_go(void *old) {
  config_free(old);
  return NULL;
}

static buffer read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  char *bytes = malloc(1 << 16);
  size_t length = file ? fread(bytes, 1, 1 << 16, file) : 0;
  assert(length);
  fclose(file);
  return (buffer){bytes, length};
}

int main(int count, char **arguments) {
  assert(count == 4);
  for (int i = 0; i < 3; i++) {
    files[i] = read_file(arguments[i + 1]);
  }
  pthread_t workers[WORKERS], asker;
  for (size_t i = 0; i < WORKERS; i++) {
    pthread_create(&workers[i], NULL, streams, (void *)(i + 1));
  }
  pthread_create(&asker, NULL, asks, NULL);
  buffer name = {"rejoinder", 9};
  failure why;
  for (int generation = 0; generation < GENERATIONS; generation++) {
    config *plain = config_new(name, files[0], &nothing, &why), *whole = config_new(name, files[2], &nothing, &why);
    assert(plain && whole);
    current = whole; /* what was before answers, until the part is there */
    config *part = config_new(name, files[1], &nothing, &why);
    assert(part);
    current = NULL;
    while (readers) {
    }
    pthread_t others[3];
    config *old[] = {whole, plain, part};
    for (int i = 0; i < 3; i++) {
      pthread_create(&others[i], NULL, lets_go, old[i]);
    }
    for (int i = 0; i < 3; i++) {
      pthread_join(others[i], NULL);
    }
  }
  done = true;
  pthread_join(asker, NULL);
  for (int i = 0; i < WORKERS; i++) {
    pthread_join(workers[i], NULL);
  }
  for (int i = 0; i < 3; i++) {
    free((char *)files[i].ptr);
  }
  return 0;
}
