/* A host for the module's core, in place of Envoy: fake callbacks, so that sanitizers can watch the real code.
 *
 *   host < SCENARIO
 *
 * A scenario is lines of a letter and what belongs to it. First what there is:
 *   c NAME HEX     a configuration comes: a program, or a part of one. `C` is one that must be rejected
 *   d              the oldest one that is still there goes
 *   x TEXT         the log has this text in it
 *   ?              a stream begins, with the newest configuration (or with number N: `? N`)
 *   q NAME VALUE   a header of the request                o NAME       its route
 *   v PROTOCOL     the client's; HTTP/1.1 if nobody says   a ADDRESS     the client's, with its port
 * then what happens, in its order:
 *   >              the request's headers
 *   w NAME VALUE   the route rewrites a header of the request
 *   u NAME VALUE   a header of the upstream's response
 *   l DETAILS      Envoy is about to answer by itself, with these details
 *   z DETAILS      its response's details, `via_upstream` if nobody says
 *   n  headers   e  headers that end the response   b TEXT  some body   B TEXT  its last part
 *   t NAME  trailers, with one of that name
 *   p STATUS BODY  the page of another service, all of it   P   there will be none
 *   h STATUS COUNT ... without an end, in so many parts of 64 kB
 *   s              the time is over, and what has been scheduled is called
 *   .              the stream ends
 * and what comes of it:
 *   = STATUS BODY  what the client has got, all of it; `-` in place of the body: none
 *   + NAME VALUE   a header that it has got with it       ! NAME       one that it has not
 *   k RULE COUNT   so often has the rule replied          f RULE COUNT so often has its handler failed
 *   g RULE COUNT   so often has it observed               j RULE COUNT so often has it let pass
 *   i RULE COUNT   so often has no page come for it
 *   m KEY VALUE    access logs are told so
 *   r REASON       how the upstream's stream ended: kept, reset
 *   y DETAILS      of the local reply                 @ NAME VALUE  the service of a page was told so
 *
 * What Envoy hands out is good until the hook changes something: here every change moves all of it to new memory.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../envoy/module/beside.h"
#include "../../envoy/module/filter.c"

enum { MANY = 64, MANY_HEADERS = 400, MANY_COUNTS = 64 };

typedef struct {
  char *name, *value;
} field;

static struct {
  field fields[MANY_HEADERS];
  size_t count;
} maps[4];
static char received[1 << 18], sent[1 << 21], details_sent[512], route[256], protocol[16], logged[1 << 14];
static char client[256], code_details[256], metadata[1 << 12];
static size_t received_length, sent_length, buffered_length;
static char told[1 << 12];
static bool in_body, local_reply, scheduled, released, ended, reset;
static uint32_t local_status;
static struct {
  char rule[64];
  size_t id, count;
} counts[MANY_COUNTS];

static buffer text_of(const char *text) { return (buffer){text, strlen(text)}; }

static char *duplicate(const char *bytes, size_t length) {
  char *copied = malloc(length + 1);
  memcpy(copied, bytes, length);
  copied[length] = 0;
  return copied;
}

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  exit(1);
}

/* --- Envoy's side --- */

static void move_all(int type) {
  for (size_t i = 0; i < maps[type].count; i++) {
    field *entry = &maps[type].fields[i], old = *entry;
    *entry = (field){duplicate(old.name, strlen(old.name)), duplicate(old.value, strlen(old.value))};
    free(old.name), free(old.value);
  }
}

static void drop_all(int type) {
  while (maps[type].count) {
    field last = maps[type].fields[--maps[type].count];
    free(last.name), free(last.value);
  }
}

static bool is_named(field entry, buffer name) {
  return strlen(entry.name) == name.length && memcmp(entry.name, name.ptr, name.length) == 0;
}

static void erase(int type, buffer name) {
  size_t kept = 0;
  for (size_t i = 0; i < maps[type].count; i++) {
    field entry = maps[type].fields[i];
    if (is_named(entry, name)) {
      free(entry.name), free(entry.value);
    } else {
      maps[type].fields[kept++] = entry;
    }
  }
  maps[type].count = kept;
}

static void add_field(int type, buffer name, buffer value) {
  assert(maps[type].count < MANY_HEADERS);
  maps[type].fields[maps[type].count++] = (field){duplicate(name.ptr, name.length), duplicate(value.ptr, value.length)};
}

