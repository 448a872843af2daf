/* A host for the module's C, in place of Envoy: fake callbacks, so that sanitizers can watch the real code.
 *
 *   host FILE ...            plays each scenario and checks what the client gets
 *   host -mutate N FILE ...  plays N random changes of the files each; only the sanitizers judge those
 *
 * A scenario is lines of a letter and its text. First the table and the request and response:
 *   r STATUS BODY    a reply; status 0: the upstream's      h NAME VALUE    a header of that reply
 *   c FIRST LAST     it is for these statuses               o               it is for every other
 *   p OUTCOME BODY   it is a handler's: 0 pass, 1 BODY, 2 failure
 *   q METHOD         the request                            u NAME VALUE    a header of the upstream's response
 * then what happens, in its order:
 *   n  headers   e  headers that end the response   b TEXT  some body   B TEXT  its last part
 *   t NAME  trailers, with one of that name          s  the scheduled event
 * and what comes of it:
 *   = STATUS BODY    what the client has got when all is played
 *   + NAME VALUE     a header that it has got with it
 *
 * What Envoy hands out is good until the hook changes something: here every change moves all of it to new memory.
 */
#include <assert.h>
#include <stdarg.h>

#include "../../envoy/module/filter.c"

enum { MANY = 64, MANY_HEADERS = 128 };

typedef struct {
  char *name, *value;
} field;

static struct {
  field fields[MANY_HEADERS];
  size_t count;
} maps[4];
static char method[MANY], received[1 << 16], sent[1 << 18];
static size_t received_length, sent_length;
static bool in_body, local_reply, scheduled;
static uint32_t local_status;
static table *route_table;
static int handler_outcomes[MANY];
static char *handler_bodies[MANY];
static uint64_t increments;

static buffer text_of(const char *text) { return (buffer){text, strlen(text)}; }

static char *duplicate(const char *bytes, size_t length) {
  char *copied = malloc(length + 1);
  memcpy(copied, bytes, length);
  copied[length] = 0;
  return copied;
}

/* --- Envoy's side --- */

static void move_all(int type) {
  for (size_t i = 0; i < maps[type].count; i++) {
    field *each = &maps[type].fields[i], old = *each;
    *each = (field){duplicate(old.name, strlen(old.name)), duplicate(old.value, strlen(old.value))};
    free(old.name), free(old.value);
  }
}

static void drop_all(int type) {
  while (maps[type].count) {
    field last = maps[type].fields[--maps[type].count];
    free(last.name), free(last.value);
  }
}

static void erase(int type, buffer name) {
  size_t kept = 0;
  for (size_t i = 0; i < maps[type].count; i++) {
    field each = maps[type].fields[i];
    if (strlen(each.name) == name.length && memcmp(each.name, name.ptr, name.length) == 0) {
      free(each.name), free(each.value);
    } else {
      maps[type].fields[kept++] = each;
    }
  }
  maps[type].count = kept;
}

bool CALLBACK(http_add_header)(void *envoy, int type, buffer name, buffer value) {
  (void)envoy;
  if (!value.length || maps[type].count == MANY_HEADERS) {
    return false;
  }
  maps[type].fields[maps[type].count++] = (field){duplicate(name.ptr, name.length), duplicate(value.ptr, value.length)};
  move_all(type);
  return true;
}

bool CALLBACK(http_set_header)(void *envoy, int type, buffer name, buffer value) {
  erase(type, name);
  CALLBACK(http_add_header)(envoy, type, name, value);
  move_all(type);
  return true;
}

bool CALLBACK(http_get_header)(void *envoy, int type, buffer name, buffer *value, size_t index, size_t *count) {
  (void)envoy, (void)count;
  assert(index == 0);
  if (type == REQUEST_HEADERS && name.length == 7 && memcmp(name.ptr, ":method", 7) == 0) {
    *value = text_of(method);
    return true;
  }
  for (size_t i = 0; i < maps[type].count; i++) {
    field each = maps[type].fields[i];
    if (strlen(each.name) == name.length && memcmp(each.name, name.ptr, name.length) == 0) {
      *value = text_of(each.value);
      return true;
    }
  }
  return false;
}

size_t CALLBACK(http_get_headers_size)(void *envoy, int type) { return (void)envoy, maps[type].count; }

bool CALLBACK(http_get_headers)(void *envoy, int type, header *headers) {
  (void)envoy;
  for (size_t i = 0; i < maps[type].count; i++) {
    field each = maps[type].fields[i];
    headers[i] = (header){each.name, strlen(each.name), each.value, strlen(each.value)};
  }
  return true;
}

size_t CALLBACK(http_get_body_size)(void *envoy, int type) {
  (void)envoy;
  assert(type == RECEIVED_RESPONSE_BODY && in_body);
  return received_length;
}

bool CALLBACK(http_drain_body)(void *envoy, int type, size_t length) {
  (void)envoy, (void)type;
  assert(length <= received_length);
  received_length -= length;
  return true;
}

