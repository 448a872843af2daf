/* Reads the bytes of programs: reader.h has the contract. */
#include "reader.h"

#include <stdio.h>
#include <string.h>

bool expect(reader *in, bool fine, const char *what) {
  if (!fine && !in->failed) {
    size_t offset = in->offset + (size_t)(in->at - in->start);
    if (in->part) {
      snprintf(in->why->text, sizeof in->why->text, "part %zu: byte %zu: expected %s", in->part, offset, what);
    } else {
      snprintf(in->why->text, sizeof in->why->text, "byte %zu: expected %s", offset, what);
    }
    in->failed = true;
  }
  return !in->failed;
}

buffer read_bytes(reader *in, size_t length, const char *what) {
  if (!expect(in, length <= (size_t)(in->end - in->at), what)) {
    return (buffer){"", 0};
  }
  buffer read = {in->at, length};
  in->at += length;
  return read;
}

uint32_t number_at(const char *at, size_t size) {
  uint32_t number = 0;
  for (size_t i = size; i > 0; i--) {
    number = number << 8 | (unsigned char)at[i - 1];
  }
  return number;
}

uint32_t read_number(reader *in, size_t size, const char *what) {
  buffer read = read_bytes(in, size, what);
  return number_at(read.ptr, read.length);
}

uint32_t read_choice(reader *in, uint32_t end, const char *what) {
  uint32_t chosen = read_number(in, 1, what);
  in->at -= !in->failed && chosen >= end; /* to say where it stands */
  return expect(in, chosen < end, what) ? chosen : 0;
}

/* RFC 3629, section 4. */
static bool is_utf8(buffer text) {
  for (size_t i = 0; i < text.length;) {
    const unsigned char *at = (const unsigned char *)text.ptr + i;
    size_t more = at[0] < 0x80 ? 0 : at[0] >= 0xc2 && at[0] < 0xe0 ? 1 : (at[0] & 0xf0) == 0xe0 ? 2 : 3;
    if (more >= text.length - i || at[0] > 0xf4 || (at[0] >= 0x80 && at[0] < 0xc2) ||
        (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
        (at[0] == 0xf4 && at[1] > 0x8f)) {
      return false;
    }
    for (size_t n = 1; n <= more; n++) {
      if ((at[n] & 0xc0) != 0x80) {
        return false;
      }
    }
    i += more + 1;
  }
  return true;
}

buffer read_text(reader *in) {
  buffer read = read_bytes(in, read_number(in, 4, "the length of a text"), "a text of that length");
  expect(in, is_utf8(read), "a text in UTF-8 in front of here");
  return read;
}

uint32_t read_list(reader *in, size_t least) {
  uint32_t count = read_number(in, 4, "the length of a list");
  return expect(in, count <= (size_t)(in->end - in->at) / least, "a list of that length") ? count : 0;
}

texts read_texts(reader *in) {
  texts read = {.count = read_list(in, 4)};
  read.at = in->at;
  for (uint32_t i = 0; i < read.count && !in->failed; i++) {
    read_text(in);
  }
  return read;
}

buffer next_text(texts *in) {
  buffer next = {in->at + 4, number_at(in->at, 4)};
  in->at = next.ptr + next.length;
  in->count--;
  return next;
}

bool same(buffer one, buffer other) {
  return one.length == other.length && (one.ptr == other.ptr || !one.length || !memcmp(one.ptr, other.ptr, one.length));
}

bool begins_with(buffer text, buffer beginning) {
  return beginning.length <= text.length && same((buffer){text.ptr, beginning.length}, beginning);
}

bool ends_with(buffer text, buffer end) {
  return end.length <= text.length && same((buffer){text.ptr + text.length - end.length, end.length}, end);
}

bool contains(texts in, buffer wanted) {
  while (in.count) {
    if (same(next_text(&in), wanted)) {
      return true;
    }
  }
  return false;
}
