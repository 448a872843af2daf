/* Makes the replies that depend on the request: program.h has the contract, rules/answers.py the meaning. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiled.h"
#include "page.h"
#include "request.h"
#include "template.h"

/* The inputs of a reply. */
typedef struct {
  const program *program;
  const request *request;
  const response *response;
  buffer route, rule;
  uint32_t status;
  time_t now;
  char few[32];
  char *many;  /* a value that had to be joined */
  bool failed; /* no memory */
} making;

/* --- values --- */

static char *space_for(making *of, size_t length) {
  free(of->many);
  of->many = malloc(length);
  of->failed |= !of->many;
  return of->many;
}

/* All lines of a header, joined as Envoy joins them, valid until the next value. */
static buffer header_value(making *of, buffer name) {
  uint32_t number = header_number(of->program, name);
  const line *lines = of->request->lines, *end = lines + of->request->line_count;
  size_t count = 0, length = 0;
  buffer value = {0};
  for (const line *line = lines; number && line < end; line++) {
    if (line->name + 1 == number) {
      count++;
      length += line->value.length + 1;
      value = line->value;
    }
  }
  char *at = count > 1 ? space_for(of, length) : NULL;
  value = at ? (buffer){at, length - 1} : value;
  for (const line *line = lines; at && line < end; line++) {
    at = line->name + 1 == number ? put(put(at, line->value), TEXT(",")) : at;
  }
  return value;
}

static buffer url(making *of) {
  buffer parts[] = {of->request->scheme, TEXT("://"), of->request->authority, request_path(of->request)};
  size_t length = 0;
  for (size_t i = 0; i < 4; i++) {
    length += parts[i].length;
  }
  char *at = space_for(of, length);
  for (size_t i = 0; at && i < 4; i++) {
    at = put(at, parts[i]);
  }
  return (buffer){of->many, at ? length : 0};
}

static buffer text_of(const char *text) { return (buffer){text, strlen(text)}; }

static buffer number(making *of, uint32_t number) {
  return (buffer){of->few, (size_t)snprintf(of->few, sizeof of->few, "%u", (unsigned)number)};
}

/* RFC 3339. */
static buffer now(making *of) {
  struct tm utc;
  return (buffer){of->few, strftime(of->few, sizeof of->few, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&of->now, &utc))};
}

static buffer value_of(void *context, uint32_t name, buffer argument) {
  making *of = context;
  buffer value = {0};
  switch (name) {
    case NAME_REQUEST_ID: return header_value(of, TEXT("x-request-id"));
    case NAME_REQUEST_METHOD: return of->request->method;
    case NAME_REQUEST_SCHEME: return of->request->scheme;
    case NAME_REQUEST_HOST: return of->request->host;
    case NAME_REQUEST_PATH: return of->request->path;
    case NAME_REQUEST_TARGET: return request_path(of->request);
    case NAME_REQUEST_URL: return url(of);
    case NAME_REQUEST_QUERY: request_parameter(of->request, argument, &value); break;
    case NAME_REQUEST_HEADER: return header_value(of, argument);
    case NAME_STATUS: return number(of, of->status);
    case NAME_STATUS_REASON: return text_of(status_reason(of->status));
    case NAME_ORIGINAL_STATUS: return of->response ? number(of, of->response->status) : value;
    case NAME_SOURCE: return of->response && !of->response->is_local ? TEXT("upstream") : TEXT("local");
    case NAME_ROUTE: return of->route;
    case NAME_RULE: return of->rule;
    case NAME_TIME: return now(of);
    case NAME_CLIENT: return of->request->client;
    case SHARED_TEXT: return named(of->program, BODY, argument)->body;
  }
  return value;
}

/* --- a reply --- */

static const content *chosen(making *of, const reply *given) {
  const content *contents = &ITEMS(content, of->program->contents)[given->first_content];
  if (given->content_count == 1) {
    return contents;
  }
  const offer *offers = &ITEMS(offer, of->program->offers)[given->first_content];
  buffer accept = header_value(of, TEXT("accept"));
  char *kept = of->many;
  of->many = NULL;
  contents += accept_best(offers, given->content_count, accept, header_value(of, TEXT("accept-language")));
  free(kept);
  return contents;
}

/* `owned` is where it is noted so that it can be freed. */
static buffer filled(making *of, char **owned, size_t *owned_count, buffer template) {
  char *text = NULL;
  size_t length = 0;
  of->failed |= !template_fill(template, value_of, of, &text, &length);
  owned[(*owned_count)++] = text;
  return (buffer){text, length};
}

static bool is_blank(char byte) { return byte == ' ' || byte == '\t'; }

/* RFC 9110, section 5.5: blanks around a header's value are not part of it. */
static buffer trimmed(buffer value) {
  while (value.length && is_blank(value.ptr[0])) {
    value = (buffer){value.ptr + 1, value.length - 1};
  }
  while (value.length && is_blank(value.ptr[value.length - 1])) {
    value.length--;
  }
  return value;
}

static void drop(reply *made, buffer name) {
  size_t count = 0;
  for (size_t i = 0; i < made->header_count; i++) {
    if (!same(made->headers[i].name, name)) {
      made->headers[count++] = made->headers[i];
    }
  }
  made->header_count = count;
}

static bool has_header(const reply *made, size_t count, buffer name) {
  for (size_t i = 0; i < count; i++) {
    if (same(made->headers[i].name, name)) {
      return true;
    }
  }
  return false;
}

