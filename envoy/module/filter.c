/* The hot path: Envoy's hooks, called on its workers for every stream of a route that has an answer table.
 *
 * The response's status is looked up in the table of the route. If there is a reply, it is written over the response:
 * the headers are replaced and held, the upstream's body is thrown away as it comes, and with its end the reply's takes
 * its place. So the upstream's connection lives on, which a response of Envoy's own (a local reply) would cost, and so
 * would a client that has its answer and goes away before the upstream has said all.
 *
 * No Python, no lock. What is allocated: a `stream`, a buffer where a response has unusually many headers, and an event
 * where nobody knows how long its body is. Only a reply that a Python handler makes takes the GIL. Reading order:
 * `response_headers`, then the hooks below it.
 */
#include "table.c"

#define TEXT(literal) ((buffer){literal, sizeof(literal) - 1})
#define HOOK(name) ON(http_filter_##name)

/* Bytes of an upstream's body that are read and thrown away so that its connection lives on: as in ext_proc. */
enum { MAX_DRAINED = 1 << 20 };

/* What the Python side does (embedded.py). Both are called from hooks and take the GIL. */
enum { PASS = 0, REPLY = 1, FAILURE = 2 };
static const table *rejoinder_table(buffer config); /* NULL: rejected, and the log says why */
static int rejoinder_handle(void *envoy, uint32_t handler, uint32_t status, table **made);
static bool rejoinder_started(void);

typedef struct {
  size_t replies;  /* Envoy's ids of the counters */
  size_t failures;
} config;

typedef struct {
  const config *config;
  bool held;          /* the reply waits for the upstream's body to end, or for `scheduled` */
  const reply *reply; /* of the route's table, which Envoy keeps as long as the stream, or of `made` */
  buffer body;        /* what the client gets of the reply's: nothing if it asked with HEAD */
  table *made;        /* by a handler, for this stream */
  void *scheduler;
} stream;

/* --- configuration, on the main thread --- */

const char *ON(program_init)(void) { return ABI_VERSION; }

const void *HOOK(config_new)(void *envoy_config, buffer name, buffer text) {
  (void)name, (void)text;
  config *made = malloc(sizeof *made);
  buffer rule = TEXT("rule");
  if (made && rejoinder_started() &&
      !CALLBACK(http_filter_config_define_counter)(envoy_config, TEXT("replies"), &rule, 1, &made->replies) &&
      !CALLBACK(http_filter_config_define_counter)(envoy_config, TEXT("handler_failures"), &rule, 1, &made->failures)) {
    return made;
  }
  free(made);
  return NULL;
}

void HOOK(config_destroy)(const void *self) { free((void *)self); }

const void *HOOK(per_route_config_new)(buffer name, buffer text) {
  (void)name;
  return rejoinder_table(text);
}

/* On whatever thread lets go of it last: so it does not take Python to free a table. */
void HOOK(per_route_config_destroy)(const void *self) { table_free((table *)self); }

const void *HOOK(new)(const void *filter_config, void *envoy) {
  (void)envoy;
  stream *made = calloc(1, sizeof *made);
  if (made) {
    made->config = filter_config;
  }
  return made;
}

void HOOK(destroy)(const void *self) {
  stream *old = (stream *)self;
  if (old->scheduler) {
    CALLBACK(http_filter_scheduler_delete)(old->scheduler);
  }
  table_free(old->made);
  free(old);
}

/* --- what a response is like --- */

/* A decimal number; -1: it is none, or too large to matter. */
static int64_t number(buffer text) {
  int64_t value = text.length && text.length < 18 ? 0 : -1;
  for (size_t i = 0; i < text.length && value >= 0; i++) {
    value = text.ptr[i] >= '0' && text.ptr[i] <= '9' ? value * 10 + (text.ptr[i] - '0') : -1;
  }
  return value;
}

static int64_t number_in_header(void *envoy, buffer name) {
  buffer value = {0};
  return CALLBACK(http_get_header)(envoy, RESPONSE_HEADERS, name, &value, 0, NULL) ? number(value) : -1;
}

