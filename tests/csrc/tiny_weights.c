#include "tiny_weights.h"

#undef NDEBUG /* asserts are part of the test */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sha256.h"

enum { MAX_ENTRIES = 512, HEADER_SIZE = 64, KEY_SIZE = 256, TENSOR_SIZE = 128 };

typedef struct tensor {
    uint8_t entry[TENSOR_SIZE];
    uint8_t *data;
    size_t size;
} tensor;

typedef struct builder {
    uint64_t seed;
    bool is_int8;
    size_t n_keys, n_tensors;
    uint8_t keys[MAX_ENTRIES][KEY_SIZE];
    tensor tensors[MAX_ENTRIES];
} builder;

tiny_options tiny_defaults(void) {
    return (tiny_options){.vocab_size = 37,
                          .d_model = 20,
                          .d_ff = 28,
                          .n_layers = 2,
                          .n_heads = 3,
                          .d_head = 6,
                          .max_source_len = 48,
                          .max_target_len = 24,
                          .is_int8 = true,
                          .is_tied = true,
                          .ffn = "gated_gelu_tanh",
                          .head_rescore = 4,
                          .seed = 1};
}

uint64_t tiny_random(uint64_t *seed) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

void tiny_fill(uint64_t *seed, float scale, size_t n, float *x) {
    for (size_t i = 0; i < n; i++)
        x[i] = ((float)(tiny_random(seed) >> 40) * 0x1p-23f - 1) * scale;
}

