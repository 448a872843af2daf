/* Programs and their parts, by name and id, in one registry for the process: config.h has the contract.
 *
 * A part is kept while a configuration or a program holds it. A program is read when all its parts are there. A waiting
 * program leaves the answers to the previous program of the same name, and takes effect with its last part. One mutex
 * protects the whole registry; workers only read `current`, which changes at most once in a configuration's life.
 *
 */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "reader.h"

enum { BUCKETS = 4096 };

typedef struct part {
  struct part *next;
  size_t holders;
  uint64_t named_by; /* the last program that was seen to name it */
  piece opened;
  size_t length;
  char bytes[];
} part;

/* A program, and the bytes that its texts point into. */
typedef struct {
  size_t holders;
  program *program; /* NULL: it waits for its parts */
  char *bytes;
  part **parts;     /* those that have come */
  size_t part_count;
} whole;

/* What is in force under a name. */
typedef struct place {
  struct place *next;
  size_t configs;
  uint64_t number; /* of the configuration that brought `latest` */
  whole *latest;
  buffer name;
} place;

struct config {
  _Atomic(const program *) current;
  part *part;        /* for a configuration that is a part */
  place *place;
  whole *own;
  whole *before;     /* answers while that waits */
  uint64_t number;   /* configurations are numbered in order of arrival */
  config *next;      /* of the waiting ones */
  const engine *engine;
  piece opened;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static part *buckets[BUCKETS];
static place *places;
static config *waiting;
static uint64_t last_number;

void report(const char *what, const failure *why) {
  char text[sizeof why->text + 100];
  int length = snprintf(text, sizeof text, "rejoinder: %s: %s", what, why->text);
  CALLBACK(log)(LOG_ERROR, (buffer){text, (size_t)length});
}

/* --- parts --- */

static part **bucket(const char *id) {
  return &buckets[((unsigned char)id[0] << 8 | (unsigned char)id[1]) % BUCKETS];
}

static part *find_part(const char *id) {
  part *part = *bucket(id);
  while (part && memcmp(part->opened.id, id, ID_LENGTH)) {
    part = part->next;
  }
  return part;
}

static void release_part(part *old) {
  if (old && !--old->holders) {
    part **at = bucket(old->opened.id);
    while (*at != old) {
      at = &(*at)->next;
    }
    *at = old->next;
    free(old);
  }
}

static part *add_part(buffer given, const engine *engine, failure *why) {
  part *made = malloc(sizeof *made + given.length);
  if (!made) {
    return NULL;
  }
  memcpy(made->bytes, given.ptr, given.length);
  if (!program_open((buffer){made->bytes, given.length}, &made->opened, why)) {
    free(made);
    return NULL;
  }
  part *other = find_part(made->opened.id);
  if (other) {
    bool equal = other->length == given.length && !memcmp(other->bytes, given.ptr, given.length);
    free(made);
    other->holders += equal;
    return equal || REJECT(why, "byte 8: expected an id that no part with other bytes has") ? other : NULL;
  }
  program *checked = program_read(&made->opened, 1, false, engine, why);
  if (!checked) {
    free(made);
    return NULL;
  }
  program_free(checked);
  made->length = given.length;
  made->holders = 1;
  made->named_by = 0;
  made->next = *bucket(made->opened.id);
  return *bucket(made->opened.id) = made;
}

/* --- whole programs --- */

static whole *hold(whole *held) {
  if (held) {
    held->holders++;
  }
  return held;
}

static void release(whole *old) {
  if (old && !--old->holders) {
    program_free(old->program);
    for (size_t i = 0; i < old->part_count; i++) {
      release_part(old->parts[i]);
    }
    free(old->parts);
    free(old->bytes);
    free(old);
  }
}

/* Hold the parts that have come. False: the program names one twice. */
static bool gather(config *of, failure *why) {
  for (whole *own = of->own; own->part_count < of->opened.part_count; own->part_count++) {
    part *next = find_part(of->opened.parts + own->part_count * ID_LENGTH);
    if (!next) {
      return true;
    }
    if (next->named_by == of->number) {
      return REJECT(why, "part %zu: expected one that is not named before", own->part_count + 1);
    }
    next->named_by = of->number;
    next->holders++;
    own->parts[own->part_count] = next;
  }
  return true;
}

/* Read the program, whose parts are all there, and put it in force. */
static bool take_effect(config *of, failure *why) {
  whole *own = of->own;
  piece *pieces = malloc((own->part_count + 1) * sizeof *pieces);
  for (size_t i = 0; pieces && i < own->part_count; i++) {
    pieces[i] = own->parts[i]->opened;
  }
  if (pieces) {
    pieces[own->part_count] = of->opened;
    own->program = program_read(pieces, own->part_count + 1, true, of->engine, why);
  }
  free(pieces);
  if (!own->program) {
    return false;
  }
  atomic_store_explicit(&of->current, own->program, memory_order_release);
  if (of->number > of->place->number) {
    release(of->place->latest);
    of->place->latest = hold(own);
    of->place->number = of->number;
  }
  return true;
}

/* A part has come. */
static void look_after_waiting(void) {
  for (config **at = &waiting; *at;) {
    config *next = *at;
    failure why = {"no memory"};
    bool fine = gather(next, &why);
    if (fine && next->own->part_count < next->opened.part_count) {
      at = &next->next;
      continue;
    }
    *at = next->next;
    next->next = NULL;
    if (!fine || !take_effect(next, &why)) {
      report("a program whose parts are there is not used", &why);
    }
  }
}

/* --- by name --- */

static place *place_of(buffer name) {
  for (place *place = places; place; place = place->next) {
    if (same(place->name, name)) {
      return place;
    }
  }
  place *made = calloc(1, sizeof *made + name.length);
  if (made) {
    made->name = (buffer){(char *)(made + 1), name.length};
    put((char *)(made + 1), name);
    made->next = places;
    places = made;
  }
  return made;
}

static void leave(place *left) {
  if (left && !--left->configs) {
    place **at = &places;
    while (*at != left) {
      at = &(*at)->next;
    }
    *at = left->next;
    release(left->latest);
    free(left);
  }
}

/* --- configurations --- */

static bool is_space(char byte) { return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n'; }

static int digit_of(char byte) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *at = byte ? strchr(digits, byte) : NULL;
  return at ? (int)(at - digits) : -1;
}

static const char *behind_spaces(const char *at, const char *end) {
  while (at < end && is_space(*at)) {
    at++;
  }
  return at;
}

/* Move past a text that may have spaces anywhere; false: it is not there. */
static bool skip(const char **at, const char *end, const char *text) {
  for (; *text; text++, (*at)++) {
    *at = behind_spaces(*at, end);
    if (*at == end || **at != *text) {
      return false;
    }
  }
  return true;
}

/* The content of {"program": "BASE64"}, written into `to`, which has room for it. */
static bool unwrap(buffer json, char *to, size_t *length, failure *why) {
  const char *at = json.ptr, *end = json.ptr + json.length;
  bool fine = skip(&at, end, "{\"program\":\"");
  uint32_t bits = 0;
  size_t count = 0, padding = 0;
  for (; fine && at < end && digit_of(*at) >= 0; at++) {
    bits = bits << 6 | (uint32_t)digit_of(*at);
    if (++count % 4 != 1) {
      to[(*length)++] = (char)(bits >> (6 - 2 * ((count - 1) % 4)));
    }
  }
  for (; fine && at < end && *at == '=' && padding < 2; at++) {
    padding++;
  }
  fine = fine && skip(&at, end, "\"}");
  at = behind_spaces(at, end);
  return (fine && at == end && count % 4 != 1 && (!padding || (count + padding) % 4 == 0)) ||
         REJECT(why, "byte %zu: expected the bytes of a program, or them as {\"program\": \"BASE64\"}",
                (size_t)(at - json.ptr));
}

static bool begin(config *made, buffer name, buffer given, failure *why) {
  if (given.length >= 6 && !memcmp(given.ptr, "RJPRT", 6)) {
    made->part = add_part(given, made->engine, why);
    if (made->part) {
      look_after_waiting();
    }
    return made->part;
  }
  whole *own = made->own = hold(calloc(1, sizeof *own));
  if (!own || !(own->bytes = malloc(given.length + 1))) {
    return false;
  }
  buffer kept = {memcpy(own->bytes, given.ptr, given.length), given.length};
  program *checked = NULL;
  if (!program_open(kept, &made->opened, why) ||
      !(checked = program_read(&made->opened, 1, !made->opened.part_count, made->engine, why))) {
    return false;
  }
  program_free(checked);
  made->number = ++last_number;
  own->parts = calloc(made->opened.part_count + 1, sizeof *own->parts);
  made->place = place_of(name);
  if (!own->parts || !made->place) {
    return false;
  }
  made->place->configs++;
  if (!gather(made, why)) {
    return false;
  }
  if (own->part_count == made->opened.part_count) {
    return take_effect(made, why);
  }
  made->before = hold(made->place->latest);
  atomic_store_explicit(&made->current, made->before ? made->before->program : NULL, memory_order_release);
  made->next = waiting;
  waiting = made;
  return true;
}

static void drop(config *old) {
  for (config **at = &waiting; *at; at = &(*at)->next) {
    if (*at == old) {
      *at = old->next;
      break;
    }
  }
  release_part(old->part);
  release(old->own);
  release(old->before);
  leave(old->place);
  free(old);
}

config *config_new(buffer name, buffer given, const engine *engine, failure *why) {
  snprintf(why->text, sizeof why->text, "no memory");
  config *made = calloc(1, sizeof *made);
  if (!made) {
    return NULL;
  }
  made->engine = engine;
  given = given.length ? given : TEXT("");
  const char *end = given.ptr + given.length, *start = behind_spaces(given.ptr, end);
  char *unwrapped = NULL;
  bool fine = true;
  if (start < end && *start == '{') {
    size_t length = 0;
    unwrapped = malloc(given.length);
    fine = unwrapped && unwrap(given, unwrapped, &length, why);
    given = (buffer){unwrapped, length};
  }
  pthread_mutex_lock(&lock);
  if (!fine || !begin(made, name, given, why)) {
    drop(made);
    made = NULL;
  }
  pthread_mutex_unlock(&lock);
  free(unwrapped);
  return made;
}

void config_free(config *old) {
  if (old) {
    pthread_mutex_lock(&lock);
    drop(old);
    pthread_mutex_unlock(&lock);
  }
}

const program *config_program(const config *asked) {
  return atomic_load_explicit(&((config *)asked)->current, memory_order_acquire);
}
