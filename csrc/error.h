/* A status with a sentence: what was expected, what was found. */
#ifndef ES2S_ERROR_H
#define ES2S_ERROR_H

#include "edge_s2s.h"

#if defined(__GNUC__)
#define ES2S_PRINTF __attribute__((format(printf, 2, 3)))
#else
#define ES2S_PRINTF
#endif

/* Sets the text of es2s_last_error() in this thread and returns `status`, so that a check is one line:
 *     if (n < 1) return es2s_fail(ES2S_INVALID_ARGUMENT, "n: expected at least 1, found %d", n); */
ES2S_PRINTF es2s_status es2s_fail(es2s_status status, const char *format, ...);

/* Puts "where: " before the text of the failure that `status` comes from, and returns it. */
es2s_status es2s_fail_within(const char *where, es2s_status status);

/* Returns from the calling function with the status of `call`, unless it is ES2S_OK. */
#define ES2S_TRY(call)                                                                                       \
    do {                                                                                                     \
        const es2s_status try_status = (call);                                                               \
        if (try_status != ES2S_OK) return try_status;                                                        \
    } while (0)

#endif
