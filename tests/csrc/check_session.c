/* What a caller can get wrong has a status and leaves everything usable; what a row decodes depends on itself
 * alone. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_session.h"

enum { MAX_STEPS = 12, MAX_VOCAB = 1024, MAX_ROWS = 8 };

/* Large enough that linear layers and attention are shared between threads. */
static tiny_options large_options(void) {
    tiny_options o = tiny_defaults();
    o.vocab_size = 1021;
    o.d_model = 252;
    o.d_ff = 530;
    o.n_heads = 5;
    o.d_head = 52;
    return o;
}

static int32_t random_token(uint64_t *seed) {
    return (int32_t)(tiny_random(seed) % 37);
}

/* ------------------------------------------------------------------------------------------------ */

static void a_row_has_the_same_bits_alone_in_a_beam_and_in_a_batch(void) {
    for (int variant = 0; variant < 3; variant++) {
        tiny_options o = large_options();
        if (variant == 1) o.is_int8 = false, o.head_rescore = 0, o.bias_per_layer = true, o.ffn = "relu";
        if (variant == 2)
            o.layer_norm = o.post_norm = o.embedding_norm = o.no_final_norm = o.position_table =
                o.linear_bias = o.final_logits_bias = o.kv_cache_f16 = true,
            o.ffn = "gelu_erf";
        fixture f = load(o, 1, NULL);
        const int32_t tokens[] = {0, 5, 9, 2, 30, 5};
        const int32_t n_tokens = sizeof tokens / sizeof *tokens;
        float *alone = malloc(MAX_VOCAB * sizeof *alone),
              *logits = malloc(MAX_ROWS * MAX_VOCAB * sizeof *logits);
        decode_alone(&f, 2, tokens, n_tokens, alone);
        for (int32_t i = 0; i < o.vocab_size; i++)
            CHECK(isfinite(alone[i]));

        static const int32_t shapes[][2] = {{1, 4}, {8, 1}, {4, 2}}; /* sources, beams */
        for (size_t shape = 0; shape < 3; shape++) {
            const int32_t batch = shapes[shape][0], beams = shapes[shape][1], n_rows = batch * beams;
            es2s_session *session = create(&f, batch, beams);
            for (int32_t row = 0; row < batch; row++)
                set_source(&f, session, row, row == batch / 2 ? 2 : 10 + row);
            const int32_t mine = batch / 2 * beams + beams / 2; /* all other rows decode something else */
            uint64_t seed = shape;
            for (int32_t t = 0; t < n_tokens; t++) {
                int32_t step[MAX_ROWS];
                for (int32_t r = 0; r < n_rows; r++)
                    step[r] = r == mine ? tokens[t] : random_token(&seed);
                SUCCEEDS(es2s_session_step(session, step, n_rows, logits));
            }
            CHECK(same_bits(&f, alone, logits + (size_t)mine * (size_t)o.vocab_size));
            CHECK(n_rows == 1 ||
                  !same_bits(&f, alone, logits + (size_t)(mine > 0 ? 0 : 1) * (size_t)o.vocab_size));
            es2s_session_free(session);
        }
        free(alone);
        free(logits);
        unload(&f);
    }
}

static void reordered_beams_equal_recomputation(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    uint64_t seed = 3;
    float logits[MAX_ROWS * 37], alone[37];
    for (int round = 0; round < 20; round++) {
        const int32_t batch = 1 + (int32_t)(tiny_random(&seed) % 2);
        es2s_session *session = create(&f, 2, 4);
        for (int32_t row = 0; row < batch; row++)
            set_source(&f, session, row, row);
        int32_t history[MAX_ROWS][MAX_STEPS], beams = 1 + (int32_t)(tiny_random(&seed) % 4);
        for (int32_t t = 0; t < MAX_STEPS; t++) {
            int32_t tokens[MAX_ROWS];
            for (int32_t r = 0; r < batch * beams; r++)
                history[r][t] = tokens[r] = random_token(&seed);
            SUCCEEDS(es2s_session_step(session, tokens, batch * beams, logits));
            for (int32_t r = 0; r < batch * beams; r++) {
                decode_alone(&f, r / beams, history[r], t + 1, alone);
                check_case("round=%d step=%d row=%d", round, t, r);
                CHECK(same_bits(&f, alone, logits + r * 37));
            }
            /* Often another order, sometimes another number of beams. */
            if (tiny_random(&seed) % 3 == 0) continue;
            const int32_t before = beams;
            if (tiny_random(&seed) % 2 == 0) beams = 1 + (int32_t)(tiny_random(&seed) % 4);
            int32_t beam_idx[MAX_ROWS], old[MAX_ROWS][MAX_STEPS];
            memcpy(old, history, sizeof old);
            for (int32_t r = 0; r < batch * beams; r++) {
                beam_idx[r] = r / beams * before + (int32_t)(tiny_random(&seed) % (uint64_t)before);
                memcpy(history[r], old[beam_idx[r]], sizeof history[r]);
            }
            SUCCEEDS(es2s_session_reorder_cache(session, beam_idx, batch * beams));
        }
        es2s_session_free(session);
    }
    unload(&f);
}

