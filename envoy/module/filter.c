/* The hot path: Envoy's hooks, called on its workers for every stream.
 *
 * What a program needs of a request is kept when its headers come. When a response's headers come, its status is looked
 * up; if a rule names it, the program is asked, and the reply is written over the response: the headers are replaced
 * and held, the upstream's body is dropped as it comes, and at its end the reply's body takes its place. This keeps the
 * upstream's connection. A local reply of Envoy would close it, and so would a client that has its answer and leaves
 * before the upstream has sent everything. A body that does not end in time is not waited for.
 *
 * No lock but that of grace.c, and Python only if a rule needs it. Allocated are: a `stream`, a copy of what the
 * program needs of the request, a reply that is not fixed, and a buffer if a response has unusually many headers.
 * Nothing is requested from Envoy that the program does not need. Reading order: `request_headers`, `response_headers`,
 * then the hooks below it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "beside.h"
#include "config.h"
#include "grace.h"
#include "page.h"
#include "reader.h"
#include "replace.h"
#include "request.h"

#define HOOK(name) ON(http_filter_##name)

#pragma GCC visibility push(default) /* what Envoy looks for; all else in the library is hidden */

/* Bytes of an upstream's body that are read and dropped so that its connection stays open: as in ext_proc. */
enum { MAX_DRAINED = 1 << 20 };

/* By rule name. */
enum { REPLIES, HANDLER_FAILURES, OBSERVED, PASSED, PAGE_FAILURES, COUNTERS };

typedef struct {
  config *config;
  pages *pages;              /* kept for other requests */
  size_t counters[COUNTERS]; /* their ids in Envoy */
} filter;

typedef struct {
  const filter *filter;
  const program *program; /* decides about this stream, from its beginning; NULL: none */
  request *request;       /* what the program needs of it; NULL: nothing, or not known yet */
  const reply *reply;     /* the decision: from the program, which lives as long as the filter, or `made` */
  reply *made;            /* for this stream: by a handler, or from a reply of the program that is not fixed */
  asking *asking;         /* the request to another service for a page; NULL: none */
  page page;              /* the page so far */
  bool waiting;           /* for the page: request or response are held */
  bool has_arrived;       /* ... and it is there, or failed */
  bool starting;          /* ... and the request for it is being sent */
  bool ended;             /* the upstream's response has ended meanwhile */
  buffer body;            /* the part of the reply's body that the client gets: none if it asked with HEAD */
  uint32_t status;        /* the response's original status */
  bool on_response;       /* there is a response */
  bool from_local;        /* ... made by Envoy */
  bool is_local;          /* Envoy has announced a local reply */
  bool decided;           /* the program is not asked again */
  bool passed;            /* the rule that has let it pass is reported */
  bool held;              /* the reply waits for the upstream's body to end */
  bool at_once;           /* ... but not beyond what has already come */
  int64_t expected;       /* length of that body; -1: unknown */
  int64_t drained;        /* ... the bytes that have come, and were dropped */
  grace grace;
} stream;

/* --- configuration, on the main thread --- */

const char *ON(program_init)(void) { return ABI_VERSION; }

/* On whatever thread releases it last: freeing a program does not need Python. */
void HOOK(config_destroy)(const void *self) {
  filter *old = (filter *)self;
  if (old) {
    config_free(old->config);
    pages_free(old->pages);
    free(old);
  }
}

const void *HOOK(config_new)(void *envoy_config, buffer name, buffer given) {
  failure why = {"Envoy defines no counter"};
  const buffer names[COUNTERS] = {TEXT("replies"), TEXT("handler_failures"), TEXT("observed"), TEXT("passed"),
                                  TEXT("page_failures")};
  buffer rule = TEXT("rule");
  filter *made = calloc(1, sizeof *made);
  int counter = 0;
  while (made && counter < COUNTERS && !CALLBACK(http_filter_config_define_counter)(
                                           envoy_config, names[counter], &rule, 1, &made->counters[counter])) {
    counter++;
  }
  if (counter == COUNTERS) {
    made->config = config_new(name, given, &beside_engine, &why);
    made->pages = pages_new();
  }
  if (made && made->config && made->pages) {
    return made;
  }
  report("the configuration is rejected", &why);
  HOOK(config_destroy)(made);
  return NULL;
}

