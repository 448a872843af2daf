/* Reads every byte of a program.
 *
 * A reader returns the value at its position and moves on. After the first mistake, which is noted, it returns zeros
 * and empty texts: so it is enough to check `failed` before something permanent is done.
 */
#ifndef REJOINDER_READER_H
#define REJOINDER_READER_H

#include "program.h"

typedef struct {
  const char *at, *end, *start;
  size_t offset; /* of `start` in the configuration, for messages */
  size_t part;   /* the number of the program's part, from 1 on; 0: none */
  failure *why;
  bool failed;
} reader;

/* Unless `fine`, note that something else was `expected`. True: everything is fine so far. */
bool expect(reader *in, bool fine, const char *expected);

buffer read_bytes(reader *in, size_t length, const char *expected);
uint32_t read_number(reader *in, size_t size, const char *expected);
uint32_t read_choice(reader *in, uint32_t end, const char *expected); /* a byte below `end` */
buffer read_text(reader *in);
uint32_t read_list(reader *in, size_t least); /* how many entries follow, of so many bytes at least */
texts read_texts(reader *in);

/* For checked bytes. */
uint32_t number_at(const char *at, size_t size);
buffer next_text(texts *in);
bool contains(texts in, buffer wanted);

/* How often a byte stands in a text. */
uint32_t count_of(buffer text, char byte);

/* A decimal number; -1: it is none, or too large to matter. */
int64_t decimal(buffer text);

/* RFC 9110, section 5.6.2. */
extern const bool in_token[256];

static inline bool is_control(char byte) { return (unsigned char)byte < 0x20 || byte == 0x7f; }

/* Whether it may be a header's value: section 5.5, for our own headers. */
bool is_header_value(buffer text);

/* The length of the character that a text begins with. If it begins with none: the length of the bytes that U+FFFD
 * replaces, the longest beginning of a character (Unicode, section 3.9: substitution of maximal subparts). */
static inline size_t character(buffer text, bool *valid) {
  const unsigned char *at = (const unsigned char *)text.ptr;
  size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
  unsigned char low = at[0] == 0xe0 ? 0xa0 : at[0] == 0xf0 ? 0x90 : 0x80;
  unsigned char high = at[0] == 0xed ? 0x9f : at[0] == 0xf4 ? 0x8f : 0xbf;
  size_t come = 1;
  for (; come < length && come < text.length && at[come] >= low && at[come] <= high; come++) {
    low = 0x80, high = 0xbf;
  }
  *valid = come == length;
  return come;
}

static inline bool same(buffer one, buffer other) {
  return one.length == other.length && (one.ptr == other.ptr || !one.length || !memcmp(one.ptr, other.ptr, one.length));
}

bool begins_with(buffer text, buffer beginning);
bool ends_with(buffer text, buffer end);

#endif
