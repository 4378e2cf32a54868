/*
 * The encoder of small random models, of every kind of features: a source has the same bits on every kernel
 * set, with any number of threads and in any session; files that do not fit are refused; a call that is given
 * up leaves no source. test_native_encoder.py compares the numbers with numpy.
 */
#include <stdlib.h>

#include "check_status.h"
#include "kernels/kernels.h"
#include "tiny_weights.h"

enum { MAX_LEN = 150, VOCAB = 37, N_FLOATS = 2 * 2 * 3 * MAX_LEN * 6 };

typedef struct files {
    tiny_options decoder, encoder;
    uint8_t *decoder_file, *encoder_file;
    size_t decoder_size, encoder_size;
} files;

/* Features `kind` of 0..N_KINDS-1; the encoder's sizes are not the decoder's. */
enum { N_KINDS = 4 };
static files write_files(int kind) {
    files f = {.decoder = tiny_defaults()};
    f.decoder.max_source_len = MAX_LEN;
    f.encoder = f.decoder;
    f.encoder.n_layers = 3;
    f.encoder.n_heads = 2;
    f.encoder.d_head = 9;
    f.encoder.d_ff = 26;
    f.encoder.is_int8 = kind != 1;
    f.encoder.layer_norm = f.encoder.linear_bias = kind >= 2;
    f.encoder.post_norm = f.encoder.embedding_norm = f.encoder.no_final_norm = kind == 2;
    f.encoder.position_table = kind == 2;
    f.encoder.bias_per_layer = kind == 3;
    f.encoder.ffn = kind == 0 ? "gated_gelu_tanh" : kind == 1 ? "relu" : kind == 2 ? "gelu_erf" : "silu";
    f.decoder.source_vocab_size = kind == 3 ? VOCAB + 4 : 0;
    f.decoder.kv_cache_f16 = kind >= 2;
    f.decoder_file = tiny_weights(&f.decoder, &f.decoder_size);
    f.encoder_file = tiny_encoder(&f.encoder, &f.decoder, &f.encoder_size);
    return f;
}

static void free_files(files *f) {
    free(f->decoder_file);
    free(f->encoder_file);
}

static es2s_status load(const files *f, int32_t n_threads, const char *isa, es2s_model **model) {
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = n_threads;
    params.isa = isa;
    params.encoder = f->encoder_file;
    params.encoder_size = f->encoder_size;
    return es2s_model_load_memory(f->decoder_file, f->decoder_size, &params, model);
}

static es2s_session *create(const es2s_model *model, int32_t max_batch, int32_t max_source_len) {
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_batch = max_batch;
    params.max_source_len = max_source_len;
    es2s_session *session = NULL;
    SUCCEEDS(es2s_session_create(model, &params, &session));
    return session;
}

static void fill_ids(int32_t *ids, int32_t n) {
    uint64_t seed = (uint64_t)n;
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(tiny_random(&seed) % VOCAB);
}

/* float[2, 2, 3, n, 6], and the mean of the hidden states, float[20] */
static void encode(es2s_session *session, int32_t row, int32_t n, float *cross_kv, float *mean) {
    int32_t ids[MAX_LEN];
    fill_ids(ids, n);
    SUCCEEDS(es2s_session_encode(session, row, ids, n, -1, NULL, mean));
    SUCCEEDS(es2s_session_get_source(session, row, cross_kv));
}

static void a_source_has_the_same_bits_everywhere(void) {
    static const int32_t lens[] = {1, 2, 15, 16, 17, 31, 63, 64, 65, 128, 129, 150};
    static float expected[N_FLOATS], found[N_FLOATS];
    for (int kind = 0; kind < N_KINDS; kind++) {
        files f = write_files(kind);
        es2s_model *scalar;
        SUCCEEDS(load(&f, 1, "scalar", &scalar));
        for (int32_t n_threads = 1; n_threads <= 3; n_threads++) {
            es2s_model *model;
            SUCCEEDS(load(&f, n_threads, check_isa(), &model));
            es2s_session *wide = create(model, 2, MAX_LEN);
            for (size_t l = 0; l < sizeof lens / sizeof *lens; l++) {
                const size_t n_bytes = N_FLOATS / MAX_LEN * (size_t)lens[l] * sizeof(float);
                float mean[20], expected_mean[20];
                check_case("kind=%d n_threads=%d n=%d", kind, n_threads, lens[l]);
                es2s_session *alone = create(scalar, 1, lens[l]);
                encode(alone, 0, lens[l], expected, expected_mean);
                encode(wide, 1, lens[l], found, mean);
                CHECK(memcmp(found, expected, n_bytes) == 0);
                CHECK(memcmp(mean, expected_mean, sizeof mean) == 0);
                CHECK(found[0] != found[n_bytes / sizeof *found - 1]);
                es2s_session_free(alone);
            }
            es2s_session_free(wide);
            es2s_model_free(model);
        }
        es2s_model_free(scalar);
        free_files(&f);
    }
}

