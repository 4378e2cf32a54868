/*
 * What a manifest.json tells the core: which version may open the bundle, and that its bytes are those that
 * were written. Every cut and every changed bit is refused, and nothing beyond the end is read.
 */
#include "manifest.h"

#include <stdio.h>
#include <stdlib.h>

#include "check_status.h"
#include "sha256.h"

enum { MAX_SIZE = 4096, N_DIGEST = 64 };

static const char plain[] = "\"extensions_required\": [ ]";

/* A manifest with these parts and the right digest; NULL leaves a part out. */
static size_t write_manifest(char json[MAX_SIZE], const char *schema, const char *min_runtime,
                             const char *extensions) {
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    int n =
        snprintf(json, MAX_SIZE, "{\n  \"a\": {\"schema\": \"other\", \"b\": [\"}\\\"\", \"schema\"]},\n");
    if (schema) n += snprintf(json + n, MAX_SIZE - (size_t)n, "  \"schema\" :\t\"%s\",\r\n", schema);
    n += snprintf(json + n, MAX_SIZE - (size_t)n, "  \"digest\": \"");
    const size_t at = (size_t)n;
    n += snprintf(json + n, MAX_SIZE - (size_t)n, "%s\",\n", zeros);
    if (min_runtime)
        n += snprintf(json + n, MAX_SIZE - (size_t)n, "  \"min_runtime\": \"%s\",\n", min_runtime);
    n += snprintf(json + n, MAX_SIZE - (size_t)n, "  %s\n}\n", extensions);
    uint8_t hash[N_DIGEST / 2];
    es2s_sha256(json, (size_t)n, hash);
    for (size_t i = 0; i < N_DIGEST; i++)
        json[at + i] = "0123456789abcdef"[hash[i / 2] >> (i % 2 ? 0 : 4) & 15];
    return (size_t)n;
}

/* The bytes end before an unreadable page. */
static es2s_status check_copy(const char *json, size_t size) {
    char *copy = check_alloc(size);
    memcpy(copy, json, size);
    return es2s_manifest_check(copy, size);
}

static es2s_status check_parts(const char *schema, const char *min_runtime, const char *extensions) {
    char json[MAX_SIZE];
    return check_copy(json, write_manifest(json, schema, min_runtime, extensions));
}

static const char schema[] = "edge-s2s-bundle/1";

static void what_this_version_can_read_is_accepted(void) {
    char own[32];
    const unsigned v = es2s_version();
    snprintf(own, sizeof own, "%u.%u.%u", v >> 16, v >> 8 & 0xFF, v & 0xFF);
    SUCCEEDS(check_parts(schema, own, plain));
    SUCCEEDS(check_parts(schema, "0.0.0", plain));
    SUCCEEDS(check_parts(schema, "0.0.999999", "\"extensions_required\":[\n]"));
}

static void a_newer_bundle_is_told_from_a_broken_one(void) {
    char newer[32];
    REFUSES(ES2S_UNSUPPORTED_VERSION, "found 2", check_parts("edge-s2s-bundle/2", "0.1.0", plain));
    REFUSES(ES2S_UNSUPPORTED_VERSION, "found 9999", check_parts("edge-s2s-bundle/9999", NULL, ""));
    REFUSES(ES2S_UNSUPPORTED_VERSION, "found 99.0.0", check_parts(schema, "99.0.0", plain));
    snprintf(newer, sizeof newer, "0.%u.0", (es2s_version() >> 8 & 0xFF) + 1);
    REFUSES(ES2S_UNSUPPORTED_VERSION, newer, check_parts(schema, newer, plain));
    snprintf(newer, sizeof newer, "0.%u.%u", es2s_version() >> 8 & 0xFF, (es2s_version() & 0xFF) + 1);
    REFUSES(ES2S_UNSUPPORTED_VERSION, newer, check_parts(schema, newer, plain));
}

static void what_no_writer_writes_is_refused(void) {
    static const char *const schemas[] = {"edge-s2s-bundle/",   "edge-s2s-bundle/0",
                                          "edge-s2s-bundle/1x", "edge-s2s-bundle/10000",
                                          "edge-s2s-bundle",    "",
                                          "other-bundle-abc/1", NULL};
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        check_case("schema %zu", i);
        REFUSES(ES2S_BAD_FORMAT, "expected schema edge-s2s-bundle/1",
                check_parts(schemas[i], "0.1.0", plain));
    }
    static const char *const versions[] = {"",      "1",    "1.0",  "1.0.",        "0.1.0.", "0.1.0.0",
                                           "0.1.x", ".1.0", "0..0", "0.1.1000000", "0.1.0 ", NULL};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        check_case("version %zu", i);
        REFUSES(ES2S_BAD_FORMAT, "expected min_runtime", check_parts(schema, versions[i], plain));
    }
    static const char *const lists[] = {"\"extensions_required\": [\"new\"]",
                                        "\"extensions_required\": {}",
                                        "\"b\": {\"extensions_required\": []}",
                                        "\"extensions_required\": [",
                                        "\"extensions_required\"",
                                        "\"extensions_required\":"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        check_case("list %zu", i);
        REFUSES(ES2S_BAD_FORMAT, "expected no required extension", check_parts(schema, "0.1.0", lists[i]));
    }
    REFUSES(ES2S_BAD_FORMAT, "found no such file", es2s_manifest_check(NULL, 0));
    static char large[(64 << 10) + 1];
    REFUSES(ES2S_BAD_FORMAT, "expected up to 65536 bytes", es2s_manifest_check(large, sizeof large));
    char json[MAX_SIZE];
    const size_t n = write_manifest(json, schema, "0.1.0", plain);
    char *digest = strstr(json, "digest");
    memcpy(digest, "dugest", 6);
    REFUSES(ES2S_BAD_FORMAT, "expected digest, 64", check_copy(json, n));
}

static void every_cut_and_every_changed_bit_is_refused(void) {
    char json[MAX_SIZE];
    const size_t n = write_manifest(json, schema, "0.1.0", plain);
    SUCCEEDS(check_copy(json, n));
    for (size_t size = 0; size < n; size++) {
        check_case("cut to %zu bytes", size);
        CHECK(check_copy(json, size) == ES2S_BAD_FORMAT);
    }
    for (size_t at = 0; at < n; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            check_case("byte=%zu bit=%u", at, bit);
            json[at] ^= (char)(1u << bit);
            const es2s_status status = check_copy(json, n);
            CHECK(status == ES2S_BAD_FORMAT || status == ES2S_UNSUPPORTED_VERSION);
            json[at] ^= (char)(1u << bit);
        }
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"what_this_version_can_read_is_accepted", what_this_version_can_read_is_accepted, 0},
        {"a_newer_bundle_is_told_from_a_broken_one", a_newer_bundle_is_told_from_a_broken_one, 0},
        {"what_no_writer_writes_is_refused", what_no_writer_writes_is_refused, 0},
        {"every_cut_and_every_changed_bit_is_refused", every_cut_and_every_changed_bit_is_refused, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
