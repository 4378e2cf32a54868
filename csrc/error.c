#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[512];

es2s_status es2s_fail(es2s_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
    return status;
}

es2s_status es2s_fail_within(const char *where, es2s_status status) {
    char inner[sizeof last_error];
    memcpy(inner, last_error, sizeof inner);
    return es2s_fail(status, "%s: %s", where, inner);
}

const char *es2s_last_error(void) {
    return last_error;
}

const char *es2s_status_str(es2s_status status) {
    switch (status) {
    case ES2S_OK:
        return "ok";
    case ES2S_INVALID_ARGUMENT:
        return "invalid argument";
    case ES2S_OUT_OF_MEMORY:
        return "out of memory";
    case ES2S_IO:
        return "input/output error";
    case ES2S_BAD_FORMAT:
        return "bad format";
    case ES2S_UNSUPPORTED_VERSION:
        return "unsupported version";
    case ES2S_UNSUPPORTED_CPU:
        return "unsupported CPU";
    case ES2S_CAPACITY:
        return "capacity exceeded";
    case ES2S_STATE:
        return "called in the wrong order";
    case ES2S_CANCELLED:
        return "cancelled";
    }
    return "unknown status";
}
