/* Any byte string either loads or is refused with a sentence; nothing outside it is read. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check_status.h"
#include "sha256.h"
#include "tiny_weights.h"

#define BAD         ES2S_BAD_FORMAT
#define UNSUPPORTED ES2S_UNSUPPORTED_VERSION

static es2s_status load(const void *data, size_t size, bool verify, es2s_model **model_out) {
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.verify_data = verify;
    return es2s_model_load_memory(data, size, &params, model_out);
}

/* Logits of a fixed step: float[vocab_size] of the tiny models. */
static void decode(es2s_model *model, const tiny_options *o, float *logits) {
    const size_t n = (size_t)(o->n_layers * 2 * o->n_heads * 3 * o->d_head);
    float *cross_kv = malloc(n * sizeof *cross_kv);
    uint64_t seed = 5;
    tiny_fill(&seed, 1, n, cross_kv);
    es2s_session *session;
    SUCCEEDS(es2s_session_create(model, NULL, &session));
    SUCCEEDS(es2s_session_set_source(session, 0, cross_kv, 3));
    for (int32_t token = 0; token < 3; token++)
        SUCCEEDS(es2s_session_step(session, &token, 1, logits));
    es2s_session_free(session);
    free(cross_kv);
}

static void sha256_of_the_standards_examples_is_the_standards(void) {
    static const struct {
        const char *text;
        uint8_t first[4];
    } examples[] = {{"", {0xe3, 0xb0, 0xc4, 0x42}},
                    {"abc", {0xba, 0x78, 0x16, 0xbf}},
                    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", {0x24, 0x8d, 0x6a, 0x61}}};
    uint8_t digest[32];
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        es2s_sha256(examples[i].text, strlen(examples[i].text), digest);
        CHECK(memcmp(digest, examples[i].first, 4) == 0);
    }
    /* One million times "a" ends in the middle of a block. */
    uint8_t *million = malloc(1000000);
    memset(million, 'a', 1000000);
    es2s_sha256(million, 1000000, digest);
    CHECK(memcmp(digest, (const uint8_t[]){0xcd, 0xc7, 0x6e, 0x5c}, 4) == 0);
    free(million);
}

static void sha256_by_instructions_is_the_portable_one(void) {
    es2s_sha256_blocks *const fastest = es2s_sha256_fastest();
    uint8_t bytes[2][1 + 5 * 64];
    uint64_t seed = 11;
    for (int round = 0; round < 400; round++) {
        uint32_t state[2][8], expected[2][8];
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i / sizeof bytes[0]][i % sizeof bytes[0]] = (uint8_t)(tiny_random(&seed) >> 32);
        for (size_t i = 0; i < 16; i++)
            expected[i / 8][i % 8] = state[i / 8][i % 8] = (uint32_t)(tiny_random(&seed) >> 16);
        const size_t n = (size_t)round % 6;
        const uint8_t *const blocks[] = {bytes[0] + round % 2, bytes[1] + round / 6 % 2};
        const int n_streams = 1 + round / 12 % 2;
        for (int s = 0; s < n_streams; s++)
            es2s_sha256_blocks_portable(&expected[s], &blocks[s], 1, n);
        fastest(state, blocks, n_streams, n);
        CHECK(memcmp(state, expected, sizeof state) == 0);
    }
}

static void sha256_of_two_pieces_is_that_of_each(void) {
    uint8_t bytes[2][300];
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i / sizeof bytes[0]][i % sizeof bytes[0]] = (uint8_t)(tiny_random(&seed) >> 32);
    for (size_t i = 0; i < 300; i++) {
        const size_t sizes[] = {i, i * 7 % 300};
        uint8_t digests[2][32], digest[32];
        es2s_sha256_two((const void *[]){bytes[0], bytes[1]}, sizes, digests);
        for (int s = 0; s < 2; s++) {
            es2s_sha256(bytes[s], sizes[s], digest);
            CHECK(memcmp(digests[s], digest, sizeof digest) == 0);
        }
    }
}

