/* Chooses among variants: accept.h has the contract. Reading order: elements of a header, what fits, the choice. */
#include "accept.h"

#include <string.h>

#include "reader.h"

enum { LOOKED_AT = 8192, MAX_ELEMENTS = 64, WHOLE = 1000, NO_FIT = -1 };

/* --- elements of a header --- */

typedef struct {
  buffer head, parameters; /* `parameters` with their semicolons */
  uint32_t q;              /* in thousandths */
} element;

typedef struct {
  buffer name, value; /* a quoted value has its quotes */
} parameter;

static char lower(char byte) { return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte; }

static bool alike(buffer one, buffer other) {
  for (size_t i = 0; one.length == other.length && i < one.length; i++) {
    if (one.ptr[i] != other.ptr[i] && lower(one.ptr[i]) != lower(other.ptr[i])) {
      return false;
    }
  }
  return one.length == other.length;
}

static buffer take(buffer *from, size_t length) {
  buffer taken = {from->ptr, length};
  *from = (buffer){from->ptr + length, from->length - length};
  return taken;
}

static bool begins(buffer text, char with) { return text.length && *text.ptr == with; }

static void skip_spaces(buffer *in) {
  while (begins(*in, ' ') || begins(*in, '\t')) {
    take(in, 1);
  }
}

static buffer take_token(buffer *from) {
  size_t length = 0;
  while (length < from->length && in_token[(unsigned char)from->ptr[length]]) {
    length++;
  }
  return take(from, length);
}

/* Section 5.6.4, with its quotes; empty: it never ends. */
static buffer take_quoted(buffer *from) {
  size_t length = 1;
  while (length < from->length && from->ptr[length] != '"') {
    length += from->ptr[length] == '\\' ? 2 : 1;
  }
  return take(from, length < from->length ? length + 1 : 0);
}

/* The next parameter that is not empty; false: there is none, and the rest of `rest` is no parameter. */
static bool next_parameter(buffer *rest, parameter *next) {
  buffer at = *rest;
  for (skip_spaces(&at); begins(at, ';'); skip_spaces(&at)) {
    take(&at, 1);
    skip_spaces(&at);
    if (at.length && *at.ptr != ';') {
      next->name = take_token(&at);
      bool equals = begins(at, '=');
      take(&at, equals);
      next->value = begins(at, '"') ? take_quoted(&at) : take_token(&at);
      bool fine = next->name.length && equals && next->value.length;
      *rest = fine ? at : *rest;
      return fine;
    }
  }
  *rest = at;
  return false;
}

/* More lenient than the grammar, as clients are: `.5` and `0.3333` are sent. */
static bool read_weight(buffer text, uint32_t *q) {
  uint32_t unit = WHOLE;
  bool digits = false;
  *q = 0;
  if (begins(text, '0') || begins(text, '1')) {
    *q = *take(&text, 1).ptr == '1' ? WHOLE : 0;
    digits = true;
  }
  if (begins(text, '.')) {
    for (take(&text, 1); text.length && *text.ptr >= '0' && *text.ptr <= '9'; digits = true) {
      *q += (uint32_t)(*take(&text, 1).ptr - '0') * (unit /= 10);
    }
  }
  return digits && !text.length && *q <= WHOLE;
}

/* A range with its parameters, or a content type. */
static bool read_element(buffer text, element *into) {
  skip_spaces(&text);
  const char *start = text.ptr;
  bool fine = take_token(&text).length;
  if (begins(text, '/')) {
    take(&text, 1);
    fine &= take_token(&text).length > 0;
  }
  *into = (element){{start, (size_t)(text.ptr - start)}, text, WHOLE};
  parameter next;
  while (fine && next_parameter(&text, &next)) {
    fine = !alike(next.name, TEXT("q")) || read_weight(next.value, &into->q);
  }
  return fine && !text.length;
}

/* Up to a comma that is not in quotes. */
static buffer take_element(buffer *from) {
  size_t length = 0;
  for (bool quoted = false; length < from->length && (quoted || from->ptr[length] != ','); length++) {
    quoted ^= from->ptr[length] == '"';
    length += quoted && from->ptr[length] == '\\';
  }
  buffer taken = take(from, length < from->length ? length : from->length);
  take(from, from->length > 0);
  return taken;
}

/* --- what fits, and how specific it is --- */

/* The next byte of a value without its quotes, in lower case; -1: its end. */
static int next_byte(buffer *value, bool quoted) {
  if (quoted && begins(*value, '\\')) {
    take(value, 1);
  }
  return value->length ? (unsigned char)lower(*take(value, 1).ptr) : -1;
}