/* Some gateways can only switch the filter on for a route by an empty configuration. */
const void *HOOK(per_route_config_new)(buffer name, buffer given) {
  (void)name;
  static const char nothing;
  if (given.length && !(given.length == 2 && !memcmp(given.ptr, "{}", 2))) {
    report("a route's configuration is rejected", &(failure){"expected an empty one: the filter's has it all"});
    return NULL;
  }
  return &nothing;
}

void HOOK(per_route_config_destroy)(const void *self) { (void)self; }

const void *HOOK(new)(const void *self, void *envoy) {
  (void)envoy;
  stream *made = calloc(1, sizeof *made);
  if (made) {
    made->filter = self;
    made->program = config_program(made->filter->config);
  }
  return made;
}

void HOOK(destroy)(const void *self) {
  stream *old = (stream *)self;
  if (old) {
    grace_stop(&old->grace);
    free(old->request);
    reply_free(old->made);
    asking_free(old->asking);
    page_clear(&old->page);
    free(old);
  }
}

/* --- properties of a request and a response --- */

static int64_t number_in_header(void *envoy, buffer name) {
  buffer value = {0};
  return CALLBACK(http_get_header)(envoy, RESPONSE_HEADERS, name, &value, 0, NULL) ? decimal(value) : -1;
}

/* An attribute of Envoy's, if the program needs it; else empty. */
static buffer attribute(void *envoy, const program *program, uint32_t need, int number) {
  buffer value = {0};
  bool known = program_needs(program) & need && CALLBACK(http_filter_get_attribute_string)(envoy, number, &value);
  return known ? value : (buffer){0};
}

static buffer request_header(void *envoy, buffer name) {
  buffer value = {0};
  CALLBACK(http_get_header)(envoy, REQUEST_HEADERS, name, &value, 0, NULL);
  return value;
}

static bool is_head(void *envoy) {
  return same(request_header(envoy, TEXT(":method")), TEXT("HEAD"));
}

/* Copy what the program needs. */
static request *take_request(void *envoy, const program *program) {
  line few[32], *lines = few;
  size_t named, count = 0, room = sizeof few / sizeof *few;
  const buffer *names = program_headers(program, &named);
  for (uint32_t name = 0; name < named; name++) {
    size_t values = 1;
    buffer value;
    for (size_t i = 0; i < values; i++) {
      if (!CALLBACK(http_get_header)(envoy, REQUEST_HEADERS, names[name], &value, i, &values)) {
        break;
      }
      if (count == room) {
        line *more = realloc(lines == few ? NULL : lines, 2 * room * sizeof *more);
        if (!more) {
          break;
        }
        lines = lines == few ? memcpy(more, few, sizeof few) : more;
        room *= 2;
      }
      lines[count++] = (line){name, value};
    }
  }
  arrived from = {
      .client = attribute(envoy, program, NEEDS_CLIENT, SOURCE_ADDRESS),
      .lines = lines,
      .line_count = count,
  };
  if (program_needs(program) & NEEDS_TARGET) {
    from.method = request_header(envoy, TEXT(":method"));
    from.authority = request_header(envoy, TEXT(":authority"));
    from.path = request_header(envoy, TEXT(":path"));
  }
  if (program_needs(program) & NEEDS_SCHEME) {
    from.scheme = request_header(envoy, TEXT(":scheme"));
  }
  request *taken = request_new(program, &from);
  if (lines != few) {
    free(lines);
  }
  return taken;
}

/* If the upstream breaks off after the headers of a response are sent, Envoy resets the client's stream. An HTTP/1
 * client has everything by then, as it knows the length; from HTTP/2 on, the end of the stream is still missing. */