static void every_variant_loads_at_every_alignment(void) {
    static const char *const ffns[] = {"relu",       "gelu_tanh",       "gelu_erf",       "silu",
                                       "gated_relu", "gated_gelu_tanh", "gated_gelu_erf", "gated_silu"};
    uint64_t seed = 1;
    for (int variant = 0; variant < 64; variant++) {
        tiny_options o = tiny_defaults();
        const uint64_t bits = tiny_random(&seed);
        o.ffn = ffns[variant % 8];
        o.is_int8 = variant / 8 % 2;
        o.is_tied = variant / 16 % 2;
        o.position_table = variant / 32 % 2;
        o.bias_per_layer = !o.position_table && bits & 1;
        o.layer_norm = bits >> 1 & 1;
        o.post_norm = bits >> 2 & 1;
        o.embedding_norm = bits >> 3 & 1;
        o.no_final_norm = bits >> 4 & 1;
        o.linear_bias = bits >> 5 & 1;
        o.final_logits_bias = bits >> 6 & 1;
        o.source_vocab_size = bits >> 7 & 1 ? 41 : 0;
        o.kv_cache_f16 = bits >> 8 & 1;
        o.head_rescore = o.is_int8 ? o.head_rescore : 0;
        o.extra_key = variant % 5 == 0 ? "ext.note" : NULL;
        size_t size;
        uint8_t *file = tiny_weights(&o, &size);
        float first[37], logits[37];
        for (size_t shift = 0; shift < 8; shift++) {
            uint8_t *moved = aligned_alloc(64, size + 64);
            memcpy(moved + shift, file, size);
            es2s_model *model;
            SUCCEEDS(load(moved + shift, size, true, &model));
            decode(model, &o, logits);
            if (shift == 0) memcpy(first, logits, sizeof first);
            CHECK(memcmp(first, logits, sizeof first) == 0);
            es2s_model_free(model);
            free(moved);
        }
        for (int i = 0; i < 37; i++)
            CHECK(isfinite(first[i]));
        free(file);
    }
}

static void every_prefix_is_refused(void) {
    const tiny_options o = tiny_defaults();
    size_t size;
    uint8_t *file = tiny_weights(&o, &size);
    es2s_model *model;
    for (size_t length = 0; length < size; length++) {
        check_case("length=%zu", length);
        uint8_t *prefix = check_alloc(length); /* an unreadable page follows */
        memcpy(prefix, file, length);
        CHECK(load(prefix, length, false, &model) == BAD && model == NULL);
    }
    uint8_t *longer = calloc(1, size + 64);
    memcpy(longer, file, size);
    CHECK(load(longer, size + 1, false, &model) == ES2S_BAD_FORMAT);
    CHECK(load(longer, size + 64, false, &model) == ES2S_BAD_FORMAT);
    free(longer);
    free(file);
}

