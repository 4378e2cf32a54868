/* Calls of the public API and what they must answer. */
#ifndef ES2S_CHECK_STATUS_H
#define ES2S_CHECK_STATUS_H

#include <string.h>

#include "check.h"
#include "edge_s2s.h"

#define SUCCEEDS(call) ((call) == ES2S_OK ? (void)0 : check_fail("%s: %s", #call, es2s_last_error()))

/* The status is this one, and the sentence contains this text. */
#define REFUSES(status, text, call)                                                                          \
    ((call) == (status) && strstr(es2s_last_error(), text)                                                   \
         ? (void)0                                                                                           \
         : check_fail("%s: expected %s ... %s, found ... %s", #call, #status, text, es2s_last_error()))

#endif