bool CALLBACK(http_append_body)(void *envoy, int type, buffer data) {
  (void)envoy;
  assert((type == RECEIVED_RESPONSE_BODY) == in_body); /* only the hook for the body has a received body */
  char *to = in_body ? received : sent;
  size_t *length = in_body ? &received_length : &sent_length;
  assert(*length + data.length < sizeof received);
  memcpy(to + *length, data.ptr, data.length);
  *length += data.length;
  return true;
}

void CALLBACK(http_send_response)(void *envoy, uint32_t status, header *headers, size_t count, buffer body,
                                  buffer details) {
  (void)envoy, (void)details;
  assert(!local_reply);
  local_reply = true;
  local_status = status;
  drop_all(RESPONSE_HEADERS);
  for (size_t i = 0; i < count && i < MANY_HEADERS; i++) {
    maps[RESPONSE_HEADERS].fields[maps[RESPONSE_HEADERS].count++] =
        (field){duplicate(headers[i].name, headers[i].name_length), duplicate(headers[i].value, headers[i].value_length)};
  }
  sent_length = strcmp(method, "HEAD") ? body.length : 0;
  memcpy(sent, body.ptr, sent_length);
}

const void *CALLBACK(get_most_specific_route_config)(void *envoy) { return (void)envoy, route_table; }
void *CALLBACK(http_filter_scheduler_new)(void *envoy) { return (void)envoy, malloc(1); }
void CALLBACK(http_filter_scheduler_commit)(void *scheduler, uint64_t event) {
  (void)scheduler;
  scheduled = true;
  local_status = (uint32_t)event;
}
void CALLBACK(http_filter_scheduler_delete)(void *scheduler) { free(scheduler); }
void CALLBACK(log)(int level, buffer text) { (void)level, (void)text; }
bool CALLBACK(http_set_dynamic_metadata_string)(void *envoy, buffer name_space, buffer key, buffer value) {
  return (void)envoy, (void)name_space, (void)key, (void)value, true;
}
int CALLBACK(http_filter_config_define_counter)(void *envoy_config, buffer name, buffer *labels, size_t count,
                                                size_t *id) {
  (void)envoy_config, (void)name, (void)labels, (void)count;
  *id = 1;
  return 0;
}
int CALLBACK(http_filter_increment_counter)(void *envoy, size_t id, buffer *labels, size_t count, uint64_t value) {
  (void)envoy, (void)id, (void)labels, (void)count;
  increments += value;
  return 0;
}

/* --- Python's side --- */

static bool rejoinder_started(void) { return true; }
static const table *rejoinder_table(buffer config) { return (void)config, NULL; }
static int rejoinder_handle(void *envoy, uint32_t handler, uint32_t status, table **made) {
  (void)envoy;
  assert(handler < MANY);
  if (handler_outcomes[handler] == REPLY) {
    *made = table_new(1);
    table_reply(*made, 0, status, 0, TEXT(""), NULL, 0, text_of(handler_bodies[handler]));
  }
  return handler_outcomes[handler];
}

/* --- playing a scenario --- */

typedef struct {
  uint32_t status, handler, first[MANY], last[MANY];
  size_t ranges, header_count;
  bool otherwise;
  char *body;
  header headers[MANY];
} plan;

static void fail(const char *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "%s: ", file);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  exit(1);
}

