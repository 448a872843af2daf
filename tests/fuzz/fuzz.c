/* Fuzzes programs as bytes, and what is asked of them: libFuzzer's target, its mutator, and a small fuzzer of its own.
 *
 *   fuzz FILE ...             with libFuzzer (clang): its own options and folders
 *   fuzz SECONDS SEED FILE... without it (any compiler): changes by the mutator below, until the time is over
 *
 * An input is a question and behind it a configuration: lines with the method, authority, path, route, status and
 * values of headers, up to an empty line, then the bytes. Beside the sanitizers, what is asked twice must be answered
 * the same, a reply must be for a status that the program says it names, and what is accepted as a whole must be so as
 * a part. The bytes are also taken for a template, and for a header that says which variant is wanted; then the
 * question's lines are values, and variants.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../envoy/module/accept.h"
#include "../../envoy/module/config.h"
#include "../../envoy/module/template.h"

static bool any_regex(buffer pattern, uint32_t *number, failure *why) {
  snprintf(why->text, sizeof why->text, "no such regular expression");
  *number = (uint32_t)pattern.length;
  return !pattern.length || pattern.ptr[0] != '(';
}

static bool any_handler(buffer name, uint32_t *number, failure *why) { return any_regex(name, number, why); }

static bool any_fits(uint32_t regex, buffer text) { return text.length == regex; }

static const engine fake = {any_regex, any_handler, any_fits};

void CALLBACK(log)(int level, buffer text) { (void)level, (void)text; }

enum { METHOD, AUTHORITY, PATH, ROUTE, STATUS, QUESTION, HEADERS = 8 };

static void touch(const reply *given) {
  size_t sum = 0;
  for (size_t i = 0; given && i < given->header_count; i++) {
    for (size_t n = 0; n < given->headers[i].name.length; n++) {
      sum += (unsigned char)given->headers[i].name.ptr[n];
    }
    for (size_t n = 0; n < given->headers[i].value.length; n++) {
      sum += (unsigned char)given->headers[i].value.ptr[n];
    }
  }
  for (size_t i = 0; given && i < given->body.length; i++) {
    sum += (unsigned char)given->body.ptr[i];
  }
  static volatile size_t looked_at;
  looked_at = looked_at + sum;
}

/* Made twice of one reply, it is the same twice; and no header ends early. */
static void make(const program *asked, const reply *given, const question *about) {
  reply *one = reply_make(asked, given, about, 0), *other = reply_make(asked, given, about, 0);
  assert(one && other && one->header_count == other->header_count && one->body.length == other->body.length);
  assert(!one->body.length || !memcmp(one->body.ptr, other->body.ptr, one->body.length));
  for (size_t i = 0; i < one->header_count; i++) {
    header *entry = &one->headers[i];
    assert(entry->name.length && entry->value.length == other->headers[i].value.length);
    assert(!entry->value.length || !memchr(entry->value.ptr, '\n', entry->value.length));
  }
  touch(one);
  reply_free(one), reply_free(other);
  asking *told = given->asks ? reply_asks(asked, given, about, 0) : NULL;
  for (size_t i = 0; told && i < told->header_count; i++) {
    header *entry = &told->headers[i];
    assert(entry->name.length && !memchr(entry->value.ptr, '\n', entry->value.length));
  }
  asking_free(told);
}

static const reply *ask_twice(const program *asked, const question *about) {
  uint32_t end, again, last = 0;
  const reply *answer = program_ask(asked, about, &end);
  assert(answer == program_ask(asked, about, &again) && end == again);
  buffer name = {0};
  for (uint32_t at = 0; (at = program_observed(asked, about, at, end, &name)) < end; at++) {
    assert(!last || at >= last);
    last = at + 1;
  }
  buffer passed = program_passed(asked, about, end);
  assert(!passed.length || memchr(passed.ptr, passed.ptr[0], passed.length));
  touch(answer);
  if (answer && !answer->by_handler) {
    make(asked, answer, about);
    assert(!answer->passes);
  }
  return answer;
}

static void ask(const program *asked, const buffer *text, size_t count) {
  line lines[HEADERS];
  header headers[HEADERS];
  size_t named, line_count = 0;
  program_headers(asked, &named);
  for (size_t i = 0; i + QUESTION < count; i++) {
    buffer value = text[QUESTION + i], name = i % 2 ? TEXT("x-a") : text[i % QUESTION];
    headers[i] = (header){name, {value.ptr, memchr(value.ptr, '\n', value.length) ? 0 : value.length}};
    if (named) {
      lines[line_count++] = (line){(uint32_t)(i % named), value};
    }
  }
  response came = {.headers = headers, .header_count = count - QUESTION};
  for (size_t i = 0; i < text[STATUS].length && i < 4; i++) {
    came.status = came.status * 10 + (uint32_t)(text[STATUS].ptr[i] - '0') % 10;
  }
  arrived from = {
      .method = text[METHOD],
      .scheme = TEXT("http"),
      .authority = text[AUTHORITY],
      .path = text[PATH],
      .client = text[ROUTE],
      .lines = lines,
      .line_count = line_count,
  };
  request *taken = request_new(asked, &from);
  assert(taken && request_path(taken).length == text[PATH].length);
  for (int round = 0; round < 2; round++) {
    came.is_local = round;
    question about = {taken, round ? text[ROUTE] : (buffer){0}, NULL};
    const reply *at_once = ask_twice(asked, &about);
    about.response = &came;
    const reply *later = ask_twice(asked, &about);
    assert(!later || program_names(asked, came.status));
    assert(!at_once || program_answers_requests(asked));
    if (!(program_needs(asked) & NEEDS_REQUEST)) {
      uint32_t end;
      about.request = NULL;
      assert(later == program_ask(asked, &about, &end));
    }
  }
  free(taken);
}

