/* Loads the Python beside the core: beside.h has the contract. */
#define _GNU_SOURCE /* dladdr */
#include "beside.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Set once, on the main thread, before a program needs it: workers get it with their program. */
static const beside *loaded;

/* From this library's folder, or from Envoy's search path, because a library that Envoy has fetched is elsewhere. */
static void *open_library(failure *why) {
  char path[4096];
  Dl_info self;
  const char *searched = getenv("ENVOY_DYNAMIC_MODULES_SEARCH_PATH");
  const char *own = dladdr((void *)(uintptr_t)open_library, &self) && self.dli_fname ? self.dli_fname : "";
  const char *slash = strrchr(own, '/');
  snprintf(path, sizeof path, "%.*s" BESIDE_LIBRARY, slash ? (int)(slash - own + 1) : 0, own);
  /* For all: Python's own C extensions look for its symbols in the whole process. */
  void *opened = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!opened) {
    snprintf(why->text, sizeof why->text, "%s", dlerror());
    snprintf(path, sizeof path, "%s/" BESIDE_LIBRARY, searched ? searched : ".");
    opened = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  }
  return opened;
}

static bool load(failure *why) {
  if (loaded) {
    return true;
  }
  void *library = open_library(why);
  void *symbol = library ? dlsym(library, BESIDE_FUNCTION) : NULL;
  if (!symbol) {
    return false;
  }
  beside_start *start;
  memcpy(&start, &symbol, sizeof start); /* C knows no cast from an object to a function */
  const beside *started = start(why);
  if (started && started->version != BESIDE_VERSION) {
    return REJECT(why, BESIDE_LIBRARY " is of another version of Rejoinder");
  }
  loaded = started;
  return loaded;
}

static bool load_for(const char *what, failure *why) {
  failure reason = {"it cannot be loaded"};
  return load(&reason) ||
         REJECT(why, "this program has %s, which needs Python in Envoy: %.250s. Rejoinder's page on the module says "
                     "what that takes; the ext_proc service needs nothing in Envoy", what, reason.text);
}

static bool regex(buffer pattern, uint32_t *number, failure *why) {
  return load_for("a regular expression", why) && loaded->engine.regex(pattern, number, why);
}

static bool handler(buffer name, uint32_t *number, failure *why) {
  return load_for("a handler", why) && loaded->engine.handler(name, number, why);
}

static bool fits(uint32_t regex, buffer text) { return loaded->engine.fits(regex, text); }

const engine beside_engine = {regex, handler, fits};

int beside_handle(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made) {
  return loaded->handle(envoy, handler, status, request, made);
}
