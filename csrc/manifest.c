#include "manifest.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "error.h"
#include "platform.h"
#include "sha256.h"

#define SCHEMA "edge-s2s-bundle/"

enum { SCHEMA_MAJOR = 1, MAX_SIZE = 64 << 10, N_DIGEST = 64 };

/* Text between two places. */
typedef struct {
    const char *at, *end;
} text;

static text skip_blanks(text t) {
    while (t.at < t.end && (*t.at == ' ' || *t.at == '\n' || *t.at == '\r' || *t.at == '\t'))
        t.at++;
    return t;
}

/* What is within the quotes at the start of `t`, as it is written; nothing if they do not close. */
static text quoted(text t) {
    const char *p = t.at + 1;
    while (p < t.end && *p != '"')
        p += *p == '\\' && t.end - p > 1 ? 2 : 1;
    return p < t.end ? (text){t.at + 1, p} : (text){0};
}

static bool equals(text t, const char *s) {
    return (size_t)(t.end - t.at) == strlen(s) && memcmp(t.at, s, strlen(s)) == 0;
}

/* What follows the key `name` of the outermost object; nothing if it has no such key. */
static text value_of(text json, const char *name) {
    int depth = 0;
    for (; json.at < json.end; json.at++) {
        const char c = *json.at;
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (c != '"') continue;
        const text string = quoted(json);
        if (!string.at) break;
        json.at = string.end;
        const text next = skip_blanks((text){string.end + 1, json.end});
        if (depth == 1 && next.at < next.end && *next.at == ':' && equals(string, name))
            return skip_blanks((text){next.at + 1, json.end});
    }
    return (text){0};
}

static text string_of(text json, const char *name) {
    const text value = value_of(json, name);
    return value.at && value.at < value.end && *value.at == '"' ? quoted(value) : (text){0};
}

/* A number of up to `max_digits`, which is taken off; -1 if there is none. */
static long take_number(text *t, int max_digits) {
    long number = -1;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9' && max_digits > 0; t->at++, max_digits--)
        number = 10 * (number < 0 ? 0 : number) + (*t->at - '0');
    return number;
}

static es2s_status check_schema(text json) {
    text schema = string_of(json, "schema");
    const size_t n = strlen(SCHEMA);
    long major = -1;
    if (schema.at && (size_t)(schema.end - schema.at) > n && memcmp(schema.at, SCHEMA, n) == 0) {
        schema.at += n;
        major = take_number(&schema, 4);
    }
    if (major < 1 || schema.at != schema.end)
        return es2s_fail(ES2S_BAD_FORMAT, "manifest.json: expected schema " SCHEMA "%d", SCHEMA_MAJOR);
    if (major != SCHEMA_MAJOR)
        return es2s_fail(ES2S_UNSUPPORTED_VERSION, "manifest.json: expected schema " SCHEMA "%d, found %ld",
                         SCHEMA_MAJOR, major);
    return ES2S_OK;
}

static es2s_status check_min_runtime(text json) {
    text version = string_of(json, "min_runtime");
    const unsigned own = es2s_version();
    const long ours[] = {own >> 16, own >> 8 & 0xFF, own & 0xFF};
    long theirs[3];
    int order = 0;
    for (int i = 0; i < 3; i++) {
        theirs[i] = take_number(&version, 6);
        const bool goes_on = version.at < version.end && *version.at == '.';
        if (theirs[i] < 0 || goes_on != (i < 2))
            return es2s_fail(ES2S_BAD_FORMAT, "manifest.json: expected min_runtime, a version such as 1.0.0");
        version.at += goes_on;
        if (order == 0) order = (theirs[i] > ours[i]) - (theirs[i] < ours[i]);
    }
    if (version.at != version.end)
        return es2s_fail(ES2S_BAD_FORMAT, "manifest.json: expected min_runtime, a version such as 1.0.0");
    if (order > 0)
        return es2s_fail(ES2S_UNSUPPORTED_VERSION,
                         "manifest.json: expected min_runtime %ld.%ld.%ld or earlier, found %ld.%ld.%ld",
                         ours[0], ours[1], ours[2], theirs[0], theirs[1], theirs[2]);
    return ES2S_OK;
}

/* The digest is that of the file with zeros in its place. */
static es2s_status check_digest(text json) {
    const text digest = string_of(json, "digest");
    if (!digest.at || digest.end - digest.at != N_DIGEST)
        return es2s_fail(ES2S_BAD_FORMAT, "manifest.json: expected digest, %d hexadecimal digits", N_DIGEST);
    const size_t size = (size_t)(json.end - json.at);
    char *copy = es2s_alloc(size);
    if (!copy) return es2s_fail(ES2S_OUT_OF_MEMORY, "manifest.json: cannot allocate %zu bytes", size);
    memcpy(copy, json.at, size);
    memset(copy + (digest.at - json.at), '0', N_DIGEST);
    uint8_t hash[N_DIGEST / 2];
    es2s_sha256(copy, size, hash);
    es2s_free(copy);
    for (int i = 0; i < N_DIGEST; i++)
        if (digest.at[i] != "0123456789abcdef"[hash[i / 2] >> (i % 2 ? 0 : 4) & 15])
            return es2s_fail(ES2S_BAD_FORMAT,
                             "manifest.json: expected another digest: the file was changed or is "
                             "damaged");
    return ES2S_OK;
}

static es2s_status check_extensions(text json) {
    const text list = value_of(json, "extensions_required");
    if (list.at && list.at < list.end && *list.at == '[') {
        const text inner = skip_blanks((text){list.at + 1, list.end});
        if (inner.at < inner.end && *inner.at == ']') return ES2S_OK;
    }
    return es2s_fail(ES2S_BAD_FORMAT, "manifest.json: expected no required extension");
}

es2s_status es2s_manifest_check(const void *json, size_t size) {
    if (!json) return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected manifest.json, found no such file");
    if (size > MAX_SIZE)
        return es2s_fail(ES2S_BAD_FORMAT, "manifest.json: expected up to %d bytes, found %zu", MAX_SIZE,
                         size);
    const text whole = {json, (const char *)json + size};
    ES2S_TRY(check_schema(whole));
    ES2S_TRY(check_min_runtime(whole));
    ES2S_TRY(check_digest(whole));
    return check_extensions(whole);
}