typedef struct {
  const buffer *question;
  buffer bytes;
} given;

static buffer any_value(void *context, uint32_t name, buffer argument) {
  const given *all = context;
  return argument.length || name == NAME_CLIENT ? all->bytes : all->question[name % QUESTION];
}

static void fill(given *all, failure *why) {
  reader in = {all->bytes.ptr, all->bytes.ptr + all->bytes.length, all->bytes.ptr, 0, 0, why, false};
  buffer read;
  if (!template_read(&in, &read)) {
    assert(strlen(why->text));
    return;
  }
  char *filled[2];
  size_t length[2];
  for (int i = 0; i < 2; i++) {
    assert(template_fill(read, any_value, all, &filled[i], &length[i]));
  }
  assert(length[0] == length[1] && !memcmp(filled[0], filled[1], length[0]));
  for (size_t i = 0, end = template_fits_header(read) ? length[0] : 0; i < end; i++) {
    assert((unsigned char)filled[0][i] >= 0x20 || filled[0][i] == '\t');
  }
  free(filled[0]), free(filled[1]);
}

static void choose(const given *all) {
  offer offers[QUESTION + 1] = {{all->bytes, all->bytes}};
  for (size_t i = 0; i < QUESTION; i++) {
    offers[i + 1] = (offer){all->question[i], all->question[(i + 1) % QUESTION]};
  }
  assert(accept_best(offers, QUESTION + 1, all->bytes, all->bytes) <= QUESTION);
  assert(!accept_best(offers, QUESTION + 1, TEXT(""), TEXT("")));
}

static size_t split(const char *data, size_t size, buffer *question, size_t *count) {
  size_t at = 0;
  while (at < size && *count < QUESTION + HEADERS) {
    const char *end = memchr(data + at, '\n', size - at);
    size_t length = end ? (size_t)(end - data) - at : size - at;
    at += length + (end != NULL);
    if (!length && *count >= QUESTION) {
      break;
    }
    question[(*count)++] = (buffer){data + at - length - (end != NULL), length};
  }
  return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  buffer question[QUESTION + HEADERS];
  size_t count = 0, at = split((const char *)data, size, question, &count);
  if (count < QUESTION) {
    return 0;
  }
  /* A copy of just this size, so that every byte behind it is seen. */
  size_t length = size - at;
  char *bytes = malloc(length ? length : 1);
  memcpy(bytes, data + at, length);
  piece opened;
  failure why;
  given all = {question, {bytes, length}};
  fill(&all, &why);
  choose(&all);
  if (program_open((buffer){bytes, length}, &opened, &why)) {
    program *whole = program_read(&opened, 1, true, &fake, &why), *loose = program_read(&opened, 1, false, &fake, &why);
    assert(!whole || loose);
    if (whole) {
      ask(whole, question, count);
    }
    if (loose) {
      ask(loose, question, count);
    }
    program_free(whole), program_free(loose);
    piece twice[] = {opened, opened};
    program_free(program_read(twice, 2, false, &fake, &why));
  } else {
    assert(strlen(why.text));
  }
  /* As a filter's configuration, which may be JSON; and once more, beside itself. */
  config *told = config_new((buffer){"name", 4}, (buffer){bytes, length}, &fake, &why);
  config *again = config_new((buffer){"name", 4}, (buffer){bytes, length}, &fake, &why);
  assert(!told == !again && (told || strlen(why.text)));
  if (told && config_program(told)) {
    ask(config_program(told), question, count);
  }
  config_free(told), config_free(again);
  free(bytes);
  return 0;
}

/* --- a mutator that knows records: bytes alone seldom leave a program that is one --- */

static uint64_t state;

static uint32_t chance(uint32_t below) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17; /* xorshift */
  return below ? (uint32_t)(state % below) : 0;
}

static uint32_t length_at(const uint8_t *at) { return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24; }

/* The starts of up to `most` records, and the end of the last one. */
static size_t records(const uint8_t *data, size_t size, size_t at, size_t *starts, size_t most) {
  size_t count = 0;
  while (count < most && at + 5 <= size && length_at(data + at + 1) <= size - at - 5) {
    starts[count++] = at;
    at += 5 + length_at(data + at + 1);
  }
  starts[count] = at;
  return count;
}