bool CALLBACK(http_add_header)(void *envoy, int type, buffer name, buffer value) {
  (void)envoy;
  assert(!released && !local_reply);
  if (!value.length) {
    return false;
  }
  add_field(type, name, value);
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
  (void)envoy;
  size_t values = 0;
  *value = (buffer){0};
  for (size_t i = 0; i < maps[type].count; i++) {
    if (is_named(maps[type].fields[i], name) && values++ == index) {
      *value = text_of(maps[type].fields[i].value);
    }
  }
  if (count) {
    *count = values;
  }
  return index < values;
}

size_t CALLBACK(http_get_headers_size)(void *envoy, int type) { return (void)envoy, maps[type].count; }

bool CALLBACK(http_get_headers)(void *envoy, int type, header *headers) {
  (void)envoy;
  for (size_t i = 0; i < maps[type].count; i++) {
    field entry = maps[type].fields[i];
    headers[i] = (header){text_of(entry.name), text_of(entry.value)};
  }
  return true;
}

size_t CALLBACK(http_get_body_size)(void *envoy, int type) {
  (void)envoy;
  assert((type == RECEIVED_RESPONSE_BODY) == in_body);
  return in_body ? received_length : buffered_length;
}

bool CALLBACK(http_drain_body)(void *envoy, int type, size_t length) {
  (void)envoy;
  size_t *of = type == RECEIVED_RESPONSE_BODY ? &received_length : &buffered_length;
  assert(length <= *of);
  *of -= length;
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

void CALLBACK(http_filter_continue_encoding)(void *envoy) {
  (void)envoy;
  assert(!released && !local_reply && !in_body);
  released = true;
  memmove(sent + buffered_length, sent, sent_length); /* what was kept is in front of what was appended: nothing */
  memcpy(sent, received, buffered_length);
  sent_length += buffered_length;
}

void CALLBACK(http_send_response_data)(void *envoy, buffer data, bool end_of_stream) {
  (void)envoy;
  assert(released && !end_of_stream); /* to end it from within a local reply is more than Envoy bears */
  memcpy(sent + sent_length, data.ptr, data.length);
  sent_length += data.length;
}

static stream *self;
static void page_comes(const char *status, const char *text);

int CALLBACK(http_filter_start_http_stream)(void *envoy, uint64_t *id, buffer cluster, header *headers, size_t count,
                                            buffer body, bool end_of_stream, uint64_t milliseconds) {
  (void)envoy, (void)body;
  assert(end_of_stream && milliseconds);
  *id = 7;
  size_t length = (size_t)snprintf(told, sizeof told, "service %.*s\n", (int)cluster.length, cluster.ptr);
  for (size_t i = 0; i < count; i++) {
    length += (size_t)snprintf(told + length, sizeof told - length, "%.*s %.*s\n", (int)headers[i].name.length,
                               headers[i].name.ptr, (int)headers[i].value.length, headers[i].value.ptr);
  }
  if (cluster.ptr[0] == '+') { /* it has no address: Envoy says so at once */
    page_comes("500", "no healthy upstream");
  }
  return cluster.ptr[0] == '-'; /* there is no such cluster */
}

static const char *request_field(const char *name) {
  for (size_t i = 0; i < maps[REQUEST_HEADERS].count; i++) {
    if (!strcmp(maps[REQUEST_HEADERS].fields[i].name, name)) {
      return maps[REQUEST_HEADERS].fields[i].value;
    }
  }
  return "";
}

void CALLBACK(http_send_response)(void *envoy, uint32_t status, header *headers, size_t count, buffer body,
                                  buffer details) {
  (void)envoy;
  assert(!local_reply && !released && !ended);
  drop_all(RESPONSE_HEADERS);
  for (size_t i = 0; i < count; i++) {
    add_field(RESPONSE_HEADERS, headers[i].name, headers[i].value);
  }
  local_reply = true;
  reset = true;
  local_status = status;
  sent_length = strcmp(request_field(":method"), "HEAD") ? body.length : 0;
  if (sent_length) {
    memcpy(sent, body.ptr, sent_length);
  }
  snprintf(details_sent, sizeof details_sent, "%.*s", (int)details.length, details.ptr);
}

bool CALLBACK(http_filter_get_attribute_string)(void *envoy, int attribute, buffer *value) {
  (void)envoy;
  const char *text = attribute == ROUTE_NAME ? route
                     : attribute == PROTOCOL ? protocol
                     : attribute == SOURCE_ADDRESS ? client
                     : attribute == RESPONSE_CODE_DETAILS ? code_details
                                                          : NULL;
  assert(text);
  *value = text_of(text);
  return value->length > 0;
}

void *CALLBACK(http_filter_scheduler_new)(void *envoy) { return (void)envoy, malloc(1); }
void CALLBACK(http_filter_scheduler_commit)(void *scheduler, uint64_t event) {
  (void)scheduler, (void)event;
  scheduled = true;
}
void CALLBACK(http_filter_scheduler_delete)(void *scheduler) { free(scheduler); }
void CALLBACK(log)(int level, buffer text) {
  (void)level;
  snprintf(logged, sizeof logged, "%.*s", (int)text.length, text.ptr);
}
bool CALLBACK(http_set_dynamic_metadata_string)(void *envoy, buffer name_space, buffer key, buffer value) {
  (void)envoy, (void)name_space;
  size_t length = strlen(metadata);
  snprintf(metadata + length, sizeof metadata - length, "%.*s %.*s\n", (int)key.length, key.ptr, (int)value.length,
           value.ptr);
  return true;
}
int CALLBACK(http_filter_config_define_counter)(void *envoy_config, buffer name, buffer *labels, size_t count,
                                                size_t *id) {
  (void)envoy_config, (void)labels, (void)count;
  *id = name.ptr[0] == 'r' ? 'k' : name.ptr[0] == 'o' ? 'g' : name.ptr[0] == 'p' ? (name.ptr[2] == 'g' ? 'i' : 'j') : 'f';
  return 0;
}
int CALLBACK(http_filter_increment_counter)(void *envoy, size_t id, buffer *labels, size_t count, uint64_t value) {
  (void)envoy, (void)count;
  for (size_t i = 0; i < MANY_COUNTS; i++) {
    bool same_rule = strlen(counts[i].rule) == labels->length && !memcmp(counts[i].rule, labels->ptr, labels->length);
    if (!counts[i].id || (counts[i].id == id && same_rule)) {
      counts[i].id = id;
      snprintf(counts[i].rule, sizeof counts[i].rule, "%.*s", (int)labels->length, labels->ptr);
      counts[i].count += value;
      break;
    }
  }
  return 0;
}

/* --- Python's side: a regular expression fits what begins with it; what a handler does is its name --- */

static char *patterns[MANY], *handlers[MANY];

static uint32_t numbered(char **all, buffer name) {
  uint32_t i = 0;
  while (all[i] && (strlen(all[i]) != name.length || memcmp(all[i], name.ptr, name.length))) {
    i++;
  }
  assert(i < MANY - 1);
  all[i] = all[i] ? all[i] : duplicate(name.ptr, name.length);
  return i;
}

static bool fake_regex(buffer pattern, uint32_t *number, failure *why) {
  if (pattern.length && pattern.ptr[0] == '(') {
    snprintf(why->text, sizeof why->text, "no such regular expression");
    return false;
  }
  *number = numbered(patterns, pattern);
  return true;
}

static bool fake_handler(buffer name, uint32_t *number, failure *why) {
  (void)why;
  *number = numbered(handlers, name);
  return true;
}

static bool fake_fits(uint32_t regex, buffer text) {
  size_t length = strlen(patterns[regex]);
  return text.length >= length && !memcmp(text.ptr, patterns[regex], length);
}

const engine beside_engine = {fake_regex, fake_handler, fake_fits};

int beside_handle(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made) {
  (void)envoy;
  if (!strcmp(handlers[handler], "handlers:fails")) {
    return FAILURE;
  }
  if (!strcmp(handlers[handler], "handlers:passes")) {
    return PASS;
  }
  char text[1024];
  size_t length = (size_t)snprintf(text, sizeof text, "%.*s %.*s %.*s %.*s %u", (int)request->method.length,
                                   request->method.ptr, (int)request->authority.length, request->authority.ptr,
                                   (int)request->path.length, request->path.ptr, (int)request->route.length,
                                   request->route.ptr, status);
  *made = malloc(sizeof **made + length);
  **made = (reply){.status = 418, .body = {memcpy(*made + 1, text, length), length}};
  return REPLY;
}

/* --- playing a scenario --- */

static const void *configs[MANY];
static size_t config_count;
static int result;
static bool held;

static void begin(const char *number) {
  const void *of = configs[*number ? (size_t)atoi(number) : config_count - 1];
  assert(!self && of);
  self = (stream *)HOOK(new)(of, NULL);
  for (int type = 0; type < 4; type++) {
    drop_all(type);
  }
  received_length = sent_length = buffered_length = 0;
  in_body = local_reply = scheduled = released = ended = held = reset = false;
  *details_sent = *route = *client = *metadata = 0;
  strcpy(code_details, "via_upstream");
  strcpy(protocol, "HTTP/1.1");
}

static void end(void) {
  if (self) {
    HOOK(destroy)(self);
  }
  self = NULL;
}

static void configure(const char *name, const char *hex, bool rejected) {
  size_t length = strlen(hex) / 2;
  char *bytes = malloc(length);
  for (size_t i = 0; i < length; i++) {
    unsigned byte;
    sscanf(hex + 2 * i, "%2x", &byte);
    bytes[i] = (char)byte;
  }
  const void *made = HOOK(config_new)(NULL, *name ? text_of(name) : (buffer){0}, (buffer){length ? bytes : NULL, length});
  free(bytes); /* it must not be needed any more */
  if (rejected ? made != NULL : !made) {
    fail("expected that it is %s: %s", rejected ? "rejected" : "accepted", logged);
  }
  if (made) {
    configs[config_count++] = made;
  }
}

static void page_comes(const char *status, const char *text) {
  header headers[] = {
      {TEXT(":status"), text_of(status)}, {TEXT("content-type"), TEXT("text/page")}, {TEXT("date"), TEXT("x")}};
  buffer halves[] = {{text, strlen(text) / 2}, {text + strlen(text) / 2, strlen(text) - strlen(text) / 2}};
  HOOK(http_stream_headers)(NULL, self, 7, headers, 3, false);
  HOOK(http_stream_data)(NULL, self, 7, halves, 2, false);
  HOOK(http_stream_data)(NULL, self, 7, NULL, 0, true); /* as Envoy does it */
  HOOK(http_stream_complete)(NULL, self, 7);
}

static void endless_page_comes(const char *status, size_t parts) {
  static const char text[1 << 16];
  header headers[] = {{TEXT(":status"), text_of(status)}, {TEXT("content-type"), TEXT("text/page")}};
  HOOK(http_stream_headers)(NULL, self, 7, headers, 2, false);
  while (parts--) {
    HOOK(http_stream_data)(NULL, self, 7, &(buffer){text, sizeof text}, 1, false);
  }
}

static void next(void) {
  if (!scheduled) {
    fail("nothing is scheduled");
  }
  scheduled = false;
  HOOK(scheduled)(NULL, self, 0);
}

static void body(const char *text, bool last) {
  received_length = strlen(text);
  memcpy(received, text, received_length);
  ended = last;
  in_body = true;
  result = HOOK(response_body)(NULL, self, last);
  in_body = false;
  if (result == STOP_AND_WAIT) {
    buffered_length = received_length;
  }
  if (!local_reply && result == CONTINUE) {
    held = false;
    memcpy(sent + sent_length, received, received_length);
    sent_length += received_length;
  }
}

static void judge(const char *status_text, const char *wanted) {
  buffer status = {0};
  CALLBACK(http_get_header)(NULL, RESPONSE_HEADERS, TEXT(":status"), &status, 0, NULL);
  uint32_t got = local_reply ? local_status : (uint32_t)decimal(status);
  size_t length = strcmp(wanted, "-") ? strlen(wanted) : 0;
  if (held && !local_reply && !released) {
    fail("the response is held for ever");
  }
  if (got != strtoul(status_text, NULL, 10) || sent_length != length || memcmp(sent, wanted, length)) {
    fail("expected %s %s, got %u %.*s", status_text, wanted, got, (int)sent_length, sent);
  }
}

static size_t counted(char id, const char *rule) {
  for (size_t i = 0; i < MANY_COUNTS; i++) {
    if (counts[i].id == (size_t)id && !strcmp(counts[i].rule, rule)) {
      return counts[i].count;
    }
  }
  return 0;
}

static void play(char *line) {
  char *rest = line[0] && line[1] ? line + 2 : line + strlen(line);
  char *space = strchr(rest, ' '), *second = space ? space + 1 : rest + strlen(rest);
  if (strchr("cCqwu+kfgij=ph", line[0]) && space) {
    *space = 0;
  }
  buffer value = {0};
  switch (line[0]) {
    case 'c': case 'C': configure(rest, second, line[0] == 'C'); break;
    case 'd':
      HOOK(config_destroy)(configs[0]);
      memmove(configs, configs + 1, --config_count * sizeof *configs);
      break;
    case 'x':
      if (!strstr(logged, rest)) {
        fail("expected in the log: %s; it says: %s", rest, logged);
      }
      break;
    case '?': begin(rest); break;
    case 'q': add_field(REQUEST_HEADERS, text_of(rest), text_of(second)); break;
    case 'w':
      erase(REQUEST_HEADERS, text_of(rest));
      add_field(REQUEST_HEADERS, text_of(rest), text_of(second));
      break;
    case 'o': snprintf(route, sizeof route, "%s", rest); break;
    case 'a': snprintf(client, sizeof client, "%s", rest); break;
    case 'v': snprintf(protocol, sizeof protocol, "%s", rest); break;
    case '>':
      result = HOOK(request_headers)(NULL, self, true);
      assert(result == (local_reply || self->waiting ? STOP : CONTINUE));
      move_all(REQUEST_HEADERS);
      break;
    case 'u': add_field(RESPONSE_HEADERS, text_of(rest), text_of(second)); break;
    case 'z': snprintf(code_details, sizeof code_details, "%s", rest); break;
    case 'l':
      snprintf(code_details, sizeof code_details, "%s", rest);
      HOOK(local_reply)(NULL, self, 503, text_of(rest), false);
      reset = true;
      break;
    case 'n': case 'e':
      ended = line[0] == 'e';
      result = HOOK(response_headers)(NULL, self, ended);
      held = result == STOP;
      break;
    case 'b': case 'B': body(rest, line[0] == 'B'); break;
    case 't':
      ended = true;
      add_field(RESPONSE_TRAILERS, text_of(rest), text_of("1"));
      result = HOOK(response_trailers)(NULL, self);
      if (held && maps[RESPONSE_TRAILERS].count) {
        fail("trailers are left");
      }
      held = false;
      break;
    case 's':
      /* Once more than the time that grace.c gives, if need be. */
      for (int i = 0; i < 100 && !__atomic_load_n(&scheduled, __ATOMIC_SEQ_CST); i++) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
      }
      if (!scheduled) {
        fail("nothing is scheduled");
      }
      scheduled = false;
      HOOK(scheduled)(NULL, self, 0);
      break;
    case 'p':
      page_comes(rest, second);
      next();
      break;
    case 'h':
      endless_page_comes(rest, strtoul(second, NULL, 10));
      next();
      break;
    case 'P':
      HOOK(http_stream_reset)(NULL, self, 7, 0);
      if (self->waiting) {
        next();
      }
      break;
    case '@':
      if (!strstr(told, rest)) {
        fail("expected that the service is told %s, it is told %s", rest, told);
      }
      break;
    case '.': end(); break;
    case '=': judge(rest, second); break;
    case '+':
      for (size_t i = 0; i < maps[RESPONSE_HEADERS].count; i++) {
        field entry = maps[RESPONSE_HEADERS].fields[i];
        if (!strcmp(entry.name, rest) && !strcmp(entry.value, second)) {
          return;
        }
      }
      fail("expected the header %s with the value %s", rest, second);
      break;
    case '!':
      if (CALLBACK(http_get_header)(NULL, RESPONSE_HEADERS, text_of(rest), &value, 0, NULL)) {
        fail("the header %s is there, with the value %s", rest, value.ptr);
      }
      break;
    case 'm':
      if (!strstr(metadata, rest)) {
        fail("expected the metadata %s, got %s", rest, metadata);
      }
      break;
    case 'k': case 'f': case 'g': case 'i': case 'j':
      if (counted(line[0], rest) != strtoul(second, NULL, 10)) {
        fail("expected a count of %s for %s, got %zu", second, rest, counted(line[0], rest));
      }
      break;
    case 'r':
      if (reset != !strcmp(rest, "reset")) {
        fail("expected that the upstream's stream is %s", rest);
      }
      break;
    case 'y':
      if (strcmp(details_sent, rest)) {
        fail("expected the details %s, got %s", rest, details_sent);
      }
      break;
    default: fail("no such line: %s", line);
  }
}

int main(void) {
  static char scenario[1 << 23];
  size_t length = fread(scenario, 1, sizeof scenario - 1, stdin);
  scenario[length] = 0;
  for (char *line = strtok(scenario, "\n"); line; line = strtok(NULL, "\n")) {
    play(line);
  }
  end();
  while (config_count) {
    HOOK(config_destroy)(configs[--config_count]);
  }
  for (int type = 0; type < 4; type++) {
    drop_all(type);
  }
  for (size_t i = 0; i < MANY; i++) {
    free(patterns[i]), free(handlers[i]);
  }
  return 0;
}