static void flipped_bits_are_refused_or_harmless(void) {
    tiny_options o = tiny_defaults();
    o.n_layers = 1;
    size_t size;
    uint8_t *file = tiny_weights(&o, &size);
    const size_t tables_end = (size_t)(tiny_tensor_data(file, "embedding.weight") - file);
    size_t n_loaded = 0;
    es2s_model *model;
    for (size_t bit = 0; bit < tables_end * 8; bit++) {
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (load(file, size, false, &model) == ES2S_OK) { /* another special token, default, prefix, ... */
            float logits[37];
            decode(model, &o, logits);
            es2s_model_free(model);
            n_loaded++;
        }
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK(n_loaded > 32 * 8); /* at least those of the digest, which was not compared */

    for (size_t i = 0; i < size; i += i < 64 ? 1 : 7) {
        file[i] ^= (uint8_t)(1 << i % 8);
        const es2s_status status = load(file, size, true, &model);
        check_case("byte=%zu", i);
        CHECK(status == BAD || (i < 16 && status == UNSUPPORTED)); /* 8..15 are the version */
        file[i] ^= (uint8_t)(1 << i % 8);
    }
    free(file);
}

typedef enum place { HEADER, KEY, TENSOR, DATA } place;

typedef struct bad_field {
    place place;
    const char *name; /* of the key or tensor */
    size_t offset;    /* in the header, the entry or the tensor's data */
    size_t n_bytes;
    uint64_t value;
    const char *message; /* part of what es2s_last_error() says */
    es2s_status status;
} bad_field;

enum { TYPE = 48, LENGTH = 52, VALUE = 56, DTYPE = 64, N_DIMS = 68, DIM0 = 72, DIM1 = 80, DIM2 = 88 };
enum { OFFSET = 104, SIZE = 112, ZERO = 120 };
#define QKV "layers.0.self_attn.qkv.weight"

static const bad_field bad_fields[] = {
    {HEADER, "", 0, 1, 'E', "es2swts", BAD},
    {HEADER, "", 7, 1, 1, "es2swts", BAD},
    {HEADER, "", 8, 4, 0, "found 0.0", UNSUPPORTED},
    {HEADER, "", 8, 4, 2, "newer edge_s2s", UNSUPPORTED},
    {HEADER, "", 12, 4, 1, "expected minor version 0 without optional keys, found 1", BAD},
    {HEADER, "", 12, 4, 2, "newer edge_s2s", UNSUPPORTED},
    {HEADER, "", 16, 4, 0, "expected 1..256 keys, found 0", BAD},
    {HEADER, "", 16, 4, 257, "found 257", BAD},
    {HEADER, "", 16, 4, 0xffffffff, "found 4294967295", BAD},
    {HEADER, "", 16, 4, 35, "tensor 0: expected a zero-padded name",
     BAD}, /* the last one is read as a tensor */
    {HEADER, "", 20, 4, 0, "expected 1..4096 tensors, found 0", BAD},
    {HEADER, "", 20, 4, 4097, "found 4097", BAD},
    {HEADER, "", 20, 4, 4096, "found the end of the file", BAD},
    {HEADER, "", 20, 4, 0xffffffff, "found 4294967295", BAD},
    {HEADER, "", 24, 8, 64, "expected 64 bytes", BAD},
    {HEADER, "", 24, 8, UINT64_MAX, "expected 18446744073709551615 bytes", BAD},
    {HEADER, "", 32, 8, 0, "SHA-256", BAD},

    {KEY, "d_ff", 0, 1, 'D', "name of [a-z0-9_.]", BAD},
    {KEY, "d_ff", 0, 1, 0, "name of [a-z0-9_.]", BAD},
    {KEY, "d_ff", 2, 1, 0, "name of [a-z0-9_.]", BAD}, /* "d", zero, "f" */
    {KEY, "d_ff", 47, 1, 'a', "name of [a-z0-9_.]", BAD},
    {KEY, "d_ff", 4, 1, 0xe9, "name of [a-z0-9_.]", BAD},
    {KEY, "d_ff", 0, 1, 'z', "ascending order", BAD},
    {KEY, "d_head", 0, 6, 0x66665f64, "ascending order", BAD}, /* "d_ff" again */
    {KEY, "d_ff", 3, 1, 'g', "key \"d_ff\": expected an integer, found no such key", BAD},
    {KEY, "d_ff", TYPE, 4, 0, "expected type 1, 2 or 3, found 0", BAD},
    {KEY, "d_ff", TYPE, 4, 4, "expected type 1, 2 or 3, found 4", BAD},
    {KEY, "d_ff", TYPE, 4, 0xffffffff, "expected type 1, 2 or 3", BAD},
    {KEY, "d_ff", TYPE, 4, 2, "key \"d_ff\": expected an integer, found a float", BAD},
    {KEY, "norm_eps", TYPE, 4, 1, "key \"norm_eps\": expected a float, found an integer", BAD},
    {KEY, "d_ff", LENGTH, 4, 7, "expected 8 bytes", BAD},
    {KEY, "d_ff", LENGTH, 4, 9, "expected 8 bytes", BAD},
    {KEY, "d_ff", LENGTH, 4, 0xffffffff, "expected 8 bytes", BAD},
    {KEY, "prefix", LENGTH, 4, 201, "found 201", BAD},
    {KEY, "prefix", LENGTH, 4, 0xffffffff, "found 4294967295", BAD},
    {KEY, "prefix", LENGTH, 4, 1, "zeros after the value", BAD},
    {KEY, "prefix", LENGTH, 4, 12, "without a zero byte", BAD},
    {KEY, "prefix", VALUE, 1, 0, "without a zero byte", BAD},
    {KEY, "prefix", VALUE, 1, 0x80, "UTF-8", BAD},
    {KEY, "prefix", VALUE, 2, 0x80c0, "UTF-8", BAD},     /* zero in two bytes */
    {KEY, "prefix", VALUE, 3, 0x8080e0, "UTF-8", BAD},   /* zero in three bytes */
    {KEY, "prefix", VALUE, 3, 0x80a0ed, "UTF-8", BAD},   /* a surrogate */
    {KEY, "prefix", VALUE, 4, 0x808080f0, "UTF-8", BAD}, /* zero in four bytes */
    {KEY, "prefix", VALUE, 4, 0x808090f4, "UTF-8", BAD}, /* above U+10FFFF */
    {KEY, "prefix", VALUE + 9, 1, 0xc3, "UTF-8", BAD},   /* ends inside a character */
    {KEY, "d_ff", VALUE + 8, 1, 1, "zeros after the value", BAD},
    {KEY, "d_ff", VALUE + 199, 1, 1, "zeros after the value", BAD},
    {KEY, "d_ff", VALUE, 8, 0, "key \"d_ff\": expected 1..131072, found 0", BAD},
    {KEY, "d_ff", VALUE, 8, UINT64_MAX, "found -1", BAD},
    {KEY, "d_ff", VALUE, 8, 131073, "found 131073", BAD},
    {KEY, "d_ff", VALUE, 8, (uint64_t)1 << 32 | 28, "found 4294967324", BAD},
    {KEY, "d_ff", VALUE, 8, (uint64_t)1 << 63, "found -9223372036854775808", BAD},
    {KEY, "d_head", VALUE, 8, 1025, "key \"d_head\": expected 1..1024, found 1025", BAD},
    {KEY, "n_heads", VALUE, 8, 1025, "key \"n_heads\": expected 1..1024", BAD},
    {KEY, "n_layers", VALUE, 8, 257, "key \"n_layers\": expected 1..256", BAD},
    {KEY, "n_layers", VALUE, 8, 256,
     "tensor \"layers.2.self_attn_norm.weight\": expected float32 [20], found no", BAD},
    {KEY, "n_layers", VALUE, 8, 1, "tensor \"layers.1.cross_attn.o.weight\": expected only", BAD},
    {KEY, "max_target_len", VALUE, 8, 65537, "key \"max_target_len\"", BAD},
    {KEY, "vocab_size", VALUE, 8, 38,
     "tensor \"embedding.weight\": expected int8 [38, 20], found int8 [37, 20]", BAD},
    {KEY, "vocab_size", VALUE, 8, (1 << 21) + 1, "key \"vocab_size\": expected 1..2097152", BAD},
    {KEY, "decoder_start_token_id", VALUE, 8, UINT64_MAX, "expected 0..36, found -1", BAD},
    {KEY, "decoder_start_token_id", VALUE, 8, 37, "expected 0..36, found 37", BAD},
    {KEY, "eos_token_id", VALUE, 8, 37, "expected -1..36, found 37", BAD},
    {KEY, "pad_token_id", VALUE, 8, (uint64_t)-2, "expected -1..36, found -2", BAD},
    {KEY, "generation.forced_bos_token_id", VALUE, 8, 37, "found 37", BAD},
    {KEY, "generation.forced_eos_token_id", VALUE, 8, 37, "found 37", BAD},
    {KEY, "generation.num_beams", VALUE, 8, 0, "expected 1..64, found 0", BAD},
    {KEY, "generation.num_beams", VALUE, 8, 65, "expected 1..64, found 65", BAD},
    {KEY, "generation.num_return_sequences", VALUE, 8, 2, "expected 1..1, found 2", BAD},
    {KEY, "generation.max_new_tokens", VALUE, 8, 25, "expected 1..24, found 25", BAD},
    {KEY, "generation.min_new_tokens", VALUE, 8, 25, "expected 0..24, found 25", BAD},
    {KEY, "generation.early_stopping", VALUE, 8, 3, "expected 0..2, found 3", BAD},
    {KEY, "generation.no_repeat_ngram_size", VALUE, 8, UINT64_MAX, "found -1", BAD},
    {KEY, "generation.length_penalty", VALUE, 8, 0x7ff8000000000000, "expected -100..100, found nan", BAD},
    {KEY, "generation.length_penalty", VALUE, 8, 0x7ff0000000000000, "found inf", BAD},
    {KEY, "generation.repetition_penalty", VALUE, 8, 0, "expected 0.001..1000, found 0", BAD},
    {KEY, "norm_eps", VALUE, 8, 0, "key \"norm_eps\"", BAD},
    {KEY, "embedding_scale", VALUE, 8, 0xbff0000000000000, "found -1", BAD},
    {KEY, "head_rescore", VALUE, 8, 38, "expected 0..37, found 38", BAD},
    {KEY, "embedding_norm", VALUE, 8, 2, "expected 0..1, found 2", BAD},
    {KEY, "embedding_norm", VALUE, 8, 1, "tensor \"embedding_norm.weight\": expected float32 [20], found no",
     BAD},
    {KEY, "final_norm", VALUE, 8, 0, "tensor \"final_norm.weight\": expected only", BAD},
    {KEY, "linear_bias", VALUE, 8, 1,
     "tensor \"layers.0.self_attn.qkv.bias\": expected float32 [54], found no", BAD},
    {KEY, "final_logits_bias", VALUE, 8, 1, "tensor \"final_logits_bias\": expected float32 [37], found no",
     BAD},
    {KEY, "tied_lm_head", VALUE, 8, 0, "tensor \"lm_head.weight\": expected int8 [37, 20], found no", BAD},
    {KEY, "position_bias_per_layer", VALUE, 8, 1,
     "tensor \"layers.0.position_bias\": expected float32 [3, n]", BAD},
    {KEY, "norm", VALUE, 3, 0x736c72, "key \"norm\": expected rms, layer, found another value",
     BAD}, /* "rls" */
    {KEY, "weights_dtype", VALUE, 4, 0x34746e69, "expected float32, int8, found another value",
     BAD}, /* "int4" */
    {KEY, "ffn", VALUE + 6, 4, 0x796c6572,
     "expected relu, gelu_tanh, gelu_erf, silu, gated_relu, gated_gelu_tanh, gated_", BAD},

    {TENSOR, QKV, 0, 1, ' ', "name of [a-z0-9_.]", BAD},
    {TENSOR, QKV, 63, 1, 'a', "name of [a-z0-9_.]", BAD},
    {TENSOR, QKV, 0, 1, 'a', "ascending order", BAD},
    {TENSOR, QKV, 28, 1, 's', "tensor \"" QKV "\": expected int8 [54, 20], found no such tensor", BAD},
    {TENSOR, QKV, DTYPE, 4, 0, "expected dtype 1 (float32) or 2 (int8), found 0", BAD},
    {TENSOR, QKV, DTYPE, 4, 3, "found 3", BAD},
    {TENSOR, QKV, DTYPE, 4, 0xffffffff, "found 4294967295", BAD},
    {TENSOR, QKV, DTYPE, 4, 1, "expected 4320 bytes for its shape, found 1080", BAD},
    {TENSOR, QKV, N_DIMS, 4, 0, "expected 1..4 dimensions, found 0", BAD},
    {TENSOR, QKV, N_DIMS, 4, 5, "expected 1..4 dimensions, found 5", BAD},
    {TENSOR, QKV, N_DIMS, 4, 0xffffffff, "expected 1..4 dimensions", BAD},
    {TENSOR, QKV, N_DIMS, 4, 1, "unused ones 0", BAD},
    {TENSOR, QKV, N_DIMS, 4, 3, "dimensions >= 1", BAD},
    {TENSOR, QKV, DIM0, 8, 0, "dimensions >= 1", BAD},
    {TENSOR, QKV, DIM0, 8, 53, "expected 1060 bytes for its shape, found 1080", BAD},
    {TENSOR, QKV, DIM0, 8, (uint64_t)1 << 63, "larger than the file", BAD},
    {TENSOR, QKV, DIM1, 8, (uint64_t)1 << 62, "larger than the file", BAD},
    {TENSOR, QKV, DIM1, 8, UINT64_MAX / 54 + 2, "larger than the file", BAD}, /* the product wraps */
    {TENSOR, QKV, DIM2, 8, 1, "unused ones 0", BAD},
    {TENSOR, QKV, OFFSET, 8, 0, "expected offset", BAD},
    {TENSOR, QKV, OFFSET, 8, UINT64_MAX - 63, "expected offset", BAD},
    {TENSOR, QKV, SIZE, 8, 1079, "expected 1080 bytes for its shape, found 1079", BAD},
    {TENSOR, QKV, SIZE, 8, UINT64_MAX, "expected 1080 bytes for its shape", BAD},
    {TENSOR, QKV, ZERO + 7, 1, 1, "zeros at the end of its entry", BAD},
    {TENSOR, "final_norm.weight", DTYPE, 4, 2, "expected 20 bytes for its shape, found 80", BAD},

    {DATA, QKV, 100, 1, 0x80, "tensor \"" QKV "\": expected values in [-127, 127], found -128", BAD},
    {DATA, QKV, 1080, 1, 1, "zeros in the gap before it", BAD},
    {DATA, QKV "_scale", 4, 4, 0x7fc00000, "tensor \"" QKV "_scale\": expected finite values, found nan",
     BAD},
    {DATA, QKV "_scale", 212, 4, 0xff800000, "found -inf", BAD},
    {DATA, QKV "_scale", 212, 4, 0xbf800000, "tensor \"" QKV "_scale\": expected values >= 0, found -1", BAD},
    {DATA, "final_norm.weight", 0, 4, 0x7f800000, "tensor \"final_norm.weight\": expected finite", BAD},
    {DATA, "position_bias", 0, 4, 0x7f800000, "tensor \"position_bias\": expected finite", BAD},
    {DATA, "position_bias", 60, 1, 1, "zeros after the last tensor", BAD},
};

static uint8_t *field_of(uint8_t *file, const bad_field *field) {
    switch (field->place) {
    case KEY:
        return tiny_find_key(file, field->name) + field->offset;
    case TENSOR:
        return tiny_find_tensor(file, field->name) + field->offset;
    case DATA:
        return tiny_tensor_data(file, field->name) + field->offset;
    default:
        return file + field->offset;
    }
}

static void every_bad_field_is_named(void) {
    const tiny_options o = tiny_defaults();
    for (size_t i = 0; i < sizeof bad_fields / sizeof *bad_fields; i++) {
        const bad_field *field = &bad_fields[i];
        size_t size;
        uint8_t *file = tiny_weights(&o, &size);
        memcpy(field_of(file, field), &field->value, field->n_bytes);
        if (field->place != HEADER) tiny_seal(file, size); /* the digest is not what refuses it */
        es2s_model *model;
        check_case("field=%zu name=%s offset=%zu", i, field->name, field->offset);
        REFUSES(field->status, field->message, load(file, size, true, &model));
        CHECK(model == NULL);
        free(file);
    }
}

/* Strings of another length than the file's. */
static void features_without_their_tensors_are_named(void) {
    static const struct {
        const char *key, *value, *message;
    } features[] = {
        {"norm", "layer",
         "tensor \"layers.0.self_attn_norm.bias\": expected float32 [20], found no such tensor"},
        {"position", "table",
         "tensor \"position_embedding.weight\": expected float32 [n, 20], found no such"},
        {"ffn", "gelu", "found another value"},
        {"ffn", "", "found another value"},
        {"ffn", "gelu_erf", "tensor \"layers.0.ffn.up.weight\": expected int8 [28, 20], found int8 [56, 20]"},
        {"weights_dtype", "float32", "key \"head_rescore\": expected 0..0, found 4"},
    };
    const tiny_options o = tiny_defaults();
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        size_t size;
        uint8_t *file = tiny_weights(&o, &size), *key = tiny_find_key(file, features[i].key);
        memset(key + LENGTH, 0, 204);
        key[LENGTH] = (uint8_t)strlen(features[i].value);
        memcpy(key + VALUE, features[i].value, strlen(features[i].value));
        tiny_seal(file, size);
        es2s_model *model;
        check_case("%s=%s", features[i].key, features[i].value);
        REFUSES(BAD, features[i].message, load(file, size, true, &model));
        free(file);
    }
}

