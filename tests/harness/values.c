/* Templates with values by name: Python's ctypes has no callbacks that return a buffer. */
#include "../../envoy/module/template.h"

typedef struct {
  uint32_t name;
  buffer argument, value;
} given;

typedef struct {
  const given *values;
  size_t count;
} all_given;

static buffer find(void *context, uint32_t name, buffer argument) {
  const all_given *all = context;
  for (size_t i = 0; i < all->count; i++) {
    if (all->values[i].name == name && same(all->values[i].argument, argument)) {
      return all->values[i].value;
    }
  }
  return (buffer){0};
}

bool fill_with(buffer encoded, const given *values, size_t count, char **filled, size_t *length) {
  all_given all = {values, count};
  return template_fill(encoded, find, &all, filled, length);
}
