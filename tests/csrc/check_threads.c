/* One model, many threads: every answer has the bits of the same call made alone. Meant for ThreadSanitizer
 * too: cmake -S . -B build -DES2S_BUILD_TESTS=ON -DES2S_SANITIZE=thread */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check_status.h"
#include "platform.h"
#include "thread_pool.h"
#include "tiny_weights.h"

enum { N_CALLERS = 4, N_ROUNDS = 6, N_POOL_THREADS = 3, N_NEW = 10, N_BEAMS = 3, VOCAB = 700 };

/* ------------------------------------------- The pool ------------------------------------------- */

enum { MAX_ITEMS = 100 };

typedef struct counts {
    int32_t n_threads;
    atomic_int done[MAX_ITEMS];
    atomic_int busy[N_POOL_THREADS];
    atomic_int n_wrong;
} counts;

static void count_item(void *arg, int32_t item, int32_t thread) {
    counts *c = arg;
    if (thread < 0 || thread >= c->n_threads || atomic_fetch_add(&c->busy[thread], 1) != 0) c->n_wrong++;
    atomic_fetch_add(&c->done[item], 1);
    atomic_fetch_sub(&c->busy[thread], 1);
}

static void a_job_does_each_item_once(void) {
    for (int32_t n_threads = 1; n_threads <= N_POOL_THREADS; n_threads++) {
        es2s_thread_pool *pool = es2s_thread_pool_create(n_threads, NULL),
                         *mine = es2s_thread_pool_try_acquire(pool);
        CHECK(es2s_thread_pool_size(pool) == n_threads && mine == pool);
        CHECK(es2s_thread_pool_try_acquire(pool) == NULL);
        for (int job = 0; job < 3000; job++) {
            counts c = {.n_threads = n_threads};
            const int32_t n_items = job % MAX_ITEMS;
            es2s_thread_pool_run(job % 7 == 0 ? NULL : mine, count_item, &c, n_items);
            check_case("n_threads=%d job=%d", n_threads, job);
            CHECK(c.n_wrong == 0);
            for (int32_t i = 0; i < MAX_ITEMS; i++)
                CHECK(c.done[i] == (i < n_items));
            if (job % 500 == 0) /* long enough for the workers to fall asleep */
                for (int64_t end = es2s_clock_ns() + 3000000; es2s_clock_ns() < end;)
                    es2s_thread_yield();
        }
        es2s_thread_pool_release(mine);
        CHECK(es2s_thread_pool_try_acquire(pool) == pool);
        es2s_thread_pool_release(pool);
        es2s_thread_pool_free(pool);
    }
    CHECK(es2s_thread_pool_try_acquire(NULL) == NULL && es2s_thread_pool_size(NULL) == 1);
    es2s_thread_pool_release(NULL);
    es2s_thread_pool_free(NULL);
}

/* ----------------------------------------- Whole calls ------------------------------------------ */

static const tiny_options options = {.vocab_size = VOCAB,
                                     .d_model = 192,
                                     .d_ff = 256,
                                     .n_layers = 2,
                                     .n_heads = 4,
                                     .d_head = 48,
                                     .max_source_len = 40,
                                     .max_target_len = 16,
                                     .is_int8 = true,
                                     .is_tied = true,
                                     .ffn = "gated_gelu_tanh",
                                     .head_rescore = 4,
                                     .seed = 1};

typedef struct answer {
    float logits[2 * N_BEAMS * VOCAB], embeds[3 * 192], scores[2];
    int32_t tokens[2 * N_NEW], lens[2];
} answer;

typedef struct caller {
    const es2s_model *model;
    uint64_t id; /* decides what is asked */
    answer answer;
    es2s_thread *thread;
} caller;