static void a_new_source_restarts_its_rows_and_no_others(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 3, 2);
    int32_t ids[] = {0, 1, 2}, history[6][MAX_STEPS], lens[6] = {0};
    float logits[6 * 37], alone[37];
    uint64_t seed = 9;
    set_source(&f, session, 0, ids[0]);
    set_source(&f, session, 1, ids[1]);
    int32_t batch = 2, beams = 1;
    for (int32_t t = 0; t < MAX_STEPS; t++) {
        if (t == 2) { /* each row becomes two */
            SUCCEEDS(es2s_session_reorder_cache(session, (const int32_t[]){0, 0, 1, 1}, 4));
            for (int32_t r = 3; r >= 0; r--) {
                memcpy(history[r], history[r / 2], sizeof history[r]);
                lens[r] = lens[r / 2];
            }
            beams = 2;
        }
        if (t == 4 || t == 7) { /* another source in place of the first, then of the second */
            const int32_t row = t == 4 ? 0 : 1;
            set_source(&f, session, row, ids[row] = 10 + t);
            lens[row * 2] = lens[row * 2 + 1] = 0;
        }
        if (t == 5) { /* one more */
            set_source(&f, session, 2, ids[2]);
            batch = 3;
        }
        if (t % 3 == 2) { /* swap the beams of the first source */
            int32_t old[2][MAX_STEPS];
            memcpy(old, history, sizeof old);
            SUCCEEDS(es2s_session_reorder_cache(session, (const int32_t[]){1, 0, 2, 3, 4, 5}, batch * beams));
            memcpy(history[0], old[1], sizeof old[1]);
            memcpy(history[1], old[0], sizeof old[0]);
        }
        int32_t tokens[6];
        for (int32_t r = 0; r < batch * beams; r++)
            history[r][lens[r]++] = tokens[r] = random_token(&seed);
        SUCCEEDS(es2s_session_step(session, tokens, batch * beams, logits));
        for (int32_t r = 0; r < batch * beams; r++) {
            decode_alone(&f, ids[r / beams], history[r], lens[r], alone);
            check_case("step=%d row=%d", t, r);
            CHECK(same_bits(&f, alone, logits + r * 37));
        }
    }
    es2s_session_free(session);
    unload(&f);
}

static void restarted_sources_may_have_another_number_of_beams(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 2, 4);
    const int32_t tokens[8] = {0}, same[] = {0, 1, 2, 3, 4, 5, 6, 7}, two_of_four[] = {0, 3, 4, 4};
    float logits[8 * 37], alone[37];
    set_source(&f, session, 0, 0);
    set_source(&f, session, 1, 1);
    SUCCEEDS(es2s_session_step(session, tokens, 8, logits));
    SUCCEEDS(es2s_session_reorder_cache(session, same, 8));
    SUCCEEDS(es2s_session_reorder_cache(session, two_of_four, 4));
    SUCCEEDS(es2s_session_step(session, tokens, 4, logits));
    set_source(&f, session, 0, 2);
    REFUSES(ES2S_STATE, "n_rows: expected 4", es2s_session_step(session, tokens, 2, logits));
    set_source(&f, session, 1, 3); /* now nothing is left of before */
    SUCCEEDS(es2s_session_step(session, tokens, 2, logits));
    decode_alone(&f, 3, tokens, 1, alone);
    CHECK(same_bits(&f, alone, logits + 37));
    es2s_session_free(session);
    unload(&f);
}

