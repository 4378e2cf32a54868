/*
 * The system refuses the first, second, ... request for memory, a thread or a lock, once or from then on: the
 * call says so, leaks nothing, and the next one works. The linker puts __wrap_f in place of f
 * (CMakeLists.txt).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check_status.h"
#include "tiny_weights.h"
#include "wrapped_functions.h"

enum { MAX_LIVE = 64, NEVER = 0 };

static struct {
    int n_requests; /* so far */
    int fail_at;    /* the number of the request to refuse, or NEVER */
    int and_after;
    void *live[MAX_LIVE]; /* blocks that the core holds */
} system_;

static int refuses(void) {
    const int n = ++system_.n_requests;
    return system_.fail_at != NEVER && (n == system_.fail_at || (system_.and_after && n > system_.fail_at));
}

static void replace_live(void *old, void *new) {
    for (int i = 0; i < MAX_LIVE; i++)
        if (system_.live[i] == old) {
            system_.live[i] = new;
            return;
        }
}

int __wrap_posix_memalign(void **block, size_t alignment, size_t size) {
    if (refuses()) return ENOMEM;
    const int error = __real_posix_memalign(block, alignment, size);
    if (error == 0) replace_live(NULL, *block);
    return error;
}

void __wrap_free(void *block) {
    if (block) replace_live(block, NULL);
    __real_free(block);
}

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *), void *arg) {
    return refuses() ? EAGAIN : __real_pthread_create(id, attr, run, arg);
}

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr) {
    return refuses() ? ENOMEM : __real_pthread_mutex_init(mutex, attr);
}

int __wrap_pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attr) {
    return refuses() ? ENOMEM : __real_pthread_cond_init(condition, attr);
}

static int n_live(void) {
    int n = 0;
    for (int i = 0; i < MAX_LIVE; i++)
        n += system_.live[i] != NULL;
    return n;
}

static void refuse(int fail_at, int and_after) {
    system_.n_requests = 0;
    system_.fail_at = fail_at;
    system_.and_after = and_after;
}

/* Load, create, generate with two beams. */
static es2s_status translate(const uint8_t *file, size_t size, int32_t tokens[24]) {
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = 3;
    es2s_model *model = (es2s_model *)(uintptr_t)1;
    es2s_session *session = NULL;
    es2s_status status = es2s_model_load_memory(file, size, &params, &model);
    CHECK(status == ES2S_OK || model == NULL);
    es2s_session_params sp;
    es2s_session_params_init(&sp);
    sp.max_beams = 2;
    if (status == ES2S_OK) status = es2s_session_create(model, &sp, &session);
    CHECK(status == ES2S_OK || session == NULL);
    if (status == ES2S_OK) {
        float cross_kv[2 * 2 * 3 * 5 * 6], score;
        uint64_t seed = 1;
        int32_t len;
        tiny_fill(&seed, 1, sizeof cross_kv / sizeof *cross_kv, cross_kv);
        es2s_generate_params p;
        es2s_generate_params_init(model, &p);
        p.num_beams = 2;
        const int n_before = system_.n_requests;
        SUCCEEDS(es2s_session_set_source(session, 0, cross_kv, 5));
        SUCCEEDS(es2s_session_generate(session, &p, tokens, &len, &score, NULL, NULL));
        CHECK(system_.n_requests == n_before); /* decoding allocates nothing */
    }
    es2s_session_free(session);
    es2s_model_free(model);
    return status;
}

static void every_refused_request_is_reported_and_leaks_nothing(void) {
    const tiny_options o = tiny_defaults();
    size_t size;
    uint8_t *file = tiny_weights(&o, &size);
    int32_t expected[24] = {0}, tokens[24] = {0};
    refuse(NEVER, 0);
    SUCCEEDS(translate(file, size, expected));
    const int n_requests = system_.n_requests;
    CHECK(n_requests >= 8); /* model, pool, its lock in three, two threads in two, session */
    for (int and_after = 0; and_after < 2; and_after++)
        for (int n = 1; n <= n_requests; n++) {
            check_case("request=%d and_after=%d", n, and_after);
            refuse(n, and_after);
            REFUSES(ES2S_OUT_OF_MEMORY, "cannot", translate(file, size, tokens));
            refuse(NEVER, 0);
            CHECK(n_live() == 0);
        }
    SUCCEEDS(translate(file, size, tokens));
    CHECK(memcmp(tokens, expected, sizeof tokens) == 0);
    CHECK(n_live() == 0);
    free(file);
}