/* Everything that a thread can do with a model. */
static void call_everything(void *arg) {
    caller *c = arg;
    answer *a = &c->answer;
    memset(a, 0, sizeof *a); /* so that padding compares equal */
    uint64_t seed = c->id;
    static const size_t n_max = 2 * 2 * 4 * 40 * 48;
    float *cross_kv = malloc(n_max * sizeof *cross_kv);
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_batch = 2;
    params.max_beams = N_BEAMS;
    es2s_session *session = NULL;
    bool ok = es2s_session_create(c->model, &params, &session) == ES2S_OK;
    for (int32_t row = 0; row < 2; row++) {
        const int32_t source_len = 1 + (int32_t)(tiny_random(&seed) % 40);
        tiny_fill(&seed, 1, n_max, cross_kv);
        ok = ok && es2s_session_set_source(session, row, cross_kv, source_len) == ES2S_OK;
    }
    for (int32_t t = 0; t < 3; t++) {
        int32_t tokens[2 * N_BEAMS], beam_idx[2 * N_BEAMS];
        for (int32_t r = 0; r < 2 * N_BEAMS; r++) {
            tokens[r] = (int32_t)(tiny_random(&seed) % VOCAB);
            beam_idx[r] = r / N_BEAMS * N_BEAMS + (int32_t)(tiny_random(&seed) % N_BEAMS);
        }
        ok = ok && es2s_session_step(session, tokens, 2 * N_BEAMS, a->logits) == ES2S_OK;
        ok = ok && es2s_session_reorder_cache(session, beam_idx, 2 * N_BEAMS) == ES2S_OK;
    }
    es2s_generate_params p;
    es2s_generate_params_init(c->model, &p);
    p.max_new_tokens = N_NEW;
    p.num_beams = 1 + (int32_t)(c->id % N_BEAMS);
    ok = ok && es2s_session_generate(session, &p, a->tokens, a->lens, a->scores, NULL, NULL) == ES2S_OK;
    ok = ok && es2s_model_embed(c->model, (const int32_t[]){1, (int32_t)c->id, 699}, 3, a->embeds) == ES2S_OK;

    /* A failure in one thread does not show in another's last error. */
    ok = ok && es2s_session_step(session, a->tokens, -(int32_t)c->id - 1, a->logits) == ES2S_INVALID_ARGUMENT;
    char found[32];
    snprintf(found, sizeof found, "found %d", -(int32_t)c->id - 1);
    ok = ok && strstr(es2s_last_error(), found);
    if (!ok) memset(a, 0xff, sizeof *a);
    es2s_session_free(session);
    free(cross_kv);
}

static es2s_model *load(const uint8_t *file, size_t size, int32_t n_threads) {
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = n_threads;
    es2s_model *model;
    return es2s_model_load_memory(file, size, &params, &model) == ES2S_OK ? model : NULL;
}

static void concurrent_calls_have_the_bits_of_serial_ones(void) {
    size_t size;
    uint8_t *file = tiny_weights(&options, &size);
    caller *serial = calloc(N_CALLERS, sizeof *serial), *callers = calloc(N_CALLERS, sizeof *callers);
    es2s_model *model = load(file, size, 1);
    for (int i = 0; i < N_CALLERS; i++) {
        serial[i] = (caller){.model = model, .id = (uint64_t)i};
        call_everything(&serial[i]);
        CHECK(i == 0 ||
              memcmp(serial[i].answer.logits, serial[0].answer.logits, sizeof serial[0].answer.logits));
    }
    es2s_model_free(model);

    for (int32_t n_threads = 1; n_threads <= N_POOL_THREADS; n_threads++) {
        model = load(file, size, n_threads);
        for (int round = 0; round < N_ROUNDS; round++) {
            for (int i = 0; i < N_CALLERS; i++) {
                callers[i] = (caller){.model = model, .id = (uint64_t)i};
                callers[i].thread = es2s_thread_start(call_everything, &callers[i]);
            }
            for (int i = 0; i < N_CALLERS; i++)
                es2s_thread_join(callers[i].thread);
            check_case("n_threads=%d round=%d", n_threads, round);
            for (int i = 0; i < N_CALLERS; i++)
                CHECK(memcmp(&serial[i].answer, &callers[i].answer, sizeof(answer)) == 0);
        }
        es2s_model_free(model);
    }
    free(serial);
    free(callers);
    free(file);
}

typedef struct weights {
    const uint8_t *file;
    size_t size;
    bool ok;
    es2s_thread *thread;
} weights;

static void load_and_unload(void *arg) {
    weights *w = arg;
    w->ok = true;
    for (int i = 0; i < 64 / N_CALLERS; i++) {
        es2s_model *model = load(w->file, w->size, N_POOL_THREADS);
        es2s_session *session = NULL;
        w->ok = w->ok && model && es2s_session_create(model, NULL, &session) == ES2S_OK;
        es2s_session_free(session);
        es2s_model_free(model);
    }
}

static void models_load_and_unload_in_parallel(void) {
    weights w[N_CALLERS] = {0};
    uint8_t *file = tiny_weights(&options, &w[0].size);
    for (int i = 0; i < N_CALLERS; i++) {
        w[i] = (weights){.file = file, .size = w[0].size};
        w[i].thread = es2s_thread_start(load_and_unload, &w[i]);
    }
    for (int i = 0; i < N_CALLERS; i++) {
        es2s_thread_join(w[i].thread);
        CHECK(w[i].ok);
    }
    free(file);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"a_job_does_each_item_once", a_job_does_each_item_once, 0},
        {"concurrent_calls_have_the_bits_of_serial_ones", concurrent_calls_have_the_bits_of_serial_ones, 0},
        {"models_load_and_unload_in_parallel", models_load_and_unload_in_parallel, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