/* Logits of a few steps of 2 sources x 4 beams: float[4, 8, vocab_size]. */
static void decode_rows(const fixture *f, float *logits) {
    es2s_session *session = create(f, 2, 4);
    set_source(f, session, 0, 0);
    set_source(f, session, 1, 1);
    uint64_t seed = 1;
    for (int32_t t = 0; t < 4; t++) {
        int32_t tokens[8];
        for (int32_t r = 0; r < 8; r++)
            tokens[r] = random_token(&seed);
        SUCCEEDS(es2s_session_step(session, tokens, 8, logits));
        logits += 8 * f->options.vocab_size;
    }
    es2s_session_free(session);
}

static void threads_and_isa_do_not_change_a_bit(void) {
    const size_t n = 4 * 8 * MAX_VOCAB;
    float *scalar = calloc(n, sizeof *scalar), *other = calloc(n, sizeof *other);
    for (int variant = 0; variant < 3; variant++) {
        tiny_options o = large_options();
        if (variant == 1) o.is_int8 = false, o.head_rescore = 0, o.ffn = "gated_silu";
        fixture f = load(o, 1, "scalar");
        CHECK(strcmp(es2s_model_isa(f.model), "scalar") == 0);
        decode_rows(&f, scalar);
        unload(&f);
        for (int32_t n_threads = 1; n_threads <= 4; n_threads *= 2) {
            check_case("variant=%d n_threads=%d", variant, n_threads);
            f = load(o, n_threads, check_isa());
            CHECK(strcmp(es2s_model_isa(f.model), check_isa()) == 0);
            decode_rows(&f, other);
            CHECK(memcmp(scalar, other, n * sizeof *scalar) == 0);
            unload(&f);
        }
    }
    free(scalar);
    free(other);
}

static void embeddings_are_rows_of_the_table(void) {
    for (int variant = 0; variant < 2; variant++) {
        tiny_options o = tiny_defaults();
        if (variant == 1) o.is_int8 = false, o.head_rescore = 0;
        fixture f = load(o, 1, NULL);
        const int32_t ids[] = {36, 0, 36};
        float embeds[3 * 20];
        SUCCEEDS(es2s_model_embed(f.model, ids, 3, embeds));
        CHECK(memcmp(embeds, embeds + 40, 20 * sizeof *embeds) == 0);
        const uint8_t *table = tiny_tensor_data(f.file, "embedding.weight");
        for (size_t i = 0; i < 20; i++) {
            float weight, scale = 1;
            memcpy(&weight, table + (variant == 0 ? 0 : (36 * 20 + i) * 4), 4);
            if (variant == 0) {
                weight = (int8_t)table[36 * 20 + i];
                memcpy(&scale, tiny_tensor_data(f.file, "embedding.weight_scale") + 36 * 4, 4);
            }
            CHECK(embeds[i] == weight * scale); /* not times embedding_scale, which is 1.5 */
        }
        SUCCEEDS(es2s_model_embed(f.model, NULL, 0, NULL));
        CHECK(es2s_model_embed(f.model, NULL, 1, embeds) == ES2S_INVALID_ARGUMENT);
        CHECK(es2s_model_embed(f.model, ids, 1, NULL) == ES2S_INVALID_ARGUMENT);
        CHECK(es2s_model_embed(NULL, ids, 1, embeds) == ES2S_INVALID_ARGUMENT);
        CHECK(es2s_model_embed(f.model, (const int32_t[]){0, 37}, 2, embeds) == ES2S_INVALID_ARGUMENT);
        CHECK(strstr(es2s_last_error(), "token_ids[1]: expected 0..36, found 37"));
        CHECK(es2s_model_embed(f.model, (const int32_t[]){-1}, 1, embeds) == ES2S_INVALID_ARGUMENT);
        unload(&f);
    }
}