static bool is_head(void *envoy) {
  buffer method = {0};
  CALLBACK(http_get_header)(envoy, REQUEST_HEADERS, TEXT(":method"), &method, 0, NULL);
  return method.length == 4 && memcmp(method.ptr, "HEAD", 4) == 0;
}

/* --- writing over it --- */

/* Remove all headers, or trailers, but the pseudo headers. False: no memory, and nothing is removed. */
static bool remove_all(void *envoy, int type) {
  header few[64];
  char short_names[2048];
  size_t count = CALLBACK(http_get_headers_size)(envoy, type), length = 0;
  header *all = count <= sizeof few / sizeof *few ? few : malloc(count * sizeof *all);
  if (!all || !CALLBACK(http_get_headers)(envoy, type, all)) {
    count = 0;
  }
  for (size_t i = 0; i < count; i++) {
    length += all[i].name_length;
  }
  /* Removing one may invalidate what Envoy has told of the others. */
  char *names = length <= sizeof short_names ? short_names : malloc(length), *end = names;
  bool done = all && names;
  for (size_t i = 0; names && i < count; i++) {
    memcpy(end, all[i].name, all[i].name_length);
    all[i].name = end;
    end += all[i].name_length;
  }
  for (size_t i = 0; names && i < count; i++) {
    if (all[i].name_length && all[i].name[0] != ':') {
      CALLBACK(http_set_header)(envoy, type, (buffer){all[i].name, all[i].name_length}, (buffer){0});
    }
  }
  if (names != short_names) {
    free(names);
  }
  if (all != few) {
    free(all);
  }
  return done;
}

static bool replace_headers(void *envoy, const reply *reply) {
  if (!remove_all(envoy, RESPONSE_HEADERS)) {
    return false;
  }
  if (reply->status) {
    char digits[12];
    int length = snprintf(digits, sizeof digits, "%u", (unsigned)reply->status);
    CALLBACK(http_set_header)(envoy, RESPONSE_HEADERS, TEXT(":status"), (buffer){digits, (size_t)length});
  }
  for (size_t i = 0; i < reply->header_count; i++) {
    const header *each = &reply->headers[i];
    CALLBACK(http_add_header)(envoy, RESPONSE_HEADERS, (buffer){each->name, each->name_length},
                              (buffer){each->value, each->value_length});
  }
  if (reply->content_length.length) {
    CALLBACK(http_set_header)(envoy, RESPONSE_HEADERS, TEXT("content-length"), reply->content_length);
  }
  return true;
}

static void append(void *envoy, int type, stream *self) {
  if (self->body.length) {
    CALLBACK(http_append_body)(envoy, type, self->body);
  }
}

static void count(void *envoy, size_t counter, const reply *reply) {
  buffer rule = reply->rule;
  CALLBACK(http_filter_increment_counter)(envoy, counter, &rule, 1, 1);
}

/* A response of Envoy's own: the upstream's stream is reset. Afterwards there may be no `self`. */
static void send_local_reply(void *envoy, stream *self, uint32_t status) {
  const reply *reply = self->reply;
  self->held = false;
  CALLBACK(http_send_response)(envoy, reply->status ? reply->status : status, reply->headers, reply->header_count,
                               reply->body, TEXT("rejoinder"));
}

/* --- the response, on a worker --- */