static bool needs_the_end(void *envoy) {
  buffer protocol = {0};
  return !CALLBACK(http_filter_get_attribute_string)(envoy, PROTOCOL, &protocol) ||
         !begins_with(protocol, TEXT("HTTP/1"));
}

/* --- writing over it --- */

/* For a gRPC client, Envoy's local replies are gRPC errors, trailers alone: so our answers are local replies. */
static bool is_grpc(void *envoy) {
  buffer type = request_header(envoy, TEXT("content-type")), grpc = TEXT("application/grpc");
  return begins_with(type, grpc) &&
         (type.length == grpc.length || type.ptr[grpc.length] == '+' || type.ptr[grpc.length] == ';');
}

/* https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md; Envoy makes it 0 for what a module sends. */
static const char *grpc_status(const reply *reply, uint32_t status) {
  static const char numbers[][3] = {"0", "1", "2",  "3",  "4",  "5",  "6",  "7", "8",
                                    "9", "10", "11", "12", "13", "14", "15", "16"};
  if (reply->grpc) {
    return numbers[reply->grpc];
  }
  switch (status) {
    case 400: return "13";
    case 401: return "16";
    case 403: return "7";
    case 404: return "12";
    case 429: case 502: case 503: case 504: return "14";
    default: return "2";
  }
}

/* The reply's headers, to be freed, with gRPC's headers in front unless they have one; NULL: the client does not speak
 * gRPC, or there is no memory. */
static header *grpc_headers(void *envoy, const reply *reply, uint32_t status, size_t *count) {
  header *made = is_grpc(envoy) ? malloc((reply->header_count + 1) * sizeof *made) : NULL;
  if (made) {
    const char *value = grpc_status(reply, status);
    made[0] = (header){TEXT("grpc-status"), {value, strlen(value)}};
    *count = 1;
    for (size_t i = 0; i < reply->header_count; i++) {
      bool says = same(reply->headers[i].name, made[0].name);
      made[says ? 0 : (*count)++] = reply->headers[i];
    }
  }
  return made;
}

static void append(void *envoy, int type, const stream *self) {
  if (self->body.length) {
    CALLBACK(http_append_body)(envoy, type, self->body);
  }
}

static void count(void *envoy, const stream *self, int counter, buffer rule) {
  CALLBACK(http_filter_increment_counter)(envoy, self->filter->counters[counter], &rule, 1, 1);
}

/* A local reply: the upstream's stream is reset. Afterwards `self` may be gone. */
static void send_local_reply(void *envoy, stream *self) {
  const reply *reply = self->reply;
  char details[256] = "rejoinder:";
  size_t length = strlen(details);
  for (size_t i = 0; i < reply->rule.length && length < sizeof details; i++) {
    unsigned char byte = (unsigned char)reply->rule.ptr[i];
    details[length++] = byte <= ' ' || byte == 0x7f ? '_' : (char)byte;
  }
  self->held = false;
  grace_stop(&self->grace);
  uint32_t status = reply->status ? reply->status : self->status;
  size_t count = reply->header_count;
  header *grpc = grpc_headers(envoy, reply, status, &count);
  CALLBACK(http_send_response)(envoy, status, grpc ? grpc : reply->headers, count,
                               grpc && reply->grpc ? reply->grpc_message : reply->body, (buffer){details, length});
  free(grpc);
}

static void mark(void *envoy, buffer key, buffer value) {
  CALLBACK(http_set_dynamic_metadata_string)(envoy, TEXT("rejoinder"), key, value);
}

static void mark_rules(void *envoy, buffer key, buffer names) {
  mark(envoy, key, names);
  mark(envoy, TEXT("placement"), TEXT("module"));
}

/* Report the rules before `end` that only observe: in access logs, as many as there is room for. */
static void observe(void *envoy, const stream *self, const question *about, uint32_t end) {
  char names[1024];
  size_t length = 0;
  buffer name;
  for (uint32_t at = 0; (at = program_observed(self->program, about, at, end, &name)) < end; at++) {
    count(envoy, self, OBSERVED, name);
    if (name.length < sizeof names - length) {
      length = (size_t)(put(put(names + length, TEXT(",")), name) - names);
    }
  }
  if (length) {
    mark_rules(envoy, TEXT("observed"), (buffer){names + 1, length - 1});
  }
}

