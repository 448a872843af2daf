/* An index: numbered nodes, each found by the node above it, a kind and a text. And arrays that grow.
 *
 * The hash of a text is a polynomial modulo a prime, which can be continued byte by byte: the hashes of all prefixes of
 * a path are computed along with the whole path's. Its base is random: nobody can predict which texts collide.
 */
#ifndef REJOINDER_INDEX_H
#define REJOINDER_INDEX_H

#include "program.h"

typedef struct {
  void *items;
  size_t count, room;
} array;

#define ITEMS(type, array) ((type *)(array).items)

/* One more item, all zeros; NULL: no memory. */
void *array_add(array *to, size_t size);

enum { LISTS = 2 };

/* A node. The index itself only uses the first four fields. */
typedef struct {
  uint32_t parent; /* its number; 0: none */
  uint32_t kind;
  uint64_t hash;
  buffer text;
  buffer body;
  uint32_t number;
  uint32_t first[LISTS], last[LISTS];
} node;

typedef struct {
  uint64_t base; /* of the hash */
  array nodes;   /* the first one is unused */
  uint32_t *slots;
  size_t slot_count; /* a power of two */
} text_index;

bool index_begin(text_index *made);
void index_free(text_index *old);

uint64_t hash_byte(const text_index *in, uint64_t hash, char byte);
uint64_t hash_text(const text_index *in, buffer text);

/* A node's number; 0: there is none. */
uint32_t index_find(const text_index *in, uint32_t parent, uint32_t kind, buffer text, uint64_t hash);
/* The same, but made if it is not there; 0: no memory. This may move the other nodes. `text` must outlive the index. */
uint32_t index_add(text_index *to, uint32_t parent, uint32_t kind, buffer text, uint64_t hash);
node *index_node(const text_index *in, uint32_t number);

#endif