static bool same_value(buffer one, buffer other) {
  bool quoted[] = {begins(one, '"'), begins(other, '"')};
  one = quoted[0] ? (buffer){one.ptr + 1, one.length - 2} : one;
  other = quoted[1] ? (buffer){other.ptr + 1, other.length - 2} : other;
  int byte;
  do {
    byte = next_byte(&one, quoted[0]);
    if (byte != next_byte(&other, quoted[1])) {
      return false;
    }
  } while (byte >= 0);
  return true;
}

static bool has_parameter(buffer parameters, const parameter *wanted) {
  parameter next;
  while (next_parameter(&parameters, &next)) {
    if (alike(next.name, wanted->name) && same_value(next.value, wanted->value)) {
      return true;
    }
  }
  return false;
}

static int fits_type(const element *accepted, const element *offered) {
  buffer head = accepted->head, type = offered->head;
  int rank = alike(head, TEXT("*/*")) ? 0 : head.length > 1 && !memcmp(head.ptr + head.length - 2, "/*", 2) ? 1 : 2;
  if (rank == 1) {
    head.length -= 1;
    type.length = type.length < head.length ? type.length : head.length;
  }
  if (rank && (!memchr(head.ptr, '/', head.length) || !alike(head, type))) {
    return NO_FIT;
  }
  int specificity = rank * LOOKED_AT; /* never as many parameters as to reach the next rank */
  buffer rest = accepted->parameters;
  parameter next;
  while (next_parameter(&rest, &next)) {
    if (!alike(next.name, TEXT("q")) && !alike(next.name, TEXT("charset"))) {
      if (!has_parameter(offered->parameters, &next)) {
        return NO_FIT;
      }
      specificity++;
    }
  }
  return specificity;
}

/* Whether a tag equals a range, or continues it. */
static bool goes_on(buffer tag, buffer range) {
  bool whole = range.length == tag.length || (range.length < tag.length && tag.ptr[range.length] == '-');
  return whole && alike(range, (buffer){tag.ptr, range.length});
}

/* RFC 4647, section 3.3.1; and 3.4, where the range must be truncated. */
static int fits_language(const element *accepted, const element *offered) {
  buffer range = accepted->head, tag = offered->head;
  if (range.length == 1 && *range.ptr == '*') {
    return 0;
  }
  return goes_on(tag, range) ? 1 + (int)range.length : accepted->q && goes_on(range, tag) ? 1 : NO_FIT;
}

/* --- the choice --- */

typedef int (*fit)(const element *accepted, const element *offered);

/* The choice by one header. Variants with equal values often follow each other: the last result is remembered. */
typedef struct {
  fit fits;
  element accepted[MAX_ELEMENTS];
  size_t count;
  uint32_t highest;
  buffer offered;
  uint32_t q; /* of `offered` */
} axis;

static void read_header(axis *of, buffer header, fit fits) {
  of->fits = fits, of->count = 0, of->highest = 0, of->q = 0;
  of->offered = TEXT("");
  if (header.length > LOOKED_AT) {
    for (header.length = LOOKED_AT; header.length && header.ptr[header.length - 1] != ',';) {
      header.length--;
    }
  }
  while (header.length && of->count < MAX_ELEMENTS) {
    of->count += read_element(take_element(&header), &of->accepted[of->count]);
  }
}

static uint32_t quality(axis *of, buffer offered) {
  if (alike(offered, of->offered)) {
    return of->q;
  }
  int best = NO_FIT;
  of->offered = offered;
  of->q = 0;
  element read = {offered, TEXT(""), 0};
  if (of->fits == fits_type && !read_element(offered, &read)) {
    read = (element){TEXT(""), TEXT(""), 0};
  }
  for (size_t i = 0; i < of->count && offered.length; i++) {
    const element *range = &of->accepted[i];
    int specificity = of->fits(range, &read);
    if (specificity > best || (specificity == best && specificity != NO_FIT && range->q > of->q)) {
      best = specificity;
      of->q = range->q;
    }
  }
  of->highest = of->q > of->highest ? of->q : of->highest;
  return of->q;
}

/* The same if an axis may be missing or ignored; the highest quality is known. */
static uint32_t quality_or_highest(axis *of, buffer offered) {
  return of->highest && offered.length ? quality(of, offered) : of->highest ? of->highest : WHOLE;
}

size_t accept_best(const offer *offers, size_t count, buffer accept, buffer language) {
  axis types, languages;
  read_header(&types, accept, fits_type);
  read_header(&languages, language, fits_language);
  for (size_t i = 0; i < count; i++) {
    quality(&types, offers[i].content_type), quality(&languages, offers[i].language);
  }
  size_t best = 0;
  uint32_t highest = 0;
  for (size_t i = 0; i < count && (types.highest || languages.highest); i++) {
    uint32_t both = quality_or_highest(&types, offers[i].content_type) *
                    quality_or_highest(&languages, offers[i].language);
    if (both > highest) {
      highest = both;
      best = i;
    }
  }
  return best;
}
