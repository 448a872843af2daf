/* Reads and fills in templates: template.h has the contract. Reading order: the bytes, one value, the whole. */
#include "template.h"

#include <stdlib.h>
#include <string.h>

/* Numbers and limits as in rules/template.py. */
enum { RAW, HTML, JSON, URL, HEADER_VALUE, ESCAPES_END };
enum { LONGEST_VALUE = 8192, LONGEST_ESCAPE = 6 };

/* --- the bytes --- */

static bool has_argument(uint32_t name) { return name == NAME_REQUEST_QUERY || name == NAME_REQUEST_HEADER; }

bool template_read(reader *in, buffer *into) {
  const char *start = in->at;
  for (uint32_t left = read_list(in, 5); left && !in->failed; left--) {
    if (in->at < in->end && (unsigned char)*in->at == SHARED_TEXT) {
      in->at++;
      read_bytes(in, ID_LENGTH, "the id of a text");
      continue;
    }
    uint32_t name = read_choice(in, NAMES_END, "a piece of a template: 0 to 17, or 255");
    if (!name) {
      read_bytes(in, read_number(in, 4, "the length of a text"), "a text of that length");
      continue;
    }
    read_choice(in, ESCAPES_END, "how a value is escaped: 0 to 4");
    bool named = read_text(in).length > 0;
    expect(in, named == has_argument(name), "the name of a header or parameter, or nothing, in front of here");
  }
  *into = (buffer){start, in->failed ? 0 : (size_t)(in->at - start)};
  return !in->failed;
}

buffer template_pieces(buffer encoded) { return (buffer){encoded.ptr + 4, encoded.length - 4}; }

template_piece template_next(buffer *rest) {
  const char *at = rest->ptr;
  template_piece next = {.name = (unsigned char)*at++};
  if (next.name == SHARED_TEXT) {
    next.text = (buffer){at, ID_LENGTH};
  } else {
    next.escape = next.name ? (unsigned char)*at++ : RAW;
    next.text = (buffer){at + 4, number_at(at, 4)};
  }
  at = next.text.ptr + next.text.length;
  *rest = (buffer){at, rest->length - (size_t)(at - rest->ptr)};
  return next;
}

bool template_fits_header(buffer encoded) {
  for (buffer rest = template_pieces(encoded); rest.length;) {
    template_piece piece = template_next(&rest);
    if (piece.name ? piece.escape == RAW : !is_header_value(piece.text)) {
      return false;
    }
  }
  return true;
}

/* --- one value --- */

/* Cut off in front of a character, if there is one: none has more than four bytes. */
static buffer cut(buffer value) {
  if (value.length <= LONGEST_VALUE) {
    return value;
  }
  size_t end = LONGEST_VALUE;
  while (end > LONGEST_VALUE - 4 && ((unsigned char)value.ptr[end] & 0xc0) == 0x80) {
    end--;
  }
  return (buffer){value.ptr, end > LONGEST_VALUE - 4 ? end : LONGEST_VALUE};
}

static char *put_byte(char *to, char byte) {
  *to = byte;
  return to + 1;
}

static char *put_text(char *to, const char *text) { return put(to, (buffer){text, strlen(text)}); }

static char *put_digits(char *to, const char *digits, unsigned number, int count) {
  while (count--) {
    *to++ = digits[number >> 4 * count & 15];
  }
  return to;
}

static char *put_html(char *to, char byte) {
  switch (byte) {
    case '&': return put_text(to, "&amp;");
    case '<': return put_text(to, "&lt;");
    case '>': return put_text(to, "&gt;");
    case '"': return put_text(to, "&quot;");
    case '\'': return put_text(to, "&#39;");
    case '\t': return put_text(to, "&#9;");
    case '\n': return put_text(to, "&#10;");
    case '\r': return put_text(to, "&#13;");
    default: return is_control(byte) ? put_text(to, "\uFFFD") : put_byte(to, byte);
  }
}

static char *put_json(char *to, char byte) {
  bool plain = !is_control(byte) && !strchr("\"'\\<>&", byte);
  return plain ? put_byte(to, byte) : put_digits(put_text(to, "\\u"), "0123456789abcdef", (unsigned char)byte, 4);
}