/* The file at `path`, in *size_out bytes; free() it. */
static uint8_t *read_file(const char *path, size_t *size_out) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(1 << 17);
    *size_out = file && data ? fread(data, 1, 1 << 17, file) : 0;
    CHECK(file && *size_out > 64 && fclose(file) == 0);
    return data;
}

static uint32_t number(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;
}

/* Every step of every pipeline grows its text as it goes. */
static void a_tokenizer_without_memory_says_so_and_works_again(void) {
    static const char *const names[] = {"unigram", "byte_level", "byte_fallback"};
    static const char text[] = "Tom's dog, 12 e\xCC\x81 \xE6\xBC\xA2\xF0\x9F\x91\x8B </s> <0x41>.";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512], written[512];
        int32_t ids[512];
        size_t table_size, size, n, n_bytes;
        snprintf(path, sizeof path, "%s/%s", TABLES, names[i]);
        uint8_t *table = read_file(path, &table_size);
        tiny_options o = tiny_defaults();
        o.vocab_size = (int32_t)number(tiny_find_key(table, "vocab_size") + 56);
        uint8_t *file = tiny_weights(&o, &size);
        es2s_model_params params;
        es2s_model_params_init(&params);
        params.tokenizer = table;
        params.tokenizer_size = number(table + 24); /* behind it is a text for the fuzzer */
        es2s_model *model;
        refuse(NEVER, 0);
        SUCCEEDS(es2s_model_load_memory(file, size, &params, &model));
        const int n_held = n_live();
        refuse(NEVER, 0);
        SUCCEEDS(es2s_model_tokenize(model, text, sizeof text - 1, ids, 512, &n));
        const int n_encode = system_.n_requests;
        SUCCEEDS(es2s_model_detokenize(model, ids, n, written, sizeof written, &n_bytes));
        const int n_decode = system_.n_requests - n_encode;
        CHECK(n_encode >= 4 && n_decode >= 2 && n <= 512 && n_bytes > 20);
        for (int and_after = 0; and_after < 2; and_after++) {
            int32_t other[512];
            size_t n_other;
            for (int k = 1; k <= n_encode; k++) {
                check_case("%s: encode, request=%d and_after=%d", names[i], k, and_after);
                refuse(k, and_after);
                REFUSES(ES2S_OUT_OF_MEMORY, "encode: no memory",
                        es2s_model_tokenize(model, text, sizeof text - 1, other, 512, &n_other));
                CHECK(n_live() == n_held);
            }
            for (int k = 1; k <= n_decode; k++) {
                check_case("%s: decode, request=%d and_after=%d", names[i], k, and_after);
                refuse(k, and_after);
                REFUSES(ES2S_OUT_OF_MEMORY, "decode: no memory",
                        es2s_model_detokenize(model, ids, n, written, sizeof written, &n_bytes));
                CHECK(n_live() == n_held);
            }
            refuse(NEVER, 0);
            SUCCEEDS(es2s_model_tokenize(model, text, sizeof text - 1, other, 512, &n_other));
            CHECK(n_other == n && memcmp(other, ids, n * sizeof *ids) == 0);
            SUCCEEDS(es2s_model_detokenize(model, ids, n, written, 3, &n_bytes)); /* room for 3 of them */
            CHECK(n_bytes > 20);
        }
        es2s_model_free(model);
        CHECK(n_live() == 0);
        free(file);
        free(table);
    }
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"every_refused_request_is_reported_and_leaks_nothing",
         every_refused_request_is_reported_and_leaks_nothing, 0},
        {"a_tokenizer_without_memory_says_so_and_works_again",
         a_tokenizer_without_memory_says_so_and_works_again, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
