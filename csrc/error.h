/* Statuses with a sentence: what was expected, what was found. */
#ifndef ES2S_ERROR_H
#define ES2S_ERROR_H

#include "edge_s2s.h"

/* Sets the text of es2s_last_error() in this thread and returns `status`, so that a check is one line:
 *     if (n_rows < 1) return es2s_fail(ES2S_INVALID_ARGUMENT, "n_rows: expected at least 1, found %d",
 * n_rows); */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
es2s_status
es2s_fail(es2s_status status, const char *format, ...);

#endif