static void put(uint8_t *at, uint64_t value, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *at, size_t n_bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void add_key(builder *b, const char *name, uint32_t type, const void *value, size_t length) {
    assert(b->n_keys < MAX_ENTRIES && strlen(name) < 48 && length <= 200);
    uint8_t *key = b->keys[b->n_keys++];
    memcpy(key, name, strlen(name));
    put(key + 48, type, 4);
    put(key + 52, length, 4);
    memcpy(key + 56, value, length);
}

static void add_int(builder *b, const char *name, int64_t value) {
    add_key(b, name, 1, &value, sizeof value);
}

static void add_float(builder *b, const char *name, double value) {
    add_key(b, name, 2, &value, sizeof value);
}

static void add_string(builder *b, const char *name, const char *value) {
    add_key(b, name, 3, value, strlen(value));
}

static uint8_t *add_tensor(builder *b, const char *name, uint32_t dtype, int32_t n_out, int32_t n_in) {
    assert(b->n_tensors < MAX_ENTRIES && strlen(name) < 64);
    tensor *t = &b->tensors[b->n_tensors++];
    t->size = (size_t)n_out * (size_t)(n_in > 0 ? n_in : 1) * (dtype == 1 ? 4 : 1);
    t->data = malloc(t->size);
    memcpy(t->entry, name, strlen(name));
    put(t->entry + 64, dtype, 4);
    put(t->entry + 68, n_in > 0 ? 2 : 1, 4);
    put(t->entry + 72, (uint64_t)n_out, 8);
    put(t->entry + 80, (uint64_t)n_in, 8);
    put(t->entry + 112, t->size, 8);
    return t->data;
}

/* Values base +- scale; n_in = 0: a vector. */
static void add_floats(builder *b, const char *name, int32_t n_out, int32_t n_in, float base, float scale) {
    float *x = (float *)(void *)add_tensor(b, name, 1, n_out, n_in);
    const size_t n = (size_t)n_out * (size_t)(n_in > 0 ? n_in : 1);
    tiny_fill(&b->seed, scale, n, x);
    for (size_t i = 0; i < n; i++)
        x[i] += base;
}

/* Weights whose outputs are about as large as their inputs. */
static void add_matrix(builder *b, const char *name, int32_t n_out, int32_t n_in) {
    const float scale = 1.7F / sqrtf((float)n_in);
    if (!b->is_int8) {
        add_floats(b, name, n_out, n_in, 0, scale);
        return;
    }
    int8_t *q = (int8_t *)add_tensor(b, name, 2, n_out, n_in);
    for (size_t i = 0; i < (size_t)n_out * (size_t)n_in; i++)
        q[i] = (int8_t)((int32_t)(tiny_random(&b->seed) % 255) - 127);
    char scale_name[64];
    snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    add_floats(b, scale_name, n_out, 0, scale / 127, scale / 500);
}

/* Of encoder and decoder. */
static void add_stack_keys(builder *b, const tiny_options *o) {
    add_int(b, "d_model", o->d_model);
    add_int(b, "d_ff", o->d_ff);
    add_int(b, "n_layers", o->n_layers);
    add_int(b, "n_heads", o->n_heads);
    add_int(b, "d_head", o->d_head);
    add_int(b, "embedding_norm", o->embedding_norm);
    add_int(b, "final_norm", !o->no_final_norm);
    add_int(b, "linear_bias", o->linear_bias);
    add_int(b, "position_bias_per_layer", o->bias_per_layer);
    add_float(b, "norm_eps", 1e-6);
    add_float(b, "embedding_scale", 1.5);
    add_string(b, "weights_dtype", o->is_int8 ? "int8" : "float32");
    add_string(b, "norm", o->layer_norm ? "layer" : "rms");
    add_string(b, "norm_position", o->post_norm ? "post" : "pre");
    add_string(b, "position", o->position_table ? "table" : "relative_bias");
    add_string(b, "ffn", o->ffn);
    if (o->extra_key) add_int(b, o->extra_key, 7);
}

static void add_keys(builder *b, const tiny_options *o) {
    add_stack_keys(b, o);
    add_int(b, "vocab_size", o->vocab_size);
    add_int(b, "max_source_len", o->max_source_len);
    add_int(b, "max_target_len", o->max_target_len);
    add_int(b, "tied_lm_head", o->is_tied);
    add_int(b, "final_logits_bias", o->final_logits_bias);
    add_int(b, "head_rescore", o->head_rescore);
    add_int(b, "decoder_start_token_id", 0);
    add_int(b, "eos_token_id", 1);
    add_int(b, "pad_token_id", 0);
    add_int(b, "generation.num_beams", 1);
    add_int(b, "generation.max_new_tokens", o->max_target_len);
    add_int(b, "generation.min_new_tokens", 0);
    add_int(b, "generation.no_repeat_ngram_size", 0);
    add_int(b, "generation.early_stopping", 0);
    add_int(b, "generation.num_return_sequences", 1);
    add_int(b, "generation.forced_bos_token_id", -1);
    add_int(b, "generation.forced_eos_token_id", -1);
    add_float(b, "generation.length_penalty", 1);
    add_float(b, "generation.repetition_penalty", 1);
    add_string(b, "prefix", "r\xc3\xa9sumer: ");
    if (o->source_vocab_size) add_int(b, "source_vocab_size", o->source_vocab_size);
    if (o->kv_cache_f16) add_string(b, "kv_cache_dtype", "float16");
}

static void add_norm(builder *b, const tiny_options *o, const char *name) {
    char suffixed[80];
    snprintf(suffixed, sizeof suffixed, "%s.weight", name);
    add_floats(b, suffixed, o->d_model, 0, 1, 0.5F);
    snprintf(suffixed, sizeof suffixed, "%s.bias", name);
    if (o->layer_norm) add_floats(b, suffixed, o->d_model, 0, 0, 0.5F);
}

static void add_linear(builder *b, const tiny_options *o, const char *name, int32_t n_out, int32_t n_in) {
    char suffixed[80];
    snprintf(suffixed, sizeof suffixed, "%s.weight", name);
    add_matrix(b, suffixed, n_out, n_in);
    snprintf(suffixed, sizeof suffixed, "%s.bias", name);
    if (o->linear_bias) add_floats(b, suffixed, n_out, 0, 0, 0.5F);
}

/* has_cross: of a decoder. */
static void add_layer(builder *b, const tiny_options *o, int32_t i, bool has_cross, int32_t n_distances) {
    const int32_t inner = o->n_heads * o->d_head;
    const bool is_gated = strncmp(o->ffn, "gated_", 6) == 0;
    const struct {
        const char *name;
        int32_t n_out, n_in;
    } matrices[] = {{"self_attn.qkv", 3 * inner, o->d_model},
                    {"self_attn.o", o->d_model, inner},
                    {"ffn.up", (is_gated ? 2 : 1) * o->d_ff, o->d_model},
                    {"ffn.down", o->d_model, o->d_ff},
                    {"cross_attn.q", inner, o->d_model},
                    {"cross_attn.o", o->d_model, inner}};
    const char *const norms[] = {"self_attn_norm", "ffn_norm", "cross_attn_norm"};
    char name[64];
    for (size_t j = 0; j < (has_cross ? 6 : 4); j++) {
        snprintf(name, sizeof name, "layers.%d.%s", i, matrices[j].name);
        add_linear(b, o, name, matrices[j].n_out, matrices[j].n_in);
    }
    for (size_t j = 0; j < (has_cross ? 3 : 2); j++) {
        snprintf(name, sizeof name, "layers.%d.%s", i, norms[j]);
        add_norm(b, o, name);
    }
    snprintf(name, sizeof name, "layers.%d.position_bias", i);
    if (o->bias_per_layer) add_floats(b, name, o->n_heads, n_distances, 0, 2);
}

static void add_tensors(builder *b, const tiny_options *o) {
    add_matrix(b, "embedding.weight", o->vocab_size, o->d_model);
    for (int32_t i = 0; i < o->n_layers; i++)
        add_layer(b, o, i, true, 5 + i);
    if (o->position_table)
        add_floats(b, "position_embedding.weight", o->max_target_len, o->d_model, 0, 1);
    else if (!o->bias_per_layer)
        add_floats(b, "position_bias", o->n_heads, 5, 0, 2);
    if (o->embedding_norm) add_norm(b, o, "embedding_norm");
    if (!o->no_final_norm) add_norm(b, o, "final_norm");
    if (o->source_vocab_size) add_matrix(b, "encoder_embedding.weight", o->source_vocab_size, o->d_model);
    if (o->final_logits_bias) add_floats(b, "final_logits_bias", o->vocab_size, 0, 0, 1);
    if (!o->is_tied) add_matrix(b, "lm_head.weight", o->vocab_size, o->d_model);
    if (o->extra_tensor) add_floats(b, o->extra_tensor, 3, 0, 0, 1);
}

static void add_encoder_tensors(builder *b, const tiny_options *o, const tiny_options *decoder) {
    for (int32_t i = 0; i < o->n_layers; i++)
        add_layer(b, o, i, false, 5 + 2 * i);
    if (o->position_table)
        add_floats(b, "position_embedding.weight", o->max_source_len, o->d_model, 0, 1);
    else if (!o->bias_per_layer)
        add_floats(b, "position_bias", o->n_heads, 7, 0, 2);
    if (o->embedding_norm) add_norm(b, o, "embedding_norm");
    if (!o->no_final_norm) add_norm(b, o, "final_norm");
    for (int32_t i = 0; i < decoder->n_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "decoder_layers.%d.cross_attn.kv", i);
        add_linear(b, o, name, 2 * decoder->n_heads * decoder->d_head, o->d_model);
    }
    if (o->extra_tensor) add_floats(b, o->extra_tensor, 3, 0, 0, 1);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

/* The file of what was added; frees the builder. */
static uint8_t *finish(builder *b, uint32_t minor, size_t *size_out) {
    qsort(b->keys, b->n_keys, sizeof b->keys[0], compare_names);
    qsort(b->tensors, b->n_tensors, sizeof b->tensors[0], compare_names);

    const size_t keys_end = HEADER_SIZE + b->n_keys * KEY_SIZE;
    size_t size = keys_end + b->n_tensors * TENSOR_SIZE;
    for (size_t i = 0; i < b->n_tensors; i++) {
        put(b->tensors[i].entry + 104, size, 8);
        size = (size + b->tensors[i].size + 63) / 64 * 64;
    }
    uint8_t *file = aligned_alloc(64, size);
    memset(file, 0, size);
    memcpy(file, "es2swts", 8);
    put(file + 8, 1, 4);
    put(file + 12, minor, 4);
    put(file + 16, b->n_keys, 4);
    put(file + 20, b->n_tensors, 4);
    put(file + 24, size, 8);
    memcpy(file + HEADER_SIZE, b->keys, b->n_keys * KEY_SIZE);
    for (size_t i = 0; i < b->n_tensors; i++) {
        const tensor *t = &b->tensors[i];
        memcpy(file + keys_end + i * TENSOR_SIZE, t->entry, TENSOR_SIZE);
        memcpy(file + get(t->entry + 104, 8), t->data, t->size);
        free(t->data);
    }
    free(b);
    tiny_seal(file, size);
    *size_out = size;
    return file;
}

static builder *begin(const tiny_options *o) {
    builder *b = calloc(1, sizeof *b);
    b->seed = o->seed;
    b->is_int8 = o->is_int8;
    return b;
}

uint8_t *tiny_weights(const tiny_options *options, size_t *size_out) {
    builder *b = begin(options);
    add_keys(b, options);
    add_tensors(b, options);
    return finish(b, options->source_vocab_size || options->kv_cache_f16, size_out);
}

uint8_t *tiny_encoder(const tiny_options *options, const tiny_options *decoder, size_t *size_out) {
    builder *b = begin(options);
    add_stack_keys(b, options);
    add_encoder_tensors(b, options, decoder);
    return finish(b, 0, size_out);
}

void tiny_seal(uint8_t *file, size_t size) {
    es2s_sha256(file + HEADER_SIZE, size - HEADER_SIZE, file + 32);
}

static uint8_t *find(uint8_t *entry, size_t n, size_t entry_size, const char *name) {
    for (; n > 0; n--, entry += entry_size)
        if (strcmp((const char *)entry, name) == 0) return entry;
    abort(); /* the file has no such name */
}

uint8_t *tiny_find_key(uint8_t *file, const char *name) {
    return find(file + HEADER_SIZE, (size_t)get(file + 16, 4), KEY_SIZE, name);
}

uint8_t *tiny_find_tensor(uint8_t *file, const char *name) {
    const size_t n_keys = (size_t)get(file + 16, 4), n_tensors = (size_t)get(file + 20, 4);
    return find(file + HEADER_SIZE + n_keys * KEY_SIZE, n_tensors, TENSOR_SIZE, name);
}

uint8_t *tiny_tensor_data(uint8_t *file, const char *name) {
    return file + get(tiny_find_tensor(file, name) + 104, 8);
}
