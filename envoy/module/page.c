/* Pages of other services: page.h has the contract. */
#include "page.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "reader.h"

static bool copy(buffer *into, buffer from) {
  char *made = malloc(from.length + 1);
  if (made && from.length) {
    memcpy(made, from.ptr, from.length);
  }
  *into = (buffer){made, made ? from.length : 0};
  return made;
}

/* --- what comes --- */

static uint32_t status_of(buffer text) {
  uint32_t status = 0;
  for (size_t i = 0; i < text.length; i++) {
    status = 10 * status + (uint32_t)(text.ptr[i] - '0');
  }
  return status;
}

void page_head(page *into, uint32_t code, const header *headers, size_t count) {
  uint32_t status = 0;
  bool dated = false;
  for (size_t i = 0; i < count; i++) {
    buffer name = {headers[i].name, headers[i].name_length}, value = {headers[i].value, headers[i].value_length};
    if (same(name, TEXT(":status"))) {
      status = status_of(value);
    } else if (same(name, TEXT("date"))) {
      dated = true;
    } else if (same(name, TEXT("content-encoding"))) {
      into->wrong = "Content-Encoding";
    } else if (same(name, TEXT("content-type")) && !into->type.ptr) {
      copy(&into->type, value);
    } else if (same(name, TEXT("content-language")) && !into->language.ptr) {
      copy(&into->language, value);
    }
  }
  if (!(status >= 200 && status < 300) && !(status == code && dated)) {
    into->status = status;
    into->wrong = "status ";
  }
}

void page_body(page *into, const buffer *chunks, size_t count) {
  size_t length = into->body.length;
  for (size_t i = 0; i < count; i++) {
    length += chunks[i].length;
  }
  if (length > MAX_PAGE) {
    into->wrong = "more than 1048576 bytes";
  }
  if (!into->wrong && length > into->room) {
    char *moved = realloc((char *)into->body.ptr, 2 * length);
    into->wrong = moved ? NULL : "no memory";
    into->body.ptr = moved ? moved : into->body.ptr;
    into->room = 2 * length;
  }
  for (size_t i = 0; length && i < count && !into->wrong; i++) {
    memcpy((char *)into->body.ptr + into->body.length, chunks[i].ptr, chunks[i].length);
    into->body.length += chunks[i].length;
  }
}

bool page_end(page *into) {
  if (!into->wrong && !(into->type.length && into->body.length)) {
    into->wrong = into->type.length ? "no body" : "no Content-Type";
  }
  return !into->wrong;
}

void page_clear(page *old) {
  free((char *)old->type.ptr), free((char *)old->language.ptr), free((char *)old->body.ptr);
  *old = (page){0};
}

/* --- what is kept --- */

enum { KEPT = 64, TOLD = 64, MAX_KEPT = 128 << 10, MAX_KEY = 4096 }; /* as in extproc/pages.py */

typedef struct {
  buffer key; /* the request, the service, and for how long: who wants none that is older gets none */
  page page;
  struct timespec until;
} kept;

struct pages {
  pthread_mutex_t lock;
  kept all[KEPT];
  size_t next; /* whose place is taken next */
  buffer told[TOLD];
  size_t told_count;
};

pages *pages_new(void) {
  pages *made = calloc(1, sizeof *made);
  if (made) {
    pthread_mutex_init(&made->lock, NULL);
  }
  return made;
}

static void forget(kept *old) {
  free((char *)old->key.ptr);
  page_clear(&old->page);
  old->key = (buffer){0};
}

void pages_free(pages *old) {
  for (size_t i = 0; old && i < KEPT; i++) {
    forget(&old->all[i]);
  }
  for (size_t i = 0; old && i < old->told_count; i++) {
    free((char *)old->told[i].ptr);
  }
  if (old) {
    pthread_mutex_destroy(&old->lock);
  }
  free(old);
}

static char *put(char *to, buffer text) {
  memcpy(to, &text.length, sizeof text.length);
  return text.length ? (char *)memcpy(to + sizeof text.length, text.ptr, text.length) + text.length
                     : to + sizeof text.length;
}

/* The key of a request, to be freed; NULL: it is not one to be kept. */
static char *key_of(const asking *asked, size_t *length) {
  buffer age = {(const char *)&asked->cache, sizeof asked->cache};
  *length = 2 * sizeof(size_t) + asked->service.length + age.length;
  for (size_t i = 0; i < asked->header_count; i++) {
    *length += 2 * sizeof(size_t) + asked->headers[i].name_length + asked->headers[i].value_length;
  }
  char *made = asked->cache && *length <= MAX_KEY ? malloc(*length) : NULL;
  char *at = made ? put(put(made, asked->service), age) : NULL;
  for (size_t i = 0; made && i < asked->header_count; i++) {
    const header *each = &asked->headers[i];
    at = put(put(at, (buffer){each->name, each->name_length}), (buffer){each->value, each->value_length});
  }
  return made;
}

static struct timespec now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time;
}

static bool is_over(const kept *of, struct timespec at) {
  return of->until.tv_sec < at.tv_sec || (of->until.tv_sec == at.tv_sec && of->until.tv_nsec <= at.tv_nsec);
}

static kept *find(pages *in, buffer key) {
  for (size_t i = 0; i < KEPT; i++) {
    if (in->all[i].key.ptr && same(in->all[i].key, key)) {
      return &in->all[i];
    }
  }
  return NULL;
}

bool pages_find(pages *in, const asking *asked, page *found) {
  size_t length;
  char *key = key_of(asked, &length);
  if (!key) {
    return false;
  }
  pthread_mutex_lock(&in->lock);
  kept *each = find(in, (buffer){key, length});
  bool there = each && !is_over(each, now()) && copy(&found->type, each->page.type) &&
               copy(&found->language, each->page.language) && copy(&found->body, each->page.body);
  pthread_mutex_unlock(&in->lock);
  free(key);
  return there;
}

void pages_keep(pages *in, const asking *asked, const page *made) {
  size_t length;
  char *key = made->body.length <= MAX_KEPT ? key_of(asked, &length) : NULL;
  if (!key) {
    return;
  }
  kept new = {.key = {key, length}, .until = now()};
  uint64_t nanoseconds = (uint64_t)new.until.tv_nsec + (uint64_t)asked->cache * 1000000;
  new.until.tv_sec += (time_t)(nanoseconds / 1000000000);
  new.until.tv_nsec = (long)(nanoseconds % 1000000000);
  if (!copy(&new.page.type, made->type) || !copy(&new.page.language, made->language) ||
      !copy(&new.page.body, made->body)) {
    forget(&new);
    return;
  }
  pthread_mutex_lock(&in->lock);
  kept *place = find(in, new.key);
  place = place ? place : &in->all[in->next++ % KEPT];
  kept old = *place;
  *place = new;
  pthread_mutex_unlock(&in->lock);
  forget(&old);
}

bool pages_tell(pages *in, buffer text) {
  pthread_mutex_lock(&in->lock);
  size_t i = 0;
  while (i < in->told_count && !same(in->told[i], text)) {
    i++;
  }
  bool is_new = i == in->told_count && i < TOLD && copy(&in->told[i], text);
  in->told_count += is_new;
  pthread_mutex_unlock(&in->lock);
  return is_new;
}