static void one_key_or_tensor_more_is_refused(void) {
    static const char *const keys[] = {"d_modem", "zzz", "extra", "generation.top_k"};
    es2s_model *model;
    size_t size;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        tiny_options o = tiny_defaults();
        o.extra_key = keys[i];
        uint8_t *file = tiny_weights(&o, &size);
        REFUSES(BAD, keys[i], load(file, size, true, &model));
        free(file);
    }
    tiny_options o = tiny_defaults();
    o.extra_tensor = "layers.00.ffn.up.weight";
    uint8_t *file = tiny_weights(&o, &size);
    REFUSES(BAD, o.extra_tensor, load(file, size, true, &model));
    free(file);
}

static void float_matrices_must_be_finite(void) {
    tiny_options o = tiny_defaults();
    o.is_int8 = false;
    o.head_rescore = 0;
    for (size_t shift = 0; shift < 2; shift++) { /* in place, and copied */
        size_t size;
        uint8_t *file = tiny_weights(&o, &size), *moved = aligned_alloc(64, size + 64);
        memcpy(tiny_tensor_data(file, "layers.1.ffn.down.weight") + 4, &(float){INFINITY}, 4);
        tiny_seal(file, size);
        memcpy(moved + shift, file, size);
        es2s_model *model;
        REFUSES(BAD, "tensor \"layers.1.ffn.down.weight\": expected finite values, found inf",
                load(moved + shift, size, true, &model));
        free(moved);
        free(file);
    }
}

