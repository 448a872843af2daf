/* Arrays, hashes and the hash table: index.h has the contract. */
#include "index.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "reader.h"

static const uint64_t PRIME = (1ull << 61) - 1;

void *array_add(array *to, size_t size) {
  if (to->count == to->room) {
    size_t room = to->room ? to->room * 2 : 16;
    void *moved = room < UINT32_MAX ? realloc(to->items, room * size) : NULL;
    if (!moved) {
      return NULL;
    }
    to->items = moved;
    to->room = room;
  }
  return memset((char *)to->items + to->count++ * size, 0, size);
}

uint64_t hash_byte(const text_index *in, uint64_t hash, char byte) {
  unsigned __int128 product = (unsigned __int128)hash * in->base + (unsigned char)byte + 1;
  uint64_t folded = (uint64_t)(product & PRIME) + (uint64_t)(product >> 61);
  return folded >= PRIME ? folded - PRIME : folded;
}

uint64_t hash_text(const text_index *in, buffer text) {
  uint64_t hash = 0;
  for (size_t i = 0; i < text.length; i++) {
    hash = hash_byte(in, hash, text.ptr[i]);
  }
  return hash;
}

node *index_node(const text_index *in, uint32_t number) { return &ITEMS(node, in->nodes)[number]; }

/* A slot for the node: its own, or the empty one where it would be. */
static uint32_t *slot_of(const text_index *in, uint32_t parent, uint32_t kind, buffer text, uint64_t hash) {
  uint64_t mixed = hash ^ ((uint64_t)parent << 4 | kind) * 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ mixed >> 32) * (in->base | 1);
  for (size_t at = mixed >> 29;; at++) {
    uint32_t *slot = &in->slots[at & (in->slot_count - 1)];
    const node *node = index_node(in, *slot);
    if (!*slot || (node->hash == hash && node->parent == parent && node->kind == kind && same(node->text, text))) {
      return slot;
    }
  }
}

static bool grow(text_index *of, size_t count) {
  uint32_t *old = of->slots;
  if (!(of->slots = calloc(count, sizeof *of->slots))) {
    of->slots = old;
    return false;
  }
  of->slot_count = count;
  for (uint32_t i = 1; i < of->nodes.count; i++) {
    const node *node = index_node(of, i);
    *slot_of(of, node->parent, node->kind, node->text, node->hash) = i;
  }
  free(old);
  return true;
}

bool index_begin(text_index *made) {
  bool random = getrandom(&made->base, sizeof made->base, 0) == sizeof made->base;
  made->base %= PRIME;
  return random && array_add(&made->nodes, sizeof(node)) && grow(made, 64);
}

void index_free(text_index *old) {
  free(old->nodes.items);
  free(old->slots);
}

uint32_t index_find(const text_index *in, uint32_t parent, uint32_t kind, buffer text, uint64_t hash) {
  return *slot_of(in, parent, kind, text, hash);
}

uint32_t index_add(text_index *to, uint32_t parent, uint32_t kind, buffer text, uint64_t hash) {
  uint32_t *slot = slot_of(to, parent, kind, text, hash), number = *slot;
  if (number) {
    return number;
  }
  node *made = array_add(&to->nodes, sizeof *made);
  if (!made) {
    return 0;
  }
  *made = (node){.parent = parent, .kind = kind, .hash = hash, .text = text};
  number = *slot = (uint32_t)to->nodes.count - 1;
  return to->nodes.count * 2 <= to->slot_count || grow(to, to->slot_count * 2) ? number : 0;
}