int HOOK(response_headers)(void *envoy, const void *module_filter, bool end_of_stream) {
  stream *self = (stream *)module_filter;
  const table *table = CALLBACK(get_most_specific_route_config)(envoy);
  int64_t status = table ? number_in_header(envoy, TEXT(":status")) : -1;
  const reply *found = status < 0 || status > 999 ? NULL : table_find(table, (uint32_t)status);
  if (!found) {
    return CONTINUE;
  }
  self->reply = found;
  if (found->handler) {
    int outcome = rejoinder_handle(envoy, found->handler, (uint32_t)status, &self->made);
    if (outcome != REPLY) {
      if (outcome == FAILURE) {
        count(envoy, self->config->failures, found);
      }
      return CONTINUE;
    }
    self->reply = &self->made->replies[0];
  }
  count(envoy, self->config->replies, found);
  CALLBACK(http_set_dynamic_metadata_string)(envoy, TEXT("rejoinder"), TEXT("rule"), found->rule);

  int64_t length = end_of_stream ? 0 : number_in_header(envoy, TEXT("content-length"));
  /* A long body is not waited for. And no other way leads to a header without a value. */
  if (length > MAX_DRAINED || self->reply->empty_values || !replace_headers(envoy, self->reply)) {
    send_local_reply(envoy, self, (uint32_t)status);
    return STOP;
  }
  self->body = is_head(envoy) ? (buffer){0} : self->reply->body;
  if (end_of_stream) {
    append(envoy, BUFFERED_RESPONSE_BODY, self);
    return CONTINUE;
  }
  self->held = true;
  if (length < 0) {
    /* Chunked, say: it may never end. Mostly the whole body came together with the headers, and its end is told before
     * the event that is scheduled here. */
    self->scheduler = CALLBACK(http_filter_scheduler_new)(envoy);
    CALLBACK(http_filter_scheduler_commit)(self->scheduler, (uint64_t)status);
  }
  return STOP;
}

/* The upstream has had its chance to end its body. */
void HOOK(scheduled)(void *envoy, const void *module_filter, uint64_t status) {
  stream *self = (stream *)module_filter;
  if (self->held) {
    send_local_reply(envoy, self, (uint32_t)status);
  }
}

int HOOK(response_body)(void *envoy, const void *module_filter, bool end_of_stream) {
  stream *self = (stream *)module_filter;
  if (!self->held) {
    return CONTINUE;
  }
  CALLBACK(http_drain_body)(envoy, RECEIVED_RESPONSE_BODY, CALLBACK(http_get_body_size)(envoy, RECEIVED_RESPONSE_BODY));
  if (!end_of_stream) {
    return STOP_NO_BUFFER;
  }
  append(envoy, RECEIVED_RESPONSE_BODY, self);
  self->held = false;
  return CONTINUE;
}

/* A body that ends with trailers; they go as the upstream's headers did. */
int HOOK(response_trailers)(void *envoy, const void *module_filter) {
  stream *self = (stream *)module_filter;
  if (!self->held) {
    return CONTINUE;
  }
  remove_all(envoy, RESPONSE_TRAILERS);
  append(envoy, BUFFERED_RESPONSE_BODY, self);
  self->held = false;
  return CONTINUE;
}

/* --- what there is nothing to do about; but Envoy wants all its hooks --- */

#define UNUSED __attribute__((unused))

int HOOK(request_headers)(UNUSED void *envoy, UNUSED const void *self, UNUSED bool end) { return CONTINUE; }
int HOOK(request_body)(UNUSED void *envoy, UNUSED const void *self, UNUSED bool end) { return CONTINUE; }
int HOOK(request_trailers)(UNUSED void *envoy, UNUSED const void *self) { return CONTINUE; }
int HOOK(local_reply)(UNUSED void *envoy, UNUSED const void *self) { return CONTINUE; }

/* These concern callouts and flow control, and return nothing: whatever they are given, they look at none of it. */
#define NOTHING(name) \
  void HOOK(name)(void) {}
NOTHING(stream_complete)
NOTHING(http_callout_done)
NOTHING(http_stream_headers)
NOTHING(http_stream_data)
NOTHING(http_stream_trailers)
NOTHING(http_stream_complete)
NOTHING(http_stream_reset)
NOTHING(downstream_above_write_buffer_high_watermark)
NOTHING(downstream_below_write_buffer_low_watermark)
NOTHING(config_scheduled)
NOTHING(config_http_callout_done)
NOTHING(config_http_stream_headers)
NOTHING(config_http_stream_data)
NOTHING(config_http_stream_trailers)
NOTHING(config_http_stream_complete)
NOTHING(config_http_stream_reset)