/* `text` is changed: its words become strings. */
static void play(const char *file, char *text, bool judge) {
  static plan plans[MANY];
  size_t planned = 0;
  memset(plans, 0, sizeof plans);
  memset(handler_outcomes, 0, sizeof handler_outcomes);
  strcpy(method, "GET");
  received_length = sent_length = 0;
  in_body = local_reply = scheduled = false;
  route_table = NULL;
  int result = CONTINUE;
  bool started = false, ended = false, held = false, held_once = false;
  config counters = {1, 2};
  stream *self = (stream *)HOOK(new)(&counters, NULL);

  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    char letter = line[0], *rest = line[0] && line[1] ? line + 2 : line + strlen(line);
    char *space = strchr(rest, ' '), *second = space ? space + 1 : rest + strlen(rest);
    if (strchr("hqu+", letter) && space) {
      *space = 0;
    }
    plan *last = planned ? &plans[planned - 1] : NULL;
    bool ready = !started && letter && strchr("rpqu", letter);
    if ((letter == 'r' || letter == 'p') && ready && planned < MANY - 1) {
      last = &plans[planned++];
      last->status = letter == 'r' ? (uint32_t)strtoul(rest, NULL, 10) : 0;
      last->handler = letter == 'p' ? (uint32_t)planned : 0;
      handler_outcomes[planned] = abs(atoi(rest)) % 3;
      handler_bodies[planned] = last->body = second;
    } else if (letter == 'h' && last && last->header_count < MANY) {
      last->headers[last->header_count++] = (header){rest, strlen(rest), second, strlen(second)};
    } else if (letter == 'c' && last && last->ranges < MANY) {
      last->first[last->ranges] = (uint32_t)strtoul(rest, NULL, 10);
      last->last[last->ranges++] = (uint32_t)strtoul(second, NULL, 10);
    } else if (letter == 'o' && last) {
      last->otherwise = true;
    } else if (letter == 'q' && ready && strlen(rest) < sizeof method) {
      strcpy(method, rest);
    } else if (letter == 'u' && ready && *rest) {
      CALLBACK(http_add_header)(NULL, RESPONSE_HEADERS, text_of(rest), text_of(second));
    } else if ((letter == 'n' || letter == 'e') && !started) {
      started = true;
      route_table = table_new(planned);
      for (size_t i = 0; i < planned; i++) {
        plan *each = &plans[i];
        table_reply(route_table, i, each->status, each->handler, TEXT("rule"), each->headers, each->header_count,
                    text_of(each->body));
        for (size_t range = 0; range < each->ranges; range++) {
          table_claim(route_table, each->first[range], each->last[range], i);
        }
        if (each->otherwise) {
          table_otherwise(route_table, i);
        }
      }
      ended = letter == 'e';
      result = HOOK(response_headers)(NULL, self, ended);
      held_once = held = result == STOP;
    } else if ((letter == 'b' || letter == 'B') && started && !ended && !local_reply) {
      received_length = strlen(rest) < sizeof received / 2 ? strlen(rest) : 0;
      memcpy(received, rest, received_length);
      ended = letter == 'B';
      in_body = true;
      result = HOOK(response_body)(NULL, self, ended);
      in_body = false;
      held = held && result != CONTINUE;
      if (result == CONTINUE && sent_length + received_length < sizeof sent) {
        memcpy(sent + sent_length, received, received_length);
        sent_length += received_length;
      }
    } else if (letter == 't' && started && !ended && !local_reply) {
      ended = true;
      CALLBACK(http_add_header)(NULL, RESPONSE_TRAILERS, text_of(rest), TEXT("1"));
      result = HOOK(response_trailers)(NULL, self);
      held = false;
    } else if (letter == 's' && scheduled) {
      scheduled = false;
      HOOK(scheduled)(NULL, self, local_status);
    } else if (letter == '+' && judge) {
      bool there = false;
      for (size_t i = 0; i < maps[RESPONSE_HEADERS].count; i++) {
        field each = maps[RESPONSE_HEADERS].fields[i];
        there = there || (strcmp(each.name, rest) == 0 && strcmp(each.value, second) == 0);
      }
      if (!there) {
        fail(file, "expected the header %s with the value %s", rest, second);
      }
    } else if (letter == '=' && judge) {
      buffer status = {0};
      CALLBACK(http_get_header)(NULL, RESPONSE_HEADERS, TEXT(":status"), &status, 0, NULL);
      uint32_t got = local_reply ? local_status : (uint32_t)number(status);
      if (held && !local_reply && ended) {
        fail(file, "the response is held for ever");
      }
      if (got != strtoul(rest, NULL, 10) || sent_length != strlen(second) || memcmp(sent, second, sent_length)) {
        fail(file, "expected %s, got %u %.*s", rest, got, (int)sent_length, sent);
      }
      if (maps[RESPONSE_TRAILERS].count && held_once) {
        fail(file, "trailers are left");
      }
    }
  }
  HOOK(destroy)(self);
  HOOK(per_route_config_destroy)(route_table);
  for (int type = 0; type < 4; type++) {
    drop_all(type);
  }
}

static char *read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    fail(path, "cannot be read");
  }
  char *text = calloc(1, 1 << 16);
  size_t length = fread(text, 1, (1 << 16) - 1, file);
  (void)length;
  fclose(file);
  return text;
}

static uint32_t chance(uint32_t below) {
  static uint64_t state = 88172645463325252ull; /* xorshift: the same changes in every run */
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state % below);
}

int main(int count, char **arguments) {
  bool mutate = count > 2 && strcmp(arguments[1], "-mutate") == 0;
  long rounds = mutate ? atol(arguments[2]) : 0;
  for (int i = mutate ? 3 : 1; i < count; i++) {
    char *text = read_file(arguments[i]);
    if (!mutate) {
      play(arguments[i], text, true);
    }
    for (long round = 0; round < rounds; round++) {
      char *changed = duplicate(text, strlen(text));
      for (uint32_t changes = 1 + chance(6), length = (uint32_t)strlen(changed); length && changes; changes--) {
        static const char interesting[] = "\n\n 0159:-nebBtsucrpoqh=HEAD";
        changed[chance(length)] =
            chance(2) ? interesting[chance(sizeof interesting - 1)] : (char)(1 + chance(255));
      }
      play(arguments[i], changed, false);
      free(changed);
    }
    free(text);
  }
  return 0;
}
