/* The library beside the core: starts Python in Envoy, and gives the core the functions of embedded.py.
 *
 * cffi's embedding compiles this into librejoinder_python.so (build.py); it makes the functions `python_...`.
 */
#include "beside.h"

#include <stdlib.h>

static bool python_started(void);
static bool python_regex(buffer pattern, uint32_t *number, failure *why);
static bool python_handler(buffer name, uint32_t *number, failure *why);
static bool python_fits(uint32_t regex, buffer text);
static int python_handle(void *envoy, uint32_t handler, uint32_t status, const asked *request, reply **made);

/* A reply in one block of memory, with copies of the arguments. NULL: no memory. */
static reply *reply_new(uint32_t status, const header *headers, size_t count, buffer body) {
  size_t size = body.length;
  for (size_t i = 0; i < count; i++) {
    size += headers[i].name.length + headers[i].value.length;
  }
  reply *made = malloc(sizeof *made + count * sizeof *headers + size);
  if (!made) {
    return NULL;
  }
  *made = (reply){.status = status, .headers = (header *)(made + 1), .header_count = count};
  char *space = (char *)(made->headers + count);
  for (size_t i = 0; i < count; i++) {
    header given = headers[i];
    made->empty_values |= !given.value.length;
    made->headers[i] = (header){{space, given.name.length}, {space + given.name.length, given.value.length}};
    space = put(put(space, given.name), given.value);
  }
  made->body = (buffer){space, body.length};
  put(space, body);
  return made;
}

static void reason(failure *why, buffer text) {
  snprintf(why->text, sizeof why->text, "%.*s", (int)text.length, text.ptr);
}

/* As cffi would do it, but a Python that does not start gives a reason, and does not end the process. */
static bool start_python(failure *why) {
  if (Py_IsInitialized()) {
    return true;
  }
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.install_signal_handlers = 0; /* they are Envoy's */
  config.parse_argv = 0;
  PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) {
    return REJECT(why, "Python does not start: %s (are PYTHONHOME and PYTHONPATH right?)",
                  status.err_msg ? status.err_msg : "it says nothing");
  }
  PyEval_SaveThread();
  return true;
}

__attribute__((visibility("default"))) const beside *rejoinder_beside(failure *why) {
  static const beside functions = {BESIDE_VERSION, {python_regex, python_handler, python_fits}, python_handle};
  bool ready = start_python(why) &&
               (python_started() || REJECT(why, "Rejoinder is not found in Envoy's Python (is PYTHONPATH as it should "
                                                "be? stderr has the traceback)"));
  return ready ? &functions : NULL;
}