/* Report once the rule that lets it pass. */
static void let_pass(void *envoy, stream *self, const question *about, uint32_t end) {
  buffer name = program_passed(self->program, about, end);
  if (name.length && !self->passed) {
    self->passed = true;
    count(envoy, self, PASSED, name);
    mark_rules(envoy, TEXT("passed"), name);
  }
}

/* Ask, and note the decision; a reply that is not fixed is made now. False: request or response continue. */
static bool decide(void *envoy, stream *self, const response *response) {
  buffer route = attribute(envoy, self->program, NEEDS_ROUTE, ROUTE_NAME);
  question about = {self->request, route, response};
  uint32_t end;
  const reply *chosen = program_ask(self->program, &about, &end);
  observe(envoy, self, &about, end);
  if (!chosen) {
    let_pass(envoy, self, &about, end);
    return false;
  }
  if (chosen->by_handler) {
    const request *of = self->request;
    asked request = {of->method, of->authority, request_path(of), route};
    int outcome = beside_handle(envoy, chosen->handler, response ? response->status : 0, &request, &self->made);
    if (outcome == FAILURE) {
      count(envoy, self, HANDLER_FAILURES, chosen->rule);
    }
    if (outcome != REPLY) {
      return false;
    }
    self->made->rule = chosen->rule;
  } else if (!chosen->is_fixed && !(self->made = reply_make(self->program, chosen, &about, time(NULL)))) {
    return false;
  }
  self->reply = self->made ? self->made : chosen;
  self->on_response = response != NULL;
  self->from_local = response && response->is_local;
  if (chosen->asks && (self->asking = reply_asks(self->program, chosen, &about, time(NULL))) && chosen->grpc &&
      is_grpc(envoy)) {
    self->asking->stays = false; /* this client has an answer without a page */
  }
  return true;
}

/* Report the decision, which is sent now. */
static void tell(void *envoy, const stream *self) {
  count(envoy, self, REPLIES, self->reply->rule);
  mark_rules(envoy, TEXT("rule"), self->reply->rule);
  char original[16] = "none"; /* rules/counts.py */
  if (self->on_response) {
    snprintf(original, sizeof original, "%u", (unsigned)self->status);
    mark(envoy, TEXT("source"), self->from_local ? TEXT("local") : TEXT("upstream"));
  }
  mark(envoy, TEXT("original_status"), (buffer){original, strlen(original)});
}

/* --- a page of another service --- */

/* The page is there, and is kept for others; or it failed, and the log says once why. */
static void end_page(void *envoy, stream *self) {
  pages *pages = self->filter->pages;
  self->waiting = false;
  if (page_end(&self->page)) {
    pages_keep(pages, self->asking, &self->page);
    return;
  }
  count(envoy, self, PAGE_FAILURES, self->reply->rule);
  char text[256];
  buffer service = self->asking->service;
  int shown = service.length < 128 ? (int)service.length : 128;
  int length = snprintf(text, sizeof text, "rejoinder: no page from %.*s: %s%.0u", shown, service.ptr, self->page.wrong,
                        (unsigned)self->page.status);
  if (pages_tell(pages, (buffer){text, (size_t)length})) {
    CALLBACK(log)(LOG_WARNING, (buffer){text, (size_t)length});
  }
}