static void models_take_complete_older_and_newer_params(void) {
    es2s_model *model = (es2s_model *)(uintptr_t)1;
    size_t size;
    const tiny_options o = tiny_defaults();
    uint8_t *file = tiny_weights(&o, &size);
    REFUSES(ES2S_INVALID_ARGUMENT, "path", es2s_model_load(NULL, NULL, &model));
    CHECK(model == NULL);
    REFUSES(ES2S_INVALID_ARGUMENT, "data", es2s_model_load_memory(NULL, size, NULL, &model));
    REFUSES(ES2S_INVALID_ARGUMENT, "model_out", es2s_model_load_memory(file, size, NULL, NULL));
    REFUSES(ES2S_BAD_FORMAT, "at least 64 bytes", es2s_model_load_memory(file, 0, NULL, &model));

    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = 0;
    REFUSES(ES2S_INVALID_ARGUMENT, "expected 1..64, found 0",
            es2s_model_load_memory(file, size, &params, &model));
    params.n_threads = 65;
    REFUSES(ES2S_INVALID_ARGUMENT, "expected 1..64, found 65",
            es2s_model_load_memory(file, size, &params, &model));
    es2s_model_params_init(&params);
    params.isa = "z80";
    REFUSES(ES2S_UNSUPPORTED_CPU, "scalar", es2s_model_load_memory(file, size, &params, &model));
    CHECK(strstr(es2s_last_error(), "found \"z80\""));
    params.struct_size = 0; /* no _init */
    REFUSES(ES2S_INVALID_ARGUMENT, "es2s_model_params_init",
            es2s_model_load_memory(file, size, &params, &model));
    params.struct_size = 0xdeadbeef;
    REFUSES(ES2S_INVALID_ARGUMENT, "struct_size", es2s_model_load_memory(file, size, &params, &model));
    params.struct_size = offsetof(es2s_model_params, isa); /* a program that does not know isa yet */
    SUCCEEDS(es2s_model_load_memory(file, size, &params, &model));
    es2s_model_free(model);
    struct {
        es2s_model_params known;
        uint64_t member_of_a_later_version;
    } later;
    es2s_model_params_init(&later.known);
    later.known.struct_size = sizeof later;
    SUCCEEDS(es2s_model_load_memory(file, size, &later.known, &model));

    es2s_model_dims dims = {.struct_size = sizeof dims};
    SUCCEEDS(es2s_model_get_dims(model, &dims));
    CHECK(dims.struct_size == sizeof dims && dims.vocab_size == 37 && dims.d_model == 20 && dims.d_ff == 28 &&
          dims.n_layers == 2 && dims.n_heads == 3 && dims.d_head == 6 && dims.max_source_len == 48 &&
          dims.max_target_len == 24 && dims.decoder_start_token_id == 0 && dims.eos_token_id == 1 &&
          dims.pad_token_id == 0);
    dims = (es2s_model_dims){.struct_size = offsetof(es2s_model_dims, d_ff), .d_ff = -5};
    CHECK(es2s_model_get_dims(model, &dims) == ES2S_OK && dims.d_model == 20 && dims.d_ff == -5);
    dims.struct_size = 0;
    REFUSES(ES2S_INVALID_ARGUMENT, "struct_size", es2s_model_get_dims(model, &dims));
    REFUSES(ES2S_INVALID_ARGUMENT, "model", es2s_model_get_dims(NULL, &dims));
    REFUSES(ES2S_INVALID_ARGUMENT, "dims_out", es2s_model_get_dims(model, NULL));

    es2s_model_free(model);
    es2s_model_free(NULL);
    es2s_model_params_init(NULL);
    free(file);
}

static void sessions_take_what_they_need_and_no_more(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = (es2s_session *)(uintptr_t)1;
    es2s_session_params params;
    es2s_session_params_init(&params);
    REFUSES(ES2S_INVALID_ARGUMENT, "model", es2s_session_create(NULL, &params, &session));
    CHECK(session == NULL);
    REFUSES(ES2S_INVALID_ARGUMENT, "session_out", es2s_session_create(f.model, &params, NULL));
    for (int i = 0; i < 4; i++)
        for (int too_large = 0; too_large < 2; too_large++) {
            static const char *const names[] = {"max_batch", "max_beams", "max_source_len", "max_target_len"};
            es2s_session_params_init(&params);
            int32_t *const members[] = {&params.max_batch, &params.max_beams, &params.max_source_len,
                                        &params.max_target_len};
            *members[i] = too_large ? 1025 : 0;
            if (too_large && i >= 2) continue;
            REFUSES(ES2S_INVALID_ARGUMENT, names[i], es2s_session_create(f.model, &params, &session));
        }
    es2s_session_params_init(&params);
    params.struct_size = 3;
    REFUSES(ES2S_INVALID_ARGUMENT, "es2s_session_params_init",
            es2s_session_create(f.model, &params, &session));

    /* A program that knows max_batch only. */
    params = (es2s_session_params){.struct_size = offsetof(es2s_session_params, max_beams), .max_batch = 2};
    SUCCEEDS(es2s_session_create(f.model, &params, &session));
    set_source(&f, session, 1, 0);
    const size_t two = es2s_session_memory(session);
    es2s_session_free(session);

    /* A session for one more source costs its cross-attention keys and values, one row of each buffer, no
     * more. */
    session = create(&f, 1, 1);
    const size_t one = es2s_session_memory(session), cross = 2 * 2 * 3 * 48 * 6 * 4,
                 self = 2 * 2 * 3 * 24 * 6 * 4;
    CHECK(two - one > cross + self && two - one < cross + self + 4096);
    es2s_session_free(session);
    es2s_session_free(NULL);
    es2s_session_clear(NULL);
    CHECK(es2s_session_memory(NULL) == 0);
    unload(&f);

    /* More than can be addressed, or than a position of the cache can be numbered. */
    tiny_options o = tiny_defaults();
    o.max_target_len = o.max_source_len = 65536;
    f = load(o, 1, NULL);
    es2s_session_params_init(&params);
    params.max_batch = 1024;
    params.max_beams = 256;
    params.max_source_len = params.max_target_len = INT32_MAX;
    REFUSES(ES2S_INVALID_ARGUMENT, "max_target_len", es2s_session_create(f.model, &params, &session));
    unload(&f);
}

