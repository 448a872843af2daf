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
  in->at -= !in->failed && chosen >= end; /* for the offset in the message */
  return expect(in, chosen < end, what) ? chosen : 0;
}

/* RFC 3629, section 4. */
static bool is_utf8(buffer text) {
  bool valid = true;
  for (size_t i = 0; i < text.length && valid;) {
    i += character((buffer){text.ptr + i, text.length - i}, &valid);
  }
  return valid;
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

uint32_t count_of(buffer text, char byte) {
  uint32_t count = 0;
  for (size_t i = 0; i < text.length; i++) {
    count += text.ptr[i] == byte;
  }
  return count;
}

int64_t decimal(buffer text) {
  int64_t value = text.length && text.length < 18 ? 0 : -1;
  for (size_t i = 0; i < text.length && value >= 0; i++) {
    value = text.ptr[i] >= '0' && text.ptr[i] <= '9' ? value * 10 + (text.ptr[i] - '0') : -1;
  }
  return value;
}

const bool in_token[256] = {
    ['!'] = true, ['#' ... '\''] = true, ['*'] = true, ['+'] = true, ['-'] = true, ['.'] = true, ['|'] = true,
    ['~'] = true, ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['^' ... 'z'] = true,
};

bool is_header_value(buffer text) {
  for (size_t i = 0; i < text.length; i++) {
    if (is_control(text.ptr[i]) && text.ptr[i] != '\t') {
      return false;
    }
  }
  return true;
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