static void an_encoded_source_decodes_as_one_that_was_set(void) {
    static float cross_kv[N_FLOATS];
    for (int kind = 0; kind <= 2; kind += 2) { /* keys and values in float32, and in float16 */
        files f = write_files(kind);
        es2s_model *model;
        SUCCEEDS(load(&f, 1, NULL, &model));
        es2s_session *session = create(model, 1, MAX_LEN), *other = create(model, 1, MAX_LEN);
        float logits[VOCAB], expected[VOCAB];
        const int32_t start = 0;
        encode(session, 0, 40, cross_kv, NULL);
        SUCCEEDS(es2s_session_step(session, &start, 1, logits));
        SUCCEEDS(es2s_session_set_source(other, 0, cross_kv, 40));
        SUCCEEDS(es2s_session_step(other, &start, 1, expected));
        CHECK(memcmp(logits, expected, sizeof logits) == 0);
        encode(session, 0, 40, cross_kv, NULL); /* begins the row anew */
        SUCCEEDS(es2s_session_step(session, &start, 1, logits));
        CHECK(memcmp(logits, expected, sizeof logits) == 0);
        es2s_session_free(session);
        es2s_session_free(other);
        es2s_model_free(model);
        free_files(&f);
    }
}

static void keys_and_values_in_float16_are_those_in_float32_rounded_in_half_the_memory(void) {
    static float narrow[N_FLOATS], wide[N_FLOATS];
    es2s_kernels kernels;
    CHECK(es2s_kernels_select(&kernels, "scalar") == 0);
    size_t memory[2];
    int32_t max_new = 0;
    for (int is_narrow = 0; is_narrow < 2; is_narrow++) {
        files f = write_files(2);
        free(f.decoder_file);
        f.decoder.kv_cache_f16 = is_narrow;
        f.decoder_file = tiny_weights(&f.decoder, &f.decoder_size);
        es2s_model *model;
        SUCCEEDS(load(&f, 1, NULL, &model));
        es2s_session *session = create(model, 4, MAX_LEN);
        encode(session, 3, 40, is_narrow ? narrow : wide, NULL);
        memory[is_narrow] = es2s_session_memory(session);
        max_new = f.decoder.max_target_len;
        es2s_session_free(session);
        es2s_model_free(model);
        free_files(&f);
    }
    for (size_t i = 0; i < 2 * 2 * 3 * 40 * 6; i++) {
        uint16_t half;
        float rounded;
        kernels.narrow_f16(&wide[i], 1, &half);
        kernels.widen_f16(&half, 1, &rounded);
        CHECK(narrow[i] == rounded);
    }
    const size_t n_new = 4 * (size_t)max_new; /* tokens of what is decoded */
    CHECK(memory[0] - memory[1] == sizeof(uint16_t) * (4 * N_FLOATS + 2 * 2 * 3 * n_new * 6));
}