static void wrong_order_and_capacity_are_refused_without_harm(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 3, 2);
    const int32_t tokens[6] = {0};
    float logits[6 * 37], alone[37], cross_kv[2 * 2 * 3 * 6] = {0};

    REFUSES(ES2S_STATE, "es2s_session_set_source first", es2s_session_step(session, tokens, 1, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "row", es2s_session_set_source(session, -1, cross_kv, 1));
    REFUSES(ES2S_CAPACITY, "row", es2s_session_set_source(session, 3, cross_kv, 1));
    REFUSES(ES2S_INVALID_ARGUMENT, "source_len: expected 1..48",
            es2s_session_set_source(session, 0, cross_kv, 0));
    REFUSES(ES2S_CAPACITY, "source_len: expected at most 48",
            es2s_session_set_source(session, 0, cross_kv, 49));
    REFUSES(ES2S_INVALID_ARGUMENT, "cross_kv", es2s_session_set_source(session, 0, NULL, 1));
    REFUSES(ES2S_INVALID_ARGUMENT, "session", es2s_session_set_source(NULL, 0, cross_kv, 1));

    set_source(&f, session, 0, 0);
    set_source(&f, session, 2, 2);
    REFUSES(ES2S_STATE, "row 2 set but not row 1", es2s_session_step(session, tokens, 2, logits));
    set_source(&f, session, 1, 1);
    REFUSES(ES2S_INVALID_ARGUMENT, "session", es2s_session_step(NULL, tokens, 3, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "tokens", es2s_session_step(session, NULL, 3, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "logits_out", es2s_session_step(session, tokens, 3, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "n_rows", es2s_session_step(session, tokens, 0, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "n_rows", es2s_session_step(session, tokens, -3, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "multiple of the 3 sources",
            es2s_session_step(session, tokens, 4, logits));
    REFUSES(ES2S_CAPACITY, "expected at most 2", es2s_session_step(session, tokens, 9, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "tokens[2]",
            es2s_session_step(session, (const int32_t[]){0, 0, 37}, 3, logits));
    REFUSES(ES2S_STATE, "empty caches", es2s_session_reorder_cache(session, tokens, 3));

    SUCCEEDS(es2s_session_step(session, tokens, 3, logits));
    REFUSES(ES2S_STATE, "es2s_session_reorder_cache", es2s_session_step(session, tokens, 6, logits));
    REFUSES(ES2S_INVALID_ARGUMENT, "beam_idx", es2s_session_reorder_cache(session, NULL, 3));
    REFUSES(ES2S_INVALID_ARGUMENT, "session", es2s_session_reorder_cache(NULL, tokens, 3));
    REFUSES(ES2S_INVALID_ARGUMENT, "beam_idx[1]: expected 1..1",
            es2s_session_reorder_cache(session, tokens, 3));
    REFUSES(ES2S_INVALID_ARGUMENT, "found -1",
            es2s_session_reorder_cache(session, (const int32_t[]){-1, 1, 2}, 3));
    REFUSES(ES2S_INVALID_ARGUMENT, "n_rows", es2s_session_reorder_cache(session, tokens, 5));
    REFUSES(ES2S_CAPACITY, "expected at most 2", es2s_session_reorder_cache(session, tokens, 9));

    /* None of that was noticed by what is being decoded. */
    int32_t history[24] = {0};
    for (int32_t t = 1; t < 24; t++) {
        const int32_t step[] = {t, t, history[t] = t + 1};
        SUCCEEDS(es2s_session_step(session, step, 3, logits));
    }
    decode_alone(&f, 2, history, 24, alone);
    CHECK(same_bits(&f, alone, logits + 2 * 37));

    REFUSES(ES2S_CAPACITY, "expected at most 24", es2s_session_step(session, tokens, 3, logits));
    CHECK(same_bits(&f, alone, logits + 2 * 37)); /* untouched */
    set_source(&f, session, 0, 0);
    REFUSES(ES2S_CAPACITY, "expected at most 24", es2s_session_step(session, tokens, 3, logits));
    es2s_session_clear(session);
    REFUSES(ES2S_STATE, "es2s_session_set_source first", es2s_session_step(session, tokens, 3, logits));
    set_source(&f, session, 0, 2);
    for (int32_t t = 0; t < 24; t++)
        SUCCEEDS(es2s_session_step(session, &history[t], 1, logits));
    CHECK(same_bits(&f, alone, logits));
    es2s_session_free(session);
    unload(&f);
}

/* What an encoder gone wrong may send: answers are meaningless, but the next source is decoded as ever. */
static void nan_and_infinite_sources_do_no_harm(void) {
    for (int variant = 0; variant < 2; variant++) {
        tiny_options o = tiny_defaults();
        if (variant == 1) o.is_int8 = false, o.head_rescore = 0;
        fixture f = load(o, 1, NULL);
        es2s_session *session = create(&f, 1, 2);
        float cross_kv[2 * 2 * 3 * 6], logits[2 * 37], alone[37];
        static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38F};
        const int32_t tokens[] = {0, 4};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            for (size_t j = 0; j < sizeof cross_kv / sizeof *cross_kv; j++)
                cross_kv[j] = j % 3 == 0 ? bad[i] : 1;
            SUCCEEDS(es2s_session_set_source(session, 0, cross_kv, 1));
            for (int32_t t = 0; t < 3; t++)
                SUCCEEDS(es2s_session_step(session, tokens, 2, logits));
            es2s_generate_params params;
            es2s_generate_params_init(f.model, &params);
            int32_t out[24], len;
            float score;
            for (params.num_beams = 1; params.num_beams <= 2; params.num_beams++) {
                SUCCEEDS(es2s_session_generate(session, &params, out, &len, &score, NULL, NULL));
                CHECK(len >= 1 && len <= 24);
                for (int32_t t = 0; t < len; t++)
                    CHECK(out[t] >= 0 && out[t] < 37);
            }
        }
        set_source(&f, session, 0, 3);
        SUCCEEDS(es2s_session_step(session, tokens, 1, logits));
        decode_alone(&f, 3, tokens, 1, alone);
        CHECK(same_bits(&f, alone, logits));
        es2s_session_free(session);
        unload(&f);
    }
}

static void statuses_have_names(void) {
    for (int status = ES2S_OK; status >= ES2S_CANCELLED; status--)
        CHECK(strcmp(es2s_status_str((es2s_status)status), "unknown status") != 0);
    CHECK(strcmp(es2s_status_str((es2s_status)-100), "unknown status") == 0);
    CHECK(es2s_version() == 0x000100);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"a_row_has_the_same_bits_alone_in_a_beam_and_in_a_batch",
         a_row_has_the_same_bits_alone_in_a_beam_and_in_a_batch, 0},
        {"reordered_beams_equal_recomputation", reordered_beams_equal_recomputation, 0},
        {"a_new_source_restarts_its_rows_and_no_others", a_new_source_restarts_its_rows_and_no_others, 0},
        {"restarted_sources_may_have_another_number_of_beams",
         restarted_sources_may_have_another_number_of_beams, 0},
        {"threads_and_isa_do_not_change_a_bit", threads_and_isa_do_not_change_a_bit, 1},
        {"embeddings_are_rows_of_the_table", embeddings_are_rows_of_the_table, 0},
        {"models_take_complete_older_and_newer_params", models_take_complete_older_and_newer_params, 0},
        {"sessions_take_what_they_need_and_no_more", sessions_take_what_they_need_and_no_more, 0},
        {"wrong_order_and_capacity_are_refused_without_harm",
         wrong_order_and_capacity_are_refused_without_harm, 0},
        {"nan_and_infinite_sources_do_no_harm", nan_and_infinite_sources_do_no_harm, 0},
        {"statuses_have_names", statuses_have_names, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
