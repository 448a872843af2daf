/* Envoy's dynamic module ABI: the part of it that this module uses, in our own words.
 *
 * Version v0.2.0, which is Envoy 1.40's. Hooks (`on_`) are functions of ours that Envoy calls. Callbacks are functions
 * of Envoy that we call: within a hook, on its thread, with the pointer that the hook got. Memory from Envoy (a
 * buffer's bytes) belongs to Envoy and is valid until the hook returns or changes it.
 * https://github.com/envoyproxy/envoy/blob/v1.40.0/source/extensions/dynamic_modules/abi/abi.h
 */
#ifndef REJOINDER_ABI_H
#define REJOINDER_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ABI_VERSION "v0.2.0"

typedef struct {
  const char *ptr;
  size_t length;
} buffer;

#define TEXT(literal) ((buffer){literal, sizeof(literal) - 1})

/* Copy a text; where the copy ends. */
static inline char *put(char *to, buffer text) {
  return text.length ? (char *)memcpy(to, text.ptr, text.length) + text.length : to;
}

typedef struct {
  buffer name, value;
} header;

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2, RESPONSE_TRAILERS = 3 };
enum { RECEIVED_RESPONSE_BODY = 2, BUFFERED_RESPONSE_BODY = 3 };

/* The result of a hook for headers, a body or trailers. STOP for headers: hold them and call the body's hook with what
 * comes. For a body, STOP_NO_BUFFER: drop what is left in it and still hold the headers; STOP_AND_WAIT: keep it, up to
 * the limit of the connection's buffer, and read no more than that. */
enum { CONTINUE = 0, STOP = 1, STOP_AND_WAIT = 2, STOP_NO_BUFFER = 3 };

enum { LOG_WARNING = 3, LOG_ERROR = 4 };

/* Of http_filter_get_attribute_string: the same numbers in 1.38, 1.39 and 1.40; 1.38 knows no details. */
enum { PROTOCOL = 10, RESPONSE_CODE_DETAILS = 16, SOURCE_ADDRESS = 24, ROUTE_NAME = 61 };

/* Names in Envoy are long: a macro adds the prefix. */
#define CALLBACK(name) envoy_dynamic_module_callback_##name
#define ON(name) envoy_dynamic_module_on_##name

void CALLBACK(log)(int level, buffer text);

/* A null or empty value removes the header. Names must be in lower case. */
bool CALLBACK(http_set_header)(void *envoy, int type, buffer name, buffer value);
bool CALLBACK(http_add_header)(void *envoy, int type, buffer name, buffer value);
bool CALLBACK(http_get_header)(void *envoy, int type, buffer name, buffer *value, size_t index, size_t *count);
size_t CALLBACK(http_get_headers_size)(void *envoy, int type);
bool CALLBACK(http_get_headers)(void *envoy, int type, header *headers);

size_t CALLBACK(http_get_body_size)(void *envoy, int type);
bool CALLBACK(http_drain_body)(void *envoy, int type, size_t length);
bool CALLBACK(http_append_body)(void *envoy, int type, buffer data);

/* An attribute of the stream; false: it has none. */
bool CALLBACK(http_filter_get_attribute_string)(void *envoy, int attribute, buffer *value);

/* Continue with held headers and the body so far, and add to the body. */
void CALLBACK(http_filter_continue_encoding)(void *envoy);
void CALLBACK(http_send_response_data)(void *envoy, buffer data, bool end_of_stream);

/* A request to a cluster, without a body if it ends with its headers. 0: it is under way, and the hooks
 * `http_stream_...` report its response, maybe before this returns. It ends with the filter. */
int CALLBACK(http_filter_start_http_stream)(void *envoy, uint64_t *id, buffer cluster, header *headers, size_t count,
                                            buffer body, bool end_of_stream, uint64_t milliseconds);

/* A response of Envoy's own (a local reply). It may destroy the filter before it returns. */
void CALLBACK(http_send_response)(void *envoy, uint32_t status, header *headers, size_t count, buffer body,
                                  buffer details);

/* `commit` makes Envoy call the hook `scheduled` on the stream's thread, after the present hooks there. */
void *CALLBACK(http_filter_scheduler_new)(void *envoy);
void CALLBACK(http_filter_scheduler_commit)(void *scheduler, uint64_t event);
void CALLBACK(http_filter_scheduler_delete)(void *scheduler);

int CALLBACK(http_filter_config_define_counter)(void *envoy_config, buffer name, buffer *labels, size_t count,
                                                size_t *id);
int CALLBACK(http_filter_increment_counter)(void *envoy, size_t id, buffer *labels, size_t count, uint64_t value);
bool CALLBACK(http_set_dynamic_metadata_string)(void *envoy, buffer name_space, buffer key, buffer value);

#endif
