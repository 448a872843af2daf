/* The configurations of filters: programs and parts of programs, and which program answers for a filter.
 *
 * `config_new` and `config_free` are for Envoy's hooks of that name: the first on the main thread, the second on the
 * thread that releases it last. `config_program` is for workers, without a lock.
 */
#ifndef REJOINDER_CONFIG_H
#define REJOINDER_CONFIG_H

#include "program.h"

typedef struct config config;

/* Accept a configuration: the bytes of a program or of a part, or the JSON object {"program": "BASE64"} around them.
 * `name`: a program replaces the previous one of the same name. NULL: rejected; `why` says why. */
config *config_new(buffer name, buffer given, const engine *engine, failure *why);
void config_free(config *old);

/* Log a rejection in Envoy's log. */
void report(const char *what, const failure *why);

/* The program that answers now; NULL: none (a part, or a program that waits for its parts and has no predecessor). The
 * result is valid as long as the configuration. */
const program *config_program(const config *asked);

#endif
