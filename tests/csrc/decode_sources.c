/*
 * Decodes stored sources and prints what must not depend on the CPU. test_cpu_parity.py runs it, under
 * emulation too, and compares.
 *
 *     decode_sources decoder.weights sources.bin ISA N_THREADS BATCH [sample]
 *
 * sources.bin, in 32-bit little-endian words: n_sources, max_new_tokens; then for each source source_len, a
 * float32 scale and int8 codes [n_layers, 2, n_heads, source_len, d_head] filled up to a word, whose product
 * is the encoder's cross K/V. BATCH sources are decoded together. One line a source: the FNV-1a hash of the
 * bits of all its logits, float32 [n_tokens, vocab_size], then the greedy tokens, or with `sample` drawn
 * ones.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_s2s.h"

enum { MAX_BATCH = 8 };

static void stop(const char *why) {
    fprintf(stderr, "decode_sources: %s\n", why);
    exit(1);
}

static void must(es2s_status status) {
    if (status != ES2S_OK) stop(es2s_last_error());
}

static void *must_alloc(size_t size) {
    void *block = calloc(size, 1);
    if (!block) stop("out of memory");
    return block;
}

static void must_read(FILE *file, void *data, size_t size) {
    if (fread(data, 1, size, file) != size) stop("sources.bin is too short");
}

static int32_t read_int32(FILE *file) {
    int32_t value;
    must_read(file, &value, sizeof value);
    return value;
}

static uint64_t hash_floats(uint64_t hash, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001B3;
    }
    return hash;
}

/* The next source of the file, as the session's row. */
static void read_source(FILE *file, const es2s_model_dims *dims, es2s_session *session, int32_t row) {
    const int32_t source_len = read_int32(file);
    float scale;
    must_read(file, &scale, sizeof scale);
    const size_t n = (size_t)(2 * dims->n_layers * dims->n_heads * dims->d_head) * (size_t)source_len;
    int8_t *codes = must_alloc(n + 3);
    float *cross_kv = must_alloc(n * sizeof *cross_kv);
    must_read(file, codes, (n + 3) / 4 * 4);
    for (size_t i = 0; i < n; i++)
        cross_kv[i] = (float)codes[i] * scale;
    must(es2s_session_set_source(session, row, cross_kv, source_len));
    free(cross_kv);
    free(codes);
}

/* Feeds the tokens back and hashes each row's logits, as long as the row lives. */
static void hash_logits(es2s_session *session, const es2s_model_dims *dims, int32_t n_rows,
                        const int32_t *tokens /* [n_rows, max_tokens] */, const int32_t *n_tokens,
                        int32_t max_tokens, uint64_t *hashes) {
    const size_t vocab_size = (size_t)dims->vocab_size;
    float *logits = must_alloc((size_t)n_rows * vocab_size * sizeof *logits);
    int32_t inputs[MAX_BATCH], longest = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        inputs[r] = dims->decoder_start_token_id;
        hashes[r] = 0xCBF29CE484222325;
        longest = n_tokens[r] > longest ? n_tokens[r] : longest;
    }
    for (int32_t t = 0; t < longest; t++) {
        must(es2s_session_step(session, inputs, n_rows, logits));
        for (int32_t r = 0; r < n_rows; r++) {
            if (t >= n_tokens[r]) continue;
            hashes[r] = hash_floats(hashes[r], logits + (size_t)r * vocab_size, vocab_size);
            inputs[r] = tokens[r * max_tokens + t];
        }
    }
    free(logits);
}

int main(int argc, char **argv) {
    const bool samples = argc == 7 && strcmp(argv[6], "sample") == 0;
    if (argc != 6 && !samples) stop("expected decoder.weights sources.bin ISA N_THREADS BATCH [sample]");
    es2s_model *model = NULL;
    es2s_model_params model_params;
    es2s_model_params_init(&model_params);
    model_params.isa = argv[3];
    model_params.n_threads = (int32_t)strtol(argv[4], NULL, 10);
    const int32_t batch = (int32_t)strtol(argv[5], NULL, 10);
    if (batch < 1 || batch > MAX_BATCH) stop("expected BATCH in [1, 8]");
    must(es2s_model_load(argv[1], &model_params, &model));
    es2s_model_dims dims = {.struct_size = sizeof dims};
    must(es2s_model_get_dims(model, &dims));
    FILE *file = fopen(argv[2], "rb");
    if (!file) stop("cannot open sources.bin");
    const int32_t n_sources = read_int32(file);

    es2s_generate_params generate;
    es2s_generate_params_init(model, &generate);
    generate.num_beams = generate.num_return_sequences = 1;
    generate.max_new_tokens = read_int32(file);
    uint64_t seeds[MAX_BATCH];
    if (samples) {
        generate.do_sample = 1;
        generate.temperature = 1.7;
        generate.top_k = 400;
        generate.top_p = 0.95;
        generate.min_p = 0.001;
        generate.typical_p = 0.98;
        generate.seeds = seeds;
    }
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_batch = batch;
    params.max_target_len = generate.max_new_tokens;
    es2s_session *session = NULL;
    must(es2s_session_create(model, &params, &session));
    int32_t *tokens = must_alloc((size_t)(batch * generate.max_new_tokens) * sizeof *tokens);

    for (int32_t first = 0; first < n_sources; first += batch) {
        const int32_t n_rows = n_sources - first < batch ? n_sources - first : batch;
        int32_t n_tokens[MAX_BATCH];
        float scores[MAX_BATCH];
        uint64_t hashes[MAX_BATCH];
        es2s_session_clear(session);
        for (int32_t r = 0; r < n_rows; r++) {
            read_source(file, &dims, session, r);
            seeds[r] = (uint64_t)(first + r);
        }
        must(es2s_session_generate(session, &generate, tokens, n_tokens, scores, NULL, NULL));
        hash_logits(session, &dims, n_rows, tokens, n_tokens, generate.max_new_tokens, hashes);
        for (int32_t r = 0; r < n_rows; r++) {
            printf("%016" PRIx64, hashes[r]);
            for (int32_t t = 0; t < n_tokens[r]; t++)
                printf(" %" PRId32, tokens[r * generate.max_new_tokens + t]);
            printf("\n");
        }
    }
    free(tokens);
    es2s_session_free(session);
    es2s_model_free(model);
    fclose(file);
    return 0;
}