/* Whether the page must be waited for. If not, it is in the reply, or could not be had. */
static bool ask_for_page(void *envoy, stream *self) {
  asking *asked = self->asking;
  /* When Envoy rejects a request, it closes the connection, and the request is not known: this must not wait. */
  if (is_grpc(envoy) || !request_header(envoy, TEXT(":path")).length) {
    return false;
  }
  if (!pages_find(self->filter->pages, asked, &self->page)) {
    uint64_t id;
    self->waiting = self->starting = true;
    if (CALLBACK(http_filter_start_http_stream)(envoy, &id, asked->service, asked->headers, asked->header_count,
                                                (buffer){0}, true, asked->timeout)) {
      self->waiting = false;
      self->page.wrong = "Envoy cannot ask: no such cluster, no address, or too many at once";
    }
    self->starting = false;
    if (!self->waiting) {
      end_page(envoy, self);
    }
  }
  return self->waiting;
}

/* Use the page, if there is one; false: the response stays as it is. */
static bool take_page(stream *self) {
  if (self->asking && page_end(&self->page)) {
    reply_set_page(self->made, &self->page);
    return true;
  }
  return !self->asking || !self->asking->stays || !self->on_response;
}

/* Send the decided reply, for a request or in place of a response. Afterwards `self` may be gone. */
static int give(void *envoy, stream *self) {
  tell(envoy, self);
  int64_t length = self->ended || !self->on_response ? 0 : number_in_header(envoy, TEXT("content-length"));
  /* A long body is not waited for. And only a local reply can have a header without a value. */
  if (!self->on_response || length > MAX_DRAINED || self->reply->empty_values || is_grpc(envoy) ||
      !replace_headers(envoy, self->reply, self->status)) {
    send_local_reply(envoy, self);
    return STOP;
  }
  self->body = is_head(envoy) ? (buffer){0} : self->reply->body;
  if (self->ended) {
    append(envoy, BUFFERED_RESPONSE_BODY, self);
    return CONTINUE;
  }
  self->held = true;
  self->expected = length;
  self->at_once = needs_the_end(envoy);
  grace_start(&self->grace, envoy, self->at_once ? 0 : GRACE_MILLISECONDS);
  return STOP;
}

/* --- the request, on a worker --- */

int HOOK(request_headers)(void *envoy, const void *module_filter, bool end_of_stream) {
  (void)end_of_stream;
  stream *self = (stream *)module_filter;
  if (!self || !self->program) {
    return CONTINUE;
  }
  /* Now, because the route may rewrite it before there is a response. */
  if (program_needs(self->program) & NEEDS_REQUEST && !(self->request = take_request(envoy, self->program))) {
    self->program = NULL;
    return CONTINUE;
  }
  if (!program_answers_requests(self->program)) {
    return CONTINUE;
  }
  self->status = FIRST_STATUS;
  if (!decide(envoy, self, NULL)) {
    return CONTINUE;
  }
  self->decided = true;
  if (self->asking && ask_for_page(envoy, self)) {
    return STOP;
  }
  take_page(self);
  return give(envoy, self);
}

/* For a held request: its body waits, too. */
int HOOK(request_body)(void *envoy, const void *module_filter, bool end_of_stream) {
  (void)envoy, (void)end_of_stream;
  const stream *self = module_filter;
  return self && self->waiting ? STOP_AND_WAIT : CONTINUE;
}

int HOOK(request_trailers)(void *envoy, const void *module_filter) {
  const stream *self = module_filter;
  (void)envoy;
  return self && self->waiting ? STOP : CONTINUE;
}

/* --- the response, on a worker --- */

/* Whether a response is Envoy's own. A few of its filters do not announce it; the details show it, from 1.39 on. */
static bool is_local(void *envoy, const stream *self) {
  buffer details = attribute(envoy, self->program, NEEDS_SOURCE, RESPONSE_CODE_DETAILS);
  return details.length ? !same(details, TEXT("via_upstream")) : self->is_local;
}

/* The same for a response. */
static bool decide_response(void *envoy, stream *self) {
  uint32_t needs = program_needs(self->program);
  /* An earlier filter has answered, and the request's hook was not called. */
  if (needs & NEEDS_REQUEST && !self->request && !(self->request = take_request(envoy, self->program))) {
    return false;
  }
  response came = {.status = self->status, .is_local = is_local(envoy, self)};
  header few[FEW_HEADERS], *all = few;
  if (needs & NEEDS_HEADERS) {
    came.headers = all = headers_of(envoy, RESPONSE_HEADERS, few, &came.header_count);
  }
  bool decided = all && decide(envoy, self, &came);
  if (all != few) {
    free(all);
  }
  return decided;
}