static bool is_kept(const reply *given, buffer name) {
  /* As in rules/http.py. */
  static const char *const never[] = {
      "connection", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
      "accept-ranges", "content-digest", "content-disposition", "content-encoding", "content-language",
      "content-length", "content-location", "content-md5", "content-range", "content-type", "digest", "repr-digest",
      "grpc-message", "grpc-status", "grpc-status-details-bin"};
  bool kept = false;
  for (texts left = given->kept; left.count && !kept;) {
    buffer pattern = next_text(&left), beginning = {pattern.ptr, pattern.length - 1};
    bool is_beginning = pattern.length && pattern.ptr[pattern.length - 1] == '*';
    kept = is_beginning ? begins_with(name, beginning) : same(pattern, name);
  }
  for (size_t i = 0; i < sizeof never / sizeof *never && kept; i++) {
    kept &= !same(text_of(never[i]), name);
  }
  return kept && name.length && name.ptr[0] != ':';
}

/* Our headers replace others of the same name. */
static void keep_headers(making *of, reply *made, const reply *given) {
  size_t ours = made->header_count, length = 0;
  for (size_t i = 0; given->kept.count && of->response && i < of->response->header_count; i++) {
    header header = of->response->headers[i];
    if (is_kept(given, header.name) && !has_header(made, ours, header.name)) {
      made->headers[made->header_count++] = header;
      made->empty_values |= !header.value.length;
      length += header.name.length + header.value.length;
    }
  }
  char *at = length ? malloc(length) : NULL;
  of->failed |= length && !at;
  made->owned[made->owned_count++] = at;
  for (size_t i = ours; at && i < made->header_count; i++) {
    header *header = &made->headers[i], kept = *header;
    header->name.ptr = at, header->value.ptr = at + kept.name.length;
    at = put(put(at, kept.name), kept.value);
  }
}

static making making_of(const program *asked, const reply *given, const question *about, time_t now) {
  uint32_t status = given->status || !about->response ? given->status : about->response->status;
  return (making){.program = asked, .request = about->request ? about->request : &no_request,
                  .response = about->response, .route = about->route, .rule = given->rule,
                  .status = status ? status : FIRST_STATUS, .now = now};
}

reply *reply_make(const program *asked, const reply *given, const question *about, time_t now) {
  const response *response = about->response;
  making of = making_of(asked, given, about, now);
  const content *from = chosen(&of, given);
  size_t ours = from->header_count + from->template_count, all = ours + (response ? response->header_count : 0) + PAGE_HEADERS;
  reply *made = malloc(sizeof *made + all * sizeof(header) + (from->template_count + 4) * sizeof(char *));
  if (made) {
    *made = (reply){.status = given->status, .rule = given->rule, .grpc = given->grpc, .empty_values = from->empty_values,
                    .headers = (header *)(made + 1), .header_count = ours, .body = from->body};
    made->owned = (char **)(made->headers + all);
    for (size_t i = 0; i < ours; i++) {
      header *header = &made->headers[i];
      *header = from->headers[i];
      if (i >= from->header_count) {
        header->value = trimmed(filled(&of, made->owned, &made->owned_count, header->value));
        made->empty_values |= !header->value.length;
      }
    }
    if (from->by_template) {
      made->body = filled(&of, made->owned, &made->owned_count, from->body);
      if (!made->body.length) { /* in a local reply, Envoy would not send it either */
        drop(made, TEXT("content-type"));
      }
    }
    if (given->grpc) {
      made->grpc_message = filled(&of, made->owned, &made->owned_count, given->grpc_message);
    }
    keep_headers(&of, made, given);
  }
  free(of.many);
  if (of.failed) {
    reply_free(made);
    made = NULL;
  }
  return made;
}

void reply_free(reply *made) {
  for (size_t i = 0; made && i < made->owned_count; i++) {
    free(made->owned[i]);
  }
  free(made);
}

void reply_set_page(reply *made, const page *page) {
  header sent[PAGE_HEADERS] = {{TEXT("content-type"), page->type}, {TEXT("content-language"), page->language}};
  for (size_t i = 0; i < PAGE_HEADERS; i++) {
    drop(made, sent[i].name);
    if (sent[i].value.length) {
      made->headers[made->header_count++] = sent[i];
    }
  }
  made->body = page->body;
}

asking *reply_asks(const program *asked, const reply *given, const question *about, time_t now) {
  const remote *from = &ITEMS(remote, asked->remotes)[given->asks - 1];
  making of = making_of(asked, given, about, now);
  asking *made = malloc(sizeof *made + (from->told_count + 3) * sizeof(header) + from->told_count * sizeof(char *));
  if (made) {
    *made = (asking){.service = from->service, .timeout = from->timeout, .cache = from->cache, .stays = from->stays,
                     .headers = (header *)(made + 1), .header_count = 3};
    made->owned = (char **)(made->headers + from->told_count + 3);
    made->headers[0] = (header){TEXT(":method"), TEXT("GET")};
    made->headers[1] = (header){TEXT(":path"), TEXT("/")};
    made->headers[2] = (header){TEXT(":authority"), from->host};
    for (uint32_t i = 0; i < from->told_count; i++) {
      header told = ITEMS(header, asked->told)[from->first_told + i];
      told.value = trimmed(filled(&of, made->owned, &made->owned_count, told.value));
      if (told.value.length) {
        made->headers[made->header_count++] = told;
      }
    }
  }
  free(of.many);
  if (of.failed) {
    asking_free(made);
    made = NULL;
  }
  return made;
}

void asking_free(asking *made) {
  for (size_t i = 0; made && i < made->owned_count; i++) {
    free(made->owned[i]);
  }
  free(made);
}