static char *put_url(char *to, buffer bytes) {
  for (size_t i = 0; i < bytes.length; i++) {
    char byte = bytes.ptr[i], letter = byte | 0x20;
    bool plain = (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') || (byte && strchr("-._~", byte));
    to = plain ? put_byte(to, byte) : put_digits(put_text(to, "%"), "0123456789ABCDEF", (unsigned char)byte, 2);
  }
  return to;
}

/* No byte becomes more than LONGEST_ESCAPE. */
static char *put_value(char *to, buffer value, uint32_t escape) {
  if (escape == URL) {
    return put_url(to, value);
  }
  while (value.length) {
    bool valid;
    buffer point = {value.ptr, character(value, &valid)};
    value = (buffer){value.ptr + point.length, value.length - point.length};
    if (!valid || (escape == HTML && (same(point, TEXT("\uFFFE")) || same(point, TEXT("\uFFFF"))))) {
      to = put_text(to, "\uFFFD");
    } else if (escape == JSON && same(point, TEXT("\u2028"))) {
      to = put_text(to, "\\u2028");
    } else if (escape == JSON && same(point, TEXT("\u2029"))) {
      to = put_text(to, "\\u2029");
    } else if (point.length > 1 || escape == RAW || (escape == HEADER_VALUE && !is_control(*point.ptr))) {
      to = put(to, point);
    } else if (escape == HTML) {
      to = put_html(to, *point.ptr);
    } else if (escape == JSON) {
      to = put_json(to, *point.ptr);
    }
  }
  return to;
}

/* --- the whole --- */

bool template_fill(buffer encoded, template_value value, void *context, char **filled, size_t *length) {
  size_t room = encoded.length + 4096, used = 0; /* usually enough */
  char *made = malloc(room);
  for (buffer rest = template_pieces(encoded); made && rest.length;) {
    template_piece piece = template_next(&rest);
    bool is_value = piece.name && piece.name != SHARED_TEXT;
    buffer text = piece.name ? value(context, piece.name, piece.text) : piece.text;
    text = is_value ? cut(text) : text;
    size_t most = text.length * (is_value ? LONGEST_ESCAPE : 1);
    if (most > room - used) {
      room = room / 2 + used + most;
      char *moved = realloc(made, room);
      if (!moved) {
        free(made);
      }
      made = moved;
    }
    if (made && text.length) {
      char *at = made + used;
      used += (size_t)((is_value ? put_value(at, text, piece.escape) : put(at, text)) - at);
    }
  }
  *filled = made;
  *length = used;
  return made;
}

/* https://www.iana.org/assignments/http-status-codes/ */
static const struct {
  uint32_t status;
  const char *reason;
} reasons[] = {
    {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {203, "Non-Authoritative Information"}, {204, "No Content"},
    {205, "Reset Content"}, {206, "Partial Content"}, {207, "Multi-Status"}, {208, "Already Reported"},
    {226, "IM Used"}, {300, "Multiple Choices"}, {301, "Moved Permanently"}, {302, "Found"}, {303, "See Other"},
    {304, "Not Modified"}, {305, "Use Proxy"}, {307, "Temporary Redirect"}, {308, "Permanent Redirect"},
    {400, "Bad Request"}, {401, "Unauthorized"}, {402, "Payment Required"}, {403, "Forbidden"}, {404, "Not Found"},
    {405, "Method Not Allowed"}, {406, "Not Acceptable"}, {407, "Proxy Authentication Required"},
    {408, "Request Timeout"}, {409, "Conflict"}, {410, "Gone"}, {411, "Length Required"},
    {412, "Precondition Failed"}, {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"}, {417, "Expectation Failed"}, {421, "Misdirected Request"},
    {422, "Unprocessable Content"}, {423, "Locked"}, {424, "Failed Dependency"}, {425, "Too Early"},
    {426, "Upgrade Required"}, {428, "Precondition Required"}, {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"}, {451, "Unavailable For Legal Reasons"}, {500, "Internal Server Error"},
    {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"}, {506, "Variant Also Negotiates"}, {507, "Insufficient Storage"},
    {508, "Loop Detected"}, {510, "Not Extended"}, {511, "Network Authentication Required"},
};

const char *status_reason(uint32_t status) {
  size_t i = 0;
  while (i < sizeof reasons / sizeof *reasons && reasons[i].status != status) {
    i++;
  }
  return i < sizeof reasons / sizeof *reasons ? reasons[i].reason : "";
}