static size_t insert(uint8_t *data, size_t size, size_t most, size_t at, const uint8_t *what, size_t length) {
  if (size + length > most) {
    return size;
  }
  uint8_t *kept = malloc(length + 1);
  memcpy(kept, what, length);
  memmove(data + at + length, data + at, size - at);
  memcpy(data + at, kept, length);
  free(kept);
  return size + length;
}

static size_t cut(uint8_t *data, size_t size, size_t at, size_t length) {
  memmove(data + at, data + at + length, size - at - length);
  return size - length;
}

/* A byte, or a length, is something else. */
static void change(uint8_t *data, size_t from, size_t to) {
  static const uint32_t lengths[] = {0, 1, 2, 3, 5, 16, 255, 65535, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffb};
  if (to <= from) {
    return;
  }
  size_t at = from + chance((uint32_t)(to - from));
  if (chance(3) || at + 4 > to) {
    data[at] = chance(2) ? (uint8_t)chance(256) : (uint8_t)(data[at] + chance(3) - 1);
  } else {
    uint32_t length = lengths[chance(sizeof lengths / sizeof *lengths)];
    length = chance(2) ? length : length_at(data + at) + chance(5) - 2;
    for (int i = 0; i < 4; i++) {
      data[at + (size_t)i] = (uint8_t)(length >> 8 * i);
    }
  }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
  buffer question[QUESTION + HEADERS];
  size_t count = 0, starts[65], begin = split((const char *)data, size, question, &count);
  state = seed * 0x9e3779b97f4a7c15u + 1;
  size_t parts = begin + 12 <= size ? records(data, size, begin + (data[begin + 2] == 'P' ? 24 : 12), starts, 64) : 0;
  for (uint32_t changes = 1 + chance(3); changes && size; changes--) {
    size_t one = chance((uint32_t)parts), other = chance((uint32_t)parts);
    switch (parts ? chance(8) : chance(4)) {
      case 0: change(data, 0, begin); return size; /* where its lines end may be other places now */
      case 1: change(data, begin < size ? begin : 0, size); break;
      case 2: case 3:
        if (!parts) { /* a template or a header: with a word more, or a byte less */
          static const char *const words[] = {"\"", "\\", ",", ";a=", ";q=0.5", "*/*", "de", "\xff", "\xe2\x80\xa8"};
          const char *word = words[chance(sizeof words / sizeof *words)];
          size_t at = begin + chance((uint32_t)(size - begin + 1));
          return chance(3) || at == size ? insert(data, size, most, at, (const uint8_t *)word, strlen(word))
                                         : cut(data, size, at, 1);
        }
        change(data, starts[one] + 5, starts[one + 1]);
        break;
      case 4: return cut(data, size, starts[one], starts[one + 1] - starts[one]);
      case 5:
        return insert(data, size, most, starts[other], data + starts[one], starts[one + 1] - starts[one]);
      case 6: { /* a text is longer or shorter, and its record says so */
        size_t at = starts[one] + 5 + chance((uint32_t)(starts[one + 1] - starts[one] - 4));
        uint8_t more[] = "/a.b*\0\1\2";
        bool grows = chance(2) || at >= starts[one + 1];
        size_t before = size;
        size = grows ? insert(data, size, most, at, more + chance(7), 1) : cut(data, size, at, 1);
        uint32_t length = (uint32_t)(length_at(data + starts[one] + 1) + size - before);
        for (int i = 0; i < 4; i++) {
          data[starts[one] + 1 + (size_t)i] = (uint8_t)(length >> 8 * i);
        }
        return size;
      }
      default: return begin < size && !chance(20) ? begin + chance((uint32_t)(size - begin)) : size;
    }
  }
  return size;
}

#ifndef LIBFUZZER
static size_t read_file(const char *path, uint8_t *into, size_t most) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(1);
  }
  size_t length = fread(into, 1, most, file);
  fclose(file);
  return length;
}

int main(int count, char **arguments) {
  enum { MOST = 1 << 16 };
  static uint8_t data[MOST], kept[MOST];
  assert(count > 3);
  double seconds = atof(arguments[1]);
  unsigned seed = (unsigned)atoi(arguments[2]);
  unsigned long rounds = 0;
  clock_t end = clock() + (clock_t)(seconds * CLOCKS_PER_SEC);
  for (int i = 3; i < count; i++) {
    LLVMFuzzerTestOneInput(kept, read_file(arguments[i], kept, MOST));
  }
  for (int i = 3; clock() < end; i = i + 1 < count ? i + 1 : 3) {
    size_t whole = read_file(arguments[i], kept, MOST);
    for (int round = 0; round < 200; round++, rounds++) {
      memcpy(data, kept, whole);
      size_t size = whole;
      for (uint32_t depth = 0; depth <= rounds % 8; depth++) {
        size = LLVMFuzzerCustomMutator(data, size, MOST, ++seed);
      }
      LLVMFuzzerTestOneInput(data, size);
    }
  }
  printf("%lu inputs\n", rounds);
  return 0;
}
#endif