static void only_regular_files_are_mapped(void) {
    char folder[] = "/tmp/check_weights_file_XXXXXX", path[64];
    CHECK(mkdtemp(folder));
    es2s_model *model;
    REFUSES(ES2S_IO, "decoder.weights: cannot open", es2s_model_load(folder, NULL, &model));
    snprintf(path, sizeof path, "%s/x", folder);
    REFUSES(ES2S_IO, path, es2s_model_load(path, NULL, &model));
    CHECK(model == NULL);
    CHECK(mkfifo(path, 0600) == 0); /* nobody writes to it */
    REFUSES(ES2S_IO, "regular file", es2s_model_load(path, NULL, &model));
    CHECK(unlink(path) == 0);

    const tiny_options o = tiny_defaults();
    size_t size;
    uint8_t *data = tiny_weights(&o, &size);
    for (int i = 0; i < 3; i++) { /* empty, half, whole */
        FILE *file = fopen(path, "wb");
        CHECK(file && fwrite(data, 1, size * (size_t)i / 2, file) == size * (size_t)i / 2 &&
              fclose(file) == 0);
        static const es2s_status expected[] = {ES2S_IO, BAD, ES2S_OK};
        CHECK(es2s_model_load(path, NULL, &model) == expected[i]);
    }
    float from_file[37], from_memory[37];
    decode(model, &o, from_file);
    es2s_model_free(model);
    SUCCEEDS(load(data, size, true, &model));
    decode(model, &o, from_memory);
    es2s_model_free(model);
    CHECK(memcmp(from_file, from_memory, sizeof from_file) == 0);
    unlink(path);
    rmdir(folder);
    free(data);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"sha256_of_the_standards_examples_is_the_standards",
         sha256_of_the_standards_examples_is_the_standards, 0},
        {"sha256_by_instructions_is_the_portable_one", sha256_by_instructions_is_the_portable_one, 0},
        {"sha256_of_two_pieces_is_that_of_each", sha256_of_two_pieces_is_that_of_each, 0},
        {"every_variant_loads_at_every_alignment", every_variant_loads_at_every_alignment, 0},
        {"every_prefix_is_refused", every_prefix_is_refused, 0},
        {"flipped_bits_are_refused_or_harmless", flipped_bits_are_refused_or_harmless, 0},
        {"every_bad_field_is_named", every_bad_field_is_named, 0},
        {"features_without_their_tensors_are_named", features_without_their_tensors_are_named, 0},
        {"one_key_or_tensor_more_is_refused", one_key_or_tensor_more_is_refused, 0},
        {"float_matrices_must_be_finite", float_matrices_must_be_finite, 0},
        {"only_regular_files_are_mapped", only_regular_files_are_mapped, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