static void arguments_are_checked(void) {
    files f = write_files(3);
    es2s_model *model;
    SUCCEEDS(load(&f, 1, NULL, &model));
    es2s_session *session = create(model, 2, 20);
    int32_t ids[MAX_LEN] = {0};
    float out[1];
    REFUSES(ES2S_INVALID_ARGUMENT, "token_ids", es2s_session_encode(session, 0, NULL, 5, -1, NULL, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "row + 1", es2s_session_encode(session, -1, ids, 5, -1, NULL, NULL));
    REFUSES(ES2S_CAPACITY, "row + 1", es2s_session_encode(session, 2, ids, 5, -1, NULL, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "n: expected 1", es2s_session_encode(session, 0, ids, 0, -1, NULL, NULL));
    REFUSES(ES2S_CAPACITY, "n: expected at most 20",
            es2s_session_encode(session, 0, ids, 21, -1, NULL, NULL));
    ids[3] = VOCAB + 3; /* the last of the encoder's own table */
    SUCCEEDS(es2s_session_encode(session, 0, ids, 5, -1, NULL, NULL));
    ids[3] = VOCAB + 4;
    REFUSES(ES2S_INVALID_ARGUMENT, "token_ids[3]", es2s_session_encode(session, 0, ids, 5, -1, NULL, NULL));
    REFUSES(ES2S_STATE, "row 1", es2s_session_get_source(session, 1, out));
    REFUSES(ES2S_INVALID_ARGUMENT, "row", es2s_session_get_source(session, 2, out));
    es2s_session_free(session);
    es2s_model_free(model);
    SUCCEEDS(es2s_model_load_memory(f.decoder_file, f.decoder_size, NULL, &model));
    session = create(model, 1, 20);
    REFUSES(ES2S_STATE, "with an encoder", es2s_session_encode(session, 0, ids, 3, -1, NULL, NULL));
    es2s_session_free(session);
    es2s_model_free(model);
    free_files(&f);
}

static void a_call_that_is_given_up_leaves_no_source(void) {
    files f = write_files(0);
    es2s_model *model;
    SUCCEEDS(load(&f, 1, NULL, &model));
    es2s_session *session = create(model, 1, 20);
    const int32_t ids[5] = {0}, cancel = 1, go_on = 0;
    float logits[VOCAB];
    SUCCEEDS(es2s_session_encode(session, 0, ids, 5, -1, &go_on, NULL));
    SUCCEEDS(es2s_session_step(session, ids, 1, logits));
    REFUSES(ES2S_CANCELLED, "cancelled", es2s_session_encode(session, 0, ids, 5, -1, &cancel, NULL));
    REFUSES(ES2S_STATE, "sources", es2s_session_step(session, ids, 1, logits));
    REFUSES(ES2S_CANCELLED, "deadline", es2s_session_encode(session, 0, ids, 5, 0, NULL, NULL));
    REFUSES(ES2S_STATE, "sources", es2s_session_step(session, ids, 1, logits));
    SUCCEEDS(es2s_session_encode(session, 0, ids, 5, INT64_MAX, &go_on, NULL));
    SUCCEEDS(es2s_session_step(session, ids, 1, logits));
    es2s_session_free(session);
    es2s_model_free(model);
    free_files(&f);
}

static void refused(const files *f, const char *text) {
    es2s_model *model;
    REFUSES(ES2S_BAD_FORMAT, text, load(f, 1, NULL, &model));
    CHECK(model == NULL);
}

/* Another encoder for the same decoder. */
static void rewrite(files *f) {
    free(f->encoder_file);
    f->encoder_file = tiny_encoder(&f->encoder, &f->decoder, &f->encoder_size);
}

static void an_encoder_that_does_not_fit_is_refused(void) {
    files f = write_files(2);
    f.encoder.d_model = 24;
    rewrite(&f);
    refused(&f, "encoder.weights: key \"d_model\": expected 20");
    f.encoder.d_model = f.decoder.d_model;
    f.encoder.max_source_len = MAX_LEN - 1;
    rewrite(&f);
    refused(&f, "encoder.weights: tensor \"position_embedding.weight\": expected a row for each of 150");
    f.encoder.max_source_len = MAX_LEN;
    f.encoder.extra_tensor = "more";
    rewrite(&f);
    refused(&f, "encoder.weights: tensor \"more\"");
    f.encoder.extra_tensor = NULL;
    f.encoder.extra_key = "more";
    rewrite(&f);
    refused(&f, "encoder.weights: key \"more\"");
    f.encoder.extra_key = NULL;
    f.decoder.n_layers++;
    free(f.decoder_file);
    f.decoder_file = tiny_weights(&f.decoder, &f.decoder_size);
    f.decoder.n_layers--;
    rewrite(&f);
    refused(&f, "encoder.weights: tensor \"decoder_layers.2.cross_attn.kv.weight\"");
    free_files(&f);

    f = write_files(0);
    uint8_t *columns = tiny_find_tensor(f.encoder_file, "position_bias") + 80;
    uint8_t *size = tiny_find_tensor(f.encoder_file, "position_bias") + 112;
    *columns = 6; /* [2, 7] becomes [2, 6], with the 8 bytes after it as a part of the gap */
    *size = 48;
    memset(tiny_tensor_data(f.encoder_file, "position_bias") + 48, 0, 8);
    tiny_seal(f.encoder_file, f.encoder_size);
    refused(&f, "odd number of columns");
    free_files(&f);
}

/* A key of a file, as an integer; the hash is set right. */
static void set_key(uint8_t *file, size_t size, const char *name, int64_t value) {
    memcpy(tiny_find_key(file, name) + 56, &value, sizeof value);
    tiny_seal(file, size);
}

static void what_no_writer_writes_is_refused(void) {
    files f = write_files(3);
    set_key(f.decoder_file, f.decoder_size, "source_vocab_size", 0);
    refused(&f, "key \"source_vocab_size\": expected no such key for its default, found 0");
    free_files(&f);

    f = write_files(2);
    memcpy(tiny_find_key(f.decoder_file, "kv_cache_dtype") + 56, "float32", 7);
    tiny_seal(f.decoder_file, f.decoder_size);
    refused(&f, "key \"kv_cache_dtype\": expected no such key for its default, found float32");
    memcpy(tiny_find_key(f.decoder_file, "kv_cache_dtype") + 56, "float64", 7);
    tiny_seal(f.decoder_file, f.decoder_size);
    refused(&f, "key \"kv_cache_dtype\": expected float32, float16, found another value");
    free_files(&f);

    f = write_files(2);
    f.decoder.max_target_len = 65537; /* the table's rows; then the key, to what it may be */
    f.decoder.position_table = true;
    free(f.decoder_file);
    f.decoder_file = tiny_weights(&f.decoder, &f.decoder_size);
    set_key(f.decoder_file, f.decoder_size, "max_target_len", 24);
    set_key(f.decoder_file, f.decoder_size, "generation.max_new_tokens", 24);
    refused(&f, "tensor \"position_embedding.weight\": expected 65536 rows at most, found 65537");
    free_files(&f);
}

static void a_cut_or_changed_file_never_crashes(void) {
    files f = write_files(0);
    const size_t size = f.encoder_size;
    es2s_model *model;
    for (size_t n = 0; n < size; n += 1 + n / 40) {
        check_case("cut to %zu bytes", n);
        f.encoder_size = n;
        CHECK(load(&f, 1, NULL, &model) == ES2S_BAD_FORMAT && model == NULL);
    }
    f.encoder_size = size;
    int n_loaded = 0;
    for (int i = 0; i < 3000; i++) {
        const size_t at = check_random() % (size < 9000 ? size : 9000);
        const uint8_t before = f.encoder_file[at];
        check_case("byte %zu changed", at);
        f.encoder_file[at] ^= (uint8_t)(1u << check_random() % 8);
        tiny_seal(f.encoder_file, size);
        const es2s_status status = load(&f, 1, NULL, &model);
        CHECK(status == ES2S_OK || status == ES2S_BAD_FORMAT || status == ES2S_UNSUPPORTED_VERSION);
        n_loaded += status == ES2S_OK;
        if (status == ES2S_OK) {
            es2s_session *session = create(model, 1, 20);
            const int32_t ids[5] = {1, 2, 3, 4, 5};
            SUCCEEDS(es2s_session_encode(session, 0, ids, 5, -1, NULL, NULL));
            es2s_session_free(session);
            es2s_model_free(model);
        }
        f.encoder_file[at] = before;
    }
    CHECK(n_loaded > 0 && n_loaded < 3000);
    free_files(&f);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"a_source_has_the_same_bits_everywhere", a_source_has_the_same_bits_everywhere, 1},
        {"an_encoded_source_decodes_as_one_that_was_set", an_encoded_source_decodes_as_one_that_was_set, 0},
        {"keys_and_values_in_float16",
         keys_and_values_in_float16_are_those_in_float32_rounded_in_half_the_memory, 0},
        {"arguments_are_checked", arguments_are_checked, 0},
        {"a_call_that_is_given_up_leaves_no_source", a_call_that_is_given_up_leaves_no_source, 0},
        {"an_encoder_that_does_not_fit_is_refused", an_encoder_that_does_not_fit_is_refused, 0},
        {"what_no_writer_writes_is_refused", what_no_writer_writes_is_refused, 0},
        {"a_cut_or_changed_file_never_crashes", a_cut_or_changed_file_never_crashes, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
