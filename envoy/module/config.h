/* What filters are told: programs and parts of programs, and which program answers for a filter.
 *
 * `config_new` and `config_free` are for Envoy's hooks of that name: the first on the main thread, the second on
 * whichever thread lets go of it last. `config_program` is for workers, without a lock.
 */
#ifndef REJOINDER_CONFIG_H
#define REJOINDER_CONFIG_H

#include "program.h"

typedef struct config config;

/* Take a configuration: the bytes of a program or of a part, or the JSON object {"program": "BASE64"} around them.
 * `name`: programs of the same name take each other's place. NULL: rejected; `why` says why. */
config *config_new(buffer name, buffer given, const engine *engine, failure *why);
void config_free(config *old);

/* Have Envoy log what is rejected. */
void report(const char *what, const failure *why);

/* What answers now; NULL: nothing (a part, or a program that waits for its parts and has none before it). What it
 * returns is good as long as the configuration. */
const program *config_program(const config *asked);

#endif