int HOOK(response_headers)(void *envoy, const void *module_filter, bool end_of_stream) {
  stream *self = (stream *)module_filter;
  if (!self || !self->program || self->decided) {
    return CONTINUE;
  }
  int64_t status = number_in_header(envoy, TEXT(":status"));
  if (status < FIRST_STATUS || status > LAST_STATUS || !program_names(self->program, (uint32_t)status)) {
    return CONTINUE;
  }
  self->status = (uint32_t)status;
  self->decided = true;
  if (!decide_response(envoy, self)) {
    return CONTINUE;
  }
  self->ended = end_of_stream;
  if (self->asking && ask_for_page(envoy, self)) {
    return STOP;
  }
  return take_page(self) ? give(envoy, self) : CONTINUE;
}

static void let_go(stream *self) {
  self->held = false;
  grace_stop(&self->grace);
}

int HOOK(response_body)(void *envoy, const void *module_filter, bool end_of_stream) {
  stream *self = (stream *)module_filter;
  if (self && self->waiting) {
    self->ended |= end_of_stream;
    return STOP_AND_WAIT;
  }
  if (!self || !self->held) {
    return CONTINUE;
  }
  size_t length = CALLBACK(http_get_body_size)(envoy, RECEIVED_RESPONSE_BODY);
  CALLBACK(http_drain_body)(envoy, RECEIVED_RESPONSE_BODY, length);
  self->drained += (int64_t)length;
  if (!end_of_stream) {
    if (self->drained > MAX_DRAINED || (self->at_once && self->drained < self->expected)) {
      send_local_reply(envoy, self);
    }
    return STOP_NO_BUFFER;
  }
  append(envoy, RECEIVED_RESPONSE_BODY, self);
  let_go(self);
  return CONTINUE;
}

/* A body that ends with trailers; they go as the upstream's headers did. */
int HOOK(response_trailers)(void *envoy, const void *module_filter) {
  stream *self = (stream *)module_filter;
  if (self && self->waiting) {
    self->ended = true;
    return STOP;
  }
  if (!self || !self->held) {
    return CONTINUE;
  }
  remove_all(envoy, RESPONSE_TRAILERS);
  append(envoy, BUFFERED_RESPONSE_BODY, self);
  let_go(self);
  return CONTINUE;
}

/* The page is there, or failed. The next step may end this stream and everything that belongs to it, which Envoy does
 * not survive while it is still busy with the service's stream: so that step is scheduled. */
static void page_arrived(void *envoy, stream *self) {
  self->has_arrived = self->waiting = !self->starting;
  if (self->has_arrived) {
    grace_start(&self->grace, envoy, 0);
  }
}

/* Of the upstream's body. */
static void drop_what_waits(void *envoy, stream *self) {
  size_t length = CALLBACK(http_get_body_size)(envoy, BUFFERED_RESPONSE_BODY);
  CALLBACK(http_drain_body)(envoy, BUFFERED_RESPONSE_BODY, length);
  self->drained = (int64_t)length;
}

static void go_on(void *envoy, stream *self) {
  end_page(envoy, self);
  grace_stop(&self->grace);
  if (!take_page(self)) {
    CALLBACK(http_filter_continue_encoding)(envoy);
    return;
  }
  if (self->on_response) {
    drop_what_waits(envoy, self);
  }
  if (self->ended) {
    remove_all(envoy, RESPONSE_TRAILERS);
  }
  if (give(envoy, self) == CONTINUE) {
    CALLBACK(http_filter_continue_encoding)(envoy);
  }
}

/* The upstream's time to end its body is over, or the page is there. */
void HOOK(scheduled)(void *envoy, const void *module_filter, uint64_t event) {
  (void)event;
  stream *self = (stream *)module_filter;
  if (self->waiting) {
    go_on(envoy, self);
  } else if (self->held) {
    send_local_reply(envoy, self);
  }
}

