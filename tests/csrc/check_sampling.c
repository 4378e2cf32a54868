/* Random numbers against published ones, and warpers where a sort would be lost. */
#include "sampling.h"

#include <math.h>
#include <string.h>

#include "check.h"

enum { MAX_VOCAB = 300 };

static es2s_kernels kernels;
static es2s_generate_params params;

static es2s_generate_params all_off(void) {
    return (es2s_generate_params){.temperature = 1, .top_p = 1, .typical_p = 1};
}

/* A sampler in memory of exactly its size. */
static es2s_sampler make_sampler(int32_t vocab_size) {
    es2s_kernels_select(&kernels, check_isa());
    const size_t n = (size_t)vocab_size;
    return (es2s_sampler){.kernels = &kernels,
                          .params = &params,
                          .tokens = check_alloc(n * sizeof(int32_t)),
                          .scores = check_alloc(n * sizeof(float)),
                          .probs = check_alloc(n * sizeof(float)),
                          .keys = check_alloc(n * sizeof(float)),
                          .heap = check_alloc(n * sizeof(int32_t))};
}

/* The known answers that come with Philox (Random123, kat_vectors, philox4x32 10): its first two words. */
static void random_numbers_are_those_of_philox(void) {
    const struct {
        es2s_random_index index;
        uint64_t words;
    } known[] = {
        {{.seed = 0}, 0x6627e8d5e169c58dull},
        {{.seed = UINT64_MAX, .step = ~0u, .draw = ~0u, .beam = ~0u, .token = ~0u}, 0x408f276d41c83b0eull},
        {{.seed = 0x299f31d0a4093822ull,
          .step = 0x243f6a88u,
          .draw = 0x85a308d3u,
          .beam = 0x13198a2eu,
          .token = 0x03707344u},
         0xd16cfe0994fdccebull},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        check_case("vector %zu", i);
        CHECK(es2s_random_uniform(known[i].index) == ((double)(known[i].words >> 12) + 0.5) * 0x1p-52);
    }
}

static void of_equals_those_with_lower_ids_are_kept(void) {
    const int32_t vocab_size = 40;
    for (int32_t n = 1; n < vocab_size; n++) {
        check_case("%d of %d", n, vocab_size);
        const es2s_sampler sampler = make_sampler(vocab_size);
        float *const scores = check_alloc(sizeof(float) * (size_t)vocab_size);
        for (int32_t i = 0; i < vocab_size; i++)
            scores[i] = 1.25f;
        params = all_off();
        params.top_p = (n - 0.5) / vocab_size;
        es2s_sampling_warp(&sampler, scores, vocab_size, 1);
        for (int32_t i = 0; i < vocab_size; i++)
            CHECK(scores[i] == (i < n ? 1.25f : -INFINITY));
    }
}

static void top_k_keeps_what_equals_the_last_of_the_best(void) {
    check_case("3 2 1 2 0");
    const es2s_sampler sampler = make_sampler(5);
    float *const scores = check_alloc(5 * sizeof(float));
    memcpy(scores, (const float[]){3, 2, 1, 2, 0}, 5 * sizeof(float));
    params = all_off();
    params.top_k = 2;
    es2s_sampling_warp(&sampler, scores, 5, 1);
    const float expected[] = {3, 2, -INFINITY, 2, -INFINITY};
    CHECK(memcmp(scores, expected, sizeof expected) == 0);
}

static void at_least_so_many_are_kept(void) {
    for (int32_t min_to_keep = 1; min_to_keep <= 4; min_to_keep++) {
        check_case("%d", min_to_keep);
        const es2s_sampler sampler = make_sampler(3);
        float *const scores = check_alloc(3 * sizeof(float));
        memcpy(scores, (const float[]){0, 9, 1}, 3 * sizeof(float));
        params = all_off();
        params.top_k = 1;
        params.top_p = 0;
        params.min_p = 1;
        params.typical_p = 1e-6;
        es2s_sampling_warp(&sampler, scores, 3, min_to_keep);
        CHECK(scores[1] == 9);
        CHECK(scores[2] == (min_to_keep > 1 ? 1 : -INFINITY));
        CHECK(scores[0] == (min_to_keep > 2 ? 0 : -INFINITY));
    }
}

/* Whatever the scores are, what is drawn is a token, and an allowed one if there is any. */
static void a_draw_is_an_allowed_token(void) {
    const float odd[] = {-INFINITY, -INFINITY, NAN, INFINITY, 0, -0.0f, 1e38f, -1e38f, 1e-40f, 5, -5, 5};
    for (int32_t i = 0; i < 3000; i++) {
        const int32_t vocab_size = 1 + (int32_t)(check_random() % (i % 10 == 0 ? MAX_VOCAB : 20));
        check_case("case %d, vocabulary %d", i, vocab_size);
        const es2s_sampler sampler = make_sampler(vocab_size);
        float *const scores = check_alloc(sizeof(float) * (size_t)vocab_size);
        int any = 0;
        for (int32_t t = 0; t < vocab_size; t++) {
            scores[t] = odd[check_random() % (sizeof odd / sizeof *odd)];
            any |= scores[t] > -INFINITY;
        }
        const double shares[] = {0, 1e-6, 0.1, 0.5, 0.999, 1};
        params = (es2s_generate_params){.temperature = shares[2 + check_random() % 4],
                                        .top_k = (int32_t)(check_random() % 25),
                                        .top_p = shares[check_random() % 6],
                                        .min_p = shares[check_random() % 6],
                                        .typical_p = shares[1 + check_random() % 5]};
        const es2s_random_index index = {.seed = check_random()};
        const int32_t token = es2s_sampling_draw(&sampler, scores, vocab_size, index);
        CHECK(token >= 0 && token < vocab_size);
        CHECK(!any || scores[token] > -INFINITY);
    }
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"random_numbers_are_those_of_philox", random_numbers_are_those_of_philox, 0},
        {"of_equals_those_with_lower_ids_are_kept", of_equals_those_with_lower_ids_are_kept, 1},
        {"top_k_keeps_what_equals_the_last_of_the_best", top_k_keeps_what_equals_the_last_of_the_best, 1},
        {"at_least_so_many_are_kept", at_least_so_many_are_kept, 1},
        {"a_draw_is_an_allowed_token", a_draw_is_an_allowed_token, 1}};
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
