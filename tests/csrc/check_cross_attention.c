/* The weights of cross-attention that a step leaves: what they are, whose they are, and when there are none.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_session.h"

enum { MAX_WEIGHTS = 1 << 14, MAX_LOGITS = 1 << 12 };

static es2s_session *create_keeping(const fixture *f, int32_t max_batch, int32_t max_beams) {
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_batch = max_batch;
    params.max_beams = max_beams;
    params.keep_cross_attention = 1;
    es2s_session *session;
    SUCCEEDS(es2s_session_create(f->model, &params, &session));
    return session;
}

/* Length of source `id` as tiny_session.c has it. */
static size_t n_weights(const fixture *f, int32_t id) {
    return (size_t)(f->options.n_layers * f->options.n_heads * (1 + (id * 17 + 40) % 48));
}

static void weights_alone(const fixture *f, int32_t id, const int32_t *tokens, int32_t n, float *weights) {
    static float logits[MAX_LOGITS];
    es2s_session *session = create_keeping(f, 1, 1);
    set_source(f, session, 0, id);
    for (int32_t t = 0; t < n; t++)
        SUCCEEDS(es2s_session_step(session, &tokens[t], 1, logits));
    SUCCEEDS(es2s_session_cross_attention(session, 0, weights));
    es2s_session_free(session);
}

static void weights_of_a_head_are_probabilities(void) {
    static float weights[MAX_WEIGHTS];
    fixture f = load(tiny_defaults(), 1, NULL);
    const int32_t tokens[] = {0, 3, 5};
    weights_alone(&f, 1, tokens, 3, weights);
    const size_t source_len = n_weights(&f, 1) / (size_t)(f.options.n_layers * f.options.n_heads);
    for (size_t i = 0; i < n_weights(&f, 1); i += source_len) {
        double sum = 0;
        for (size_t j = 0; j < source_len; j++) {
            CHECK(weights[i + j] >= 0);
            sum += (double)weights[i + j];
        }
        CHECK(fabs(sum - 1) < 1e-5); /* source_len roundings of float32 */
    }
    unload(&f);
}

static void a_row_has_the_same_weights_alone_in_a_beam_and_in_a_batch(void) {
    static float weights[MAX_WEIGHTS], expected[MAX_WEIGHTS], logits[16 * MAX_LOGITS];
    enum { BATCH = 3, BEAMS = 2, STEPS = 3 };
    for (int32_t n_threads = 1; n_threads <= 2; n_threads++) {
        fixture f = load(tiny_defaults(), n_threads, check_isa()),
                scalar = load(tiny_defaults(), 1, "scalar");
        es2s_session *session = create_keeping(&f, BATCH, BEAMS);
        for (int32_t source = 0; source < BATCH; source++)
            set_source(&f, session, source, source);
        int32_t tokens[STEPS][BATCH * BEAMS];
        for (int32_t t = 0; t < STEPS; t++) {
            for (int32_t row = 0; row < BATCH * BEAMS; row++)
                tokens[t][row] = (int32_t)(check_random() % (uint32_t)f.options.vocab_size);
            SUCCEEDS(es2s_session_step(session, tokens[t], BATCH * BEAMS, logits));
        }
        for (int32_t row = 0; row < BATCH * BEAMS; row++) {
            int32_t own[STEPS];
            for (int32_t t = 0; t < STEPS; t++)
                own[t] = tokens[t][row];
            weights_alone(&scalar, row / BEAMS, own, STEPS, expected);
            SUCCEEDS(es2s_session_cross_attention(session, row, weights));
            CHECK(memcmp(weights, expected, n_weights(&f, row / BEAMS) * sizeof *weights) == 0);
        }
        es2s_session_free(session);
        unload(&f);
        unload(&scalar);
    }
}

static void without_a_step_or_room_there_are_none(void) {
    static float weights[MAX_WEIGHTS], logits[MAX_LOGITS];
    fixture f = load(tiny_defaults(), 1, NULL);
    const int32_t token = 3, row = 0;
    es2s_session *session = create(&f, 1, 1);
    set_source(&f, session, 0, 0);
    SUCCEEDS(es2s_session_step(session, &token, 1, logits));
    REFUSES(ES2S_STATE, "keep_cross_attention", es2s_session_cross_attention(session, 0, weights));
    es2s_session_free(session);

    session = create_keeping(&f, 1, 1);
    set_source(&f, session, 0, 0);
    REFUSES(ES2S_STATE, "es2s_session_step right before", es2s_session_cross_attention(session, 0, weights));
    SUCCEEDS(es2s_session_step(session, &token, 1, logits));
    SUCCEEDS(es2s_session_cross_attention(session, 0, weights));
    REFUSES(ES2S_INVALID_ARGUMENT, "row", es2s_session_cross_attention(session, 1, weights));
    REFUSES(ES2S_INVALID_ARGUMENT, "row", es2s_session_cross_attention(session, -1, weights));
    REFUSES(ES2S_INVALID_ARGUMENT, "weights_out", es2s_session_cross_attention(session, 0, NULL));
    SUCCEEDS(es2s_session_reorder_cache(session, &row, 1));
    REFUSES(ES2S_STATE, "es2s_session_step right before", es2s_session_cross_attention(session, 0, weights));
    SUCCEEDS(es2s_session_step(session, &token, 1, logits));
    set_source(&f, session, 0, 1);
    REFUSES(ES2S_STATE, "es2s_session_step right before", es2s_session_cross_attention(session, 0, weights));
    es2s_session_free(session);
    REFUSES(ES2S_INVALID_ARGUMENT, "session", es2s_session_cross_attention(NULL, 0, weights));
    unload(&f);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"weights_of_a_head_are_probabilities", weights_of_a_head_are_probabilities, 0},
        {"a_row_has_the_same_weights_alone_in_a_beam_and_in_a_batch",
         a_row_has_the_same_weights_alone_in_a_beam_and_in_a_batch, 1},
        {"without_a_step_or_room_there_are_none", without_a_step_or_room_there_are_none, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
