/* Pages of other services: page.h has the contract. */
#include "page.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "reader.h"

static bool copy(buffer *into, buffer from) {
  char *made = malloc(from.length + 1);
  *into = (buffer){made, made ? (size_t)(put(made, from) - made) : 0};
  return made;
}

/* --- the response --- */

void page_head(page *into, uint32_t code, const header *headers, size_t count) {
  int64_t status = 0;
  bool dated = false;
  for (size_t i = 0; i < count; i++) {
    buffer name = headers[i].name, value = headers[i].value;
    if (same(name, TEXT(":status"))) {
      status = decimal(value);
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
    into->status = (uint32_t)status;
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

/* --- kept pages --- */

enum { KEPT = 64, TOLD = 64, MAX_KEPT = 128 << 10, MAX_KEY = 4096 }; /* as in extproc/pages.py */

typedef struct {
  buffer key; /* the request, the service, and how long pages are kept: rules that differ in these share no page */
  page page;
  int64_t until; /* as `now` */
} kept;

struct pages {
  pthread_mutex_t lock;
  kept all[KEPT];
  size_t next; /* the place to be overwritten next */
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

/* Add a text and its length to a key, if there is room; returns the key's length, whether it fits or not. */
static size_t add(char key[MAX_KEY], size_t at, buffer text) {
  size_t end = at + sizeof text.length + text.length;
  if (end <= MAX_KEY) {
    memcpy(key + at, &text.length, sizeof text.length);
    put(key + at + sizeof text.length, text);
  }
  return end;
}

/* The key of a request; empty: its page is not kept. */
static buffer key_of(const asking *asked, char key[MAX_KEY]) {
  size_t length = add(key, 0, asked->service);
  length = add(key, length, (buffer){(const char *)&asked->cache, sizeof asked->cache});
  for (size_t i = 0; i < asked->header_count; i++) {
    length = add(key, add(key, length, asked->headers[i].name), asked->headers[i].value);
  }
  return (buffer){key, asked->cache && length <= MAX_KEY ? length : 0};
}

/* In milliseconds. */
static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static kept *find(pages *in, buffer key) {
  for (size_t i = 0; i < KEPT; i++) {
    if (in->all[i].key.ptr && same(in->all[i].key, key)) {
      return &in->all[i];
    }
  }
  return NULL;
}

bool pages_find(pages *in, const asking *asked, page *into) {
  char space[MAX_KEY];
  buffer key = key_of(asked, space);
  if (!key.length) {
    return false;
  }
  pthread_mutex_lock(&in->lock);
  const kept *place = find(in, key);
  bool there = place && now() < place->until && copy(&into->type, place->page.type) &&
               copy(&into->language, place->page.language) && copy(&into->body, place->page.body);
  pthread_mutex_unlock(&in->lock);
  return there;
}

void pages_keep(pages *in, const asking *asked, const page *made) {
  char space[MAX_KEY];
  buffer key = key_of(asked, space);
  if (!key.length || made->body.length > MAX_KEPT) {
    return;
  }
  kept new = {.until = now() + asked->cache};
  if (!copy(&new.key, key) || !copy(&new.page.type, made->type) || !copy(&new.page.language, made->language) ||
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