/* A response that is no page is not read to its end, which may never come. Envoy drops it with this stream. */
static void give_up_wrong(void *envoy, stream *self) {
  if (self->page.wrong) {
    page_arrived(envoy, self);
  }
}

void HOOK(http_stream_headers)(void *envoy, const void *module_filter, uint64_t id, const header *headers, size_t count,
                               bool end_of_stream) {
  (void)id, (void)end_of_stream;
  stream *self = (stream *)module_filter;
  if (self && self->waiting && !self->has_arrived) {
    page_head(&self->page, self->reply->status ? self->reply->status : self->status, headers, count);
    give_up_wrong(envoy, self);
  }
}

void HOOK(http_stream_data)(void *envoy, const void *module_filter, uint64_t id, const buffer *chunks, size_t count,
                            bool end_of_stream) {
  (void)id, (void)end_of_stream;
  stream *self = (stream *)module_filter;
  if (self && self->waiting && !self->has_arrived) {
    page_body(&self->page, chunks, count);
    give_up_wrong(envoy, self);
  }
}

void HOOK(http_stream_complete)(void *envoy, const void *module_filter, uint64_t id) {
  (void)id;
  stream *self = (stream *)module_filter;
  if (self && self->waiting && !self->has_arrived) {
    page_arrived(envoy, self);
  }
}

void HOOK(http_stream_reset)(void *envoy, const void *module_filter, uint64_t id, int reason) {
  (void)id, (void)reason;
  stream *self = (stream *)module_filter;
  if (self && self->waiting && !self->has_arrived) {
    self->page.wrong = "it has broken off, or takes too long";
    page_arrived(envoy, self);
  }
}

/* Envoy is about to send a local reply. Direct responses and redirects of routes are final. If the upstream has broken
 * off in the body that is being replaced, the client gets what was decided: once that is sent, Envoy adds no text of
 * its own, and ends the stream. */
int HOOK(local_reply)(void *envoy, const void *module_filter, uint32_t status, buffer details, bool reset) {
  (void)status;
  stream *self = (stream *)module_filter;
  if (!self) {
    return CONTINUE;
  }
  self->is_local = true;
  /* A route answers or redirects by itself; a path is rejected, or the client is redirected to its normalized form. */
  self->decided |= same(details, TEXT("direct_response")) || same(details, TEXT("path_normalization_failed"));
  if (self->waiting) { /* the upstream has broken off, or the client is too slow: no page is waited for any more */
    self->waiting = false;
    self->page.wrong = "";
    if (self->on_response && !reset && take_page(self) && !needs_the_end(envoy) && replace_headers(envoy, self->reply, self->status)) {
      drop_what_waits(envoy, self);
      tell(envoy, self);
      self->body = is_head(envoy) ? (buffer){0} : self->reply->body;
      self->held = true;
    }
  }
  if (self->held && !reset && !self->at_once) {
    let_go(self);
    CALLBACK(http_filter_continue_encoding)(envoy);
    if (self->body.length) {
      CALLBACK(http_send_response_data)(envoy, self->body, false);
    }
  }
  return CONTINUE;
}

/* --- nothing to do, but Envoy requires all its hooks --- */

/* These concern callouts and flow control, and return nothing: they ignore their arguments. */
#define NOTHING(name) \
  void HOOK(name)(void) {}
NOTHING(stream_complete)
NOTHING(http_callout_done)
NOTHING(http_stream_trailers)
NOTHING(downstream_above_write_buffer_high_watermark)
NOTHING(downstream_below_write_buffer_low_watermark)
NOTHING(config_scheduled)
NOTHING(config_http_callout_done)
NOTHING(config_http_stream_headers)
NOTHING(config_http_stream_data)
NOTHING(config_http_stream_trailers)
NOTHING(config_http_stream_complete)
NOTHING(config_http_stream_reset)
