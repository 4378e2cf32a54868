/*
 * Loading: the keys, then the exact set of tensors that they call for. Tensors are walked twice, as arena.h
 * describes: first to check names, types and shapes and to measure, then to copy and to check values. Float
 * vectors are copied, since data may lie at any alignment; the large matrices are used where they are.
 */
#include "model.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arena.h"
#include "error.h"
#include "weights_file.h"

#define MAX_POSITIONS 65536

/* After a failure everything below does nothing, so that what a model consists of reads as a list. */
typedef struct loader {
    es2s_status status;
    es2s_weights_file file;
    es2s_arena arena;
    const es2s_kernels *kernels;
    bool is_int8, has_embedding_norm, has_final_norm, has_final_logits_bias, is_lm_head_tied;
    int32_t source_vocab_size; /* 0: the encoder reads the decoder's embedding */
    char prefix[24];           /* of the tensors asked for: "layers.3." or "" */
    char name[64];             /* the tensor asked for last, for messages */
} loader;

/* ============================================== Keys ============================================= */

/* A value in [min, max]; min after a failure. */
static int32_t get_int(loader *l, const char *name, int32_t min, int32_t max) {
    int32_t value = min;
    if (l->status == ES2S_OK) l->status = es2s_weights_file_get_int(&l->file, name, min, max, &value);
    return value;
}

static double get_float(loader *l, const char *name, double min, double max) {
    double value = min;
    if (l->status == ES2S_OK) l->status = es2s_weights_file_get_float(&l->file, name, min, max, &value);
    return value;
}

/* A key that may be absent; the file has it only for other values than `absent`. */
static int32_t get_optional_int(loader *l, const char *name, int32_t min, int32_t max, int32_t absent) {
    if (l->status != ES2S_OK || !es2s_weights_file_has(&l->file, name)) return absent;
    const int32_t value = get_int(l, name, min, max);
    if (l->status == ES2S_OK && value == absent)
        l->status = es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected no such key for its default, found %d",
                              name, value);
    return value;
}

static const char *const weights_dtypes[] = {"float32", "int8", NULL};
static const char *const norms[] = {"rms", "layer", NULL};
static const char *const norm_positions[] = {"pre", "post", NULL};
static const char *const positions[] = {"relative_bias", "table", NULL};
static const char *const ffns[] = {"relu",           "gelu_tanh",  "gelu_erf",
                                   "silu",           "gated_relu", "gated_gelu_tanh",
                                   "gated_gelu_erf", "gated_silu", NULL};

/* Which of the values a key has; 0 after a failure. */
static int get_choice(loader *l, const char *name, const char *const *values) {
    const char *value;
    size_t len;
    if (l->status == ES2S_OK) l->status = es2s_weights_file_get_string(&l->file, name, &value, &len);
    if (l->status != ES2S_OK) return 0;
    for (int i = 0; values[i]; i++)
        if (strlen(values[i]) == len && memcmp(values[i], value, len) == 0) return i;

    char expected[128] = "";
    for (int i = 0, end = 0; values[i]; i++)
        end += snprintf(expected + end, sizeof expected - (size_t)end, i > 0 ? ", %s" : "%s", values[i]);
    l->status = es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected %s, found another value", name, expected);
    return 0;
}

/* The limits keep products of dimensions within 64 bits and int8 dot products (131072 * 127 * 127) within 32.
 */
static void read_keys(loader *l, es2s_model *m) {
    es2s_model_dims *d = &m->dims;
    d->struct_size = sizeof *d;
    d->vocab_size = get_int(l, "vocab_size", 1, 1 << 21);
    d->d_model = get_int(l, "d_model", 1, 65536);
    d->d_ff = get_int(l, "d_ff", 1, 131072);
    d->n_layers = get_int(l, "n_layers", 1, 256);
    d->n_heads = get_int(l, "n_heads", 1, 1024);
    d->d_head = get_int(l, "d_head", 1, 65536 / d->n_heads < 1024 ? 65536 / d->n_heads : 1024);
    d->max_source_len = get_int(l, "max_source_len", 1, 65536);
    d->max_target_len = get_int(l, "max_target_len", 1, 65536);
    const int32_t last_id = d->vocab_size - 1;
    d->decoder_start_token_id = get_int(l, "decoder_start_token_id", 0, last_id);
    d->eos_token_id = get_int(l, "eos_token_id", -1, last_id);
    d->pad_token_id = get_int(l, "pad_token_id", -1, last_id);

    l->is_int8 = get_choice(l, "weights_dtype", weights_dtypes) == 1;
    m->norm_is_layer = get_choice(l, "norm", norms) == 1;
    m->norm_is_post = get_choice(l, "norm_position", norm_positions) == 1;
    m->position_is_table = get_choice(l, "position", positions) == 1;
    m->position_bias_per_layer = get_int(l, "position_bias_per_layer", 0, m->position_is_table ? 0 : 1);
    const int ffn = get_choice(l, "ffn", ffns);
    void (*const activations[])(float *, size_t) = {m->kernels.relu, m->kernels.gelu_tanh,
                                                    m->kernels.gelu_erf, m->kernels.silu};
    m->ffn_activation = activations[ffn % 4];
    m->ffn_gated = ffn >= 4;
    m->linear_has_bias = get_int(l, "linear_bias", 0, 1);
    l->has_embedding_norm = get_int(l, "embedding_norm", 0, 1);
    l->has_final_norm = get_int(l, "final_norm", 0, 1);
    l->has_final_logits_bias = get_int(l, "final_logits_bias", 0, 1);
    l->is_lm_head_tied = get_int(l, "tied_lm_head", 0, 1);
    l->source_vocab_size = get_optional_int(l, "source_vocab_size", 0, 1 << 21, 0);
    d->source_vocab_size = l->source_vocab_size > 0 ? l->source_vocab_size : d->vocab_size;
    m->norm_eps = (float)get_float(l, "norm_eps", 1e-12, 1);
    m->embedding_scale = (float)get_float(l, "embedding_scale", 1e-6, 1e6);
    const int32_t max_rescore = d->vocab_size < ES2S_MAX_HEAD_RESCORE ? d->vocab_size : ES2S_MAX_HEAD_RESCORE;
    m->head_rescore = get_int(l, "head_rescore", 0, l->is_int8 ? max_rescore : 0);

    es2s_generate_params *g = &m->generation;
    es2s_generate_params_init(NULL, g); // what the file does not name
    g->num_beams = get_int(l, "generation.num_beams", 1, 64);
    g->num_return_sequences = get_int(l, "generation.num_return_sequences", 1, g->num_beams);
    g->max_new_tokens = get_int(l, "generation.max_new_tokens", 1, d->max_target_len);
    g->min_new_tokens = get_int(l, "generation.min_new_tokens", 0, g->max_new_tokens);
    g->early_stopping = get_int(l, "generation.early_stopping", 0, 2);
    g->no_repeat_ngram_size = get_int(l, "generation.no_repeat_ngram_size", 0, 65536);
    g->repetition_penalty = (float)get_float(l, "generation.repetition_penalty", 1e-3, 1e3);
    g->length_penalty = get_float(l, "generation.length_penalty", -100, 100);
    g->encoder_repetition_penalty = g->exponential_decay_factor = 1; /* a file has no key for these */
    g->forced_bos_token_id = get_int(l, "generation.forced_bos_token_id", -1, last_id);
    g->forced_eos_token_id = get_int(l, "generation.forced_eos_token_id", -1, last_id);
    g->decoder_start_token_id = d->decoder_start_token_id;
    g->eos_token_id = d->eos_token_id;
    g->pad_token_id = d->pad_token_id;

    const char *prefix; /* belongs to the text before the tokenizer: not used here, but has to be there */
    size_t len;
    if (l->status == ES2S_OK) l->status = es2s_weights_file_get_string(&l->file, "prefix", &prefix, &len);
}

/* ============================================ Tensors ============================================ */

static const void *get_tensor(loader *l, const char *suffix, es2s_dtype dtype, int n_dims, uint64_t *dims) {
    const void *data = NULL;
    if (l->status != ES2S_OK) return NULL;
    snprintf(l->name, sizeof l->name, "%s%s", l->prefix, suffix);
    l->status = es2s_weights_file_get_tensor(&l->file, l->name, dtype, n_dims, dims, &data);
    return data;
}

static void refuse_tensor(loader *l, const char *expected, double found) {
    l->status = es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected %s, found %g", l->name, expected, found);
}

static const float *copy_floats(loader *l, const void *data, uint64_t n) {
    if (l->status != ES2S_OK) return NULL;
    float *copy = es2s_arena_take(&l->arena, n, sizeof *copy);
    if (copy) memcpy(copy, data, (size_t)n * sizeof *copy);
    return copy;
}

/* x: float[n], NULL while measuring. */
static void check_floats(loader *l, const float *x, uint64_t n, float min) {
    if (!l->arena.base || l->status != ES2S_OK) return;
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            refuse_tensor(l, "finite values", (double)x[i]);
            return;
        }
        if (x[i] < min) {
            refuse_tensor(l, "values >= 0", (double)x[i]);
            return;
        }
    }
}

static const float *get_vector(loader *l, const char *suffix, int32_t n, float min) {
    uint64_t dims[] = {(uint64_t)n};
    const void *data = get_tensor(l, suffix, ES2S_FLOAT32, 1, dims);
    const float *x = copy_floats(l, data, dims[0]);
    check_floats(l, x, dims[0], min);
    return x;
}

/* `<name>.weight` and, of a layer norm, `<name>.bias`. */
static es2s_norm get_norm(loader *l, const es2s_model *m, const char *name) {
    char suffix[48];
    es2s_norm norm = {0};
    snprintf(suffix, sizeof suffix, "%s.weight", name);
    norm.weight = get_vector(l, suffix, m->dims.d_model, -FLT_MAX);
    snprintf(suffix, sizeof suffix, "%s.bias", name);
    if (m->norm_is_layer) norm.bias = get_vector(l, suffix, m->dims.d_model, -FLT_MAX);
    return norm;
}

/* Used in place where the file's alignment allows it. */
static const float *get_float_matrix(loader *l, const char *suffix, uint64_t dims[2]) {
    const void *data = get_tensor(l, suffix, ES2S_FLOAT32, 2, dims);
    const bool is_aligned = (uintptr_t)data % _Alignof(float) == 0;
    const float *x = is_aligned ? data : copy_floats(l, data, dims[0] * dims[1]);
    check_floats(l, x, dims[0] * dims[1], -FLT_MAX);
    return x;
}

static es2s_matrix get_matrix(loader *l, const char *suffix, int32_t n_out, int32_t n_in) {
    es2s_matrix w = {.n_out = n_out, .n_in = n_in};
    uint64_t dims[] = {(uint64_t)n_out, (uint64_t)n_in};
    const uint64_t n = dims[0] * dims[1];
    if (!l->is_int8) {
        w.f32 = get_float_matrix(l, suffix, dims);
        return w;
    }
    w.q = get_tensor(l, suffix, ES2S_INT8, 2, dims);
    int32_t *sums = es2s_arena_take(&l->arena, dims[0], sizeof *sums);
    if (l->arena.base && l->status == ES2S_OK) {
        if (memchr(w.q, 0x80, (size_t)n)) refuse_tensor(l, "values in [-127, 127]", -128);
        l->kernels->row_sums_qc8w(w.q, (size_t)n_out, (size_t)n_in, sums);
    }
    w.sums = sums;
    char scale[64];
    snprintf(scale, sizeof scale, "%s_scale", suffix);
    w.scale = get_vector(l, scale, n_out, 0);
    return w;
}

/* `<name>.weight` and, in a model that has them, `<name>.bias`. */
static es2s_matrix get_linear(loader *l, const es2s_model *m, const char *name, int32_t n_out, int32_t n_in) {
    char suffix[48];
    snprintf(suffix, sizeof suffix, "%s.weight", name);
    es2s_matrix w = get_matrix(l, suffix, n_out, n_in);
    snprintf(suffix, sizeof suffix, "%s.bias", name);
    if (m->linear_has_bias) w.bias = get_vector(l, suffix, n_out, -FLT_MAX);
    return w;
}

static const float *get_position_embedding(loader *l, const es2s_model_dims *d) {
    uint64_t dims[] = {0, (uint64_t)d->d_model};
    const float *table = get_float_matrix(l, "position_embedding.weight", dims);
    if (l->status != ES2S_OK) return NULL;
    if (dims[0] > MAX_POSITIONS) refuse_tensor(l, "65536 rows at most", (double)dims[0]);
    if (dims[0] < (uint64_t)d->max_target_len)
        refuse_tensor(l, "a row for each of max_target_len positions", (double)dims[0]);
    return table;
}

static es2s_position_bias get_position_bias(loader *l, int32_t n_heads) {
    uint64_t dims[] = {(uint64_t)n_heads, 0};
    const void *data = get_tensor(l, "position_bias", ES2S_FLOAT32, 2, dims);
    if (dims[1] > MAX_POSITIONS && l->status == ES2S_OK)
        refuse_tensor(l, "65536 distances at most", (double)dims[1]);
    const float *values = copy_floats(l, data, dims[0] * dims[1]);
    check_floats(l, values, dims[0] * dims[1], -FLT_MAX);
    return (es2s_position_bias){.n_distances = (int32_t)dims[1], .values = values};
}

static void read_layer(loader *l, const es2s_model *m, es2s_layer *layer) {
    const int32_t d_model = m->dims.d_model, inner = m->dims.n_heads * m->dims.d_head, d_ff = m->dims.d_ff;
    layer->self_attn_norm = get_norm(l, m, "self_attn_norm");
    layer->self_attn_qkv = get_linear(l, m, "self_attn.qkv", 3 * inner, d_model);
    layer->self_attn_o = get_linear(l, m, "self_attn.o", d_model, inner);
    layer->cross_attn_norm = get_norm(l, m, "cross_attn_norm");
    layer->cross_attn_q = get_linear(l, m, "cross_attn.q", inner, d_model);
    layer->cross_attn_o = get_linear(l, m, "cross_attn.o", d_model, inner);
    layer->ffn_norm = get_norm(l, m, "ffn_norm");
    layer->ffn_up = get_linear(l, m, "ffn.up", m->ffn_gated ? 2 * d_ff : d_ff, d_model);
    layer->ffn_down = get_linear(l, m, "ffn.down", d_model, d_ff);
    if (m->position_bias_per_layer) layer->position_bias = get_position_bias(l, m->dims.n_heads);
}

/* Takes the model's arrays from the arena; fills and checks them if it has a block. */
static void read_tensors(loader *l, es2s_model *m) {
    const es2s_model_dims *d = &m->dims;
    es2s_layer *layers = es2s_arena_take(&l->arena, (uint64_t)d->n_layers, sizeof *layers);
    m->layers = layers;
    m->embedding = m->encoder_embedding = get_matrix(l, "embedding.weight", d->vocab_size, d->d_model);
    if (l->source_vocab_size > 0)
        m->encoder_embedding = get_matrix(l, "encoder_embedding.weight", l->source_vocab_size, d->d_model);
    es2s_position_bias shared = {0};
    if (m->position_is_table)
        m->position_embedding = get_position_embedding(l, d);
    else if (!m->position_bias_per_layer)
        shared = get_position_bias(l, d->n_heads);
    if (l->has_embedding_norm) m->embedding_norm = get_norm(l, m, "embedding_norm");
    for (int32_t i = 0; i < d->n_layers; i++) {
        es2s_layer layer = {.position_bias = shared};
        snprintf(l->prefix, sizeof l->prefix, "layers.%d.", i);
        read_layer(l, m, &layer);
        if (layers) layers[i] = layer;
    }
    l->prefix[0] = '\0';
    if (l->has_final_norm) m->final_norm = get_norm(l, m, "final_norm");
    m->lm_head =
        l->is_lm_head_tied ? m->embedding : get_matrix(l, "lm_head.weight", d->vocab_size, d->d_model);
    if (l->has_final_logits_bias)
        m->lm_head.bias = get_vector(l, "final_logits_bias", d->vocab_size, -FLT_MAX);
}

/* ============================================= Model ============================================= */

es2s_status es2s_model_create(const void *data, size_t size, const es2s_model_params *params,
                              es2s_model **model_out) {
    es2s_model m = {0};
    if (es2s_kernels_select(&m.kernels, params->isa) != 0)
        return es2s_fail(ES2S_UNSUPPORTED_CPU, "isa: expected one of \"%s\", found \"%s\"",
                         es2s_kernels_supported(), params->isa);
    loader l = {.kernels = &m.kernels};
    l.status = es2s_weights_file_parse(&l.file, data, size, params->verify_data != 0);
    read_keys(&l, &m);

    es2s_arena_take(&l.arena, 1, sizeof m);
    read_tensors(&l, &m);
    if (l.status == ES2S_OK) l.status = es2s_weights_file_check_all_asked(&l.file);
    if (l.status != ES2S_OK) return l.status;

    const size_t n_bytes = l.arena.used;
    l.arena = (es2s_arena){.base = es2s_alloc(n_bytes)};
    if (!l.arena.base) return es2s_fail(ES2S_OUT_OF_MEMORY, "model: cannot allocate %zu bytes", n_bytes);
    es2s_model *model = es2s_arena_take(&l.arena, 1, sizeof *model);
    read_tensors(&l, &m);
    assert(l.status != ES2S_OK || l.arena.used == n_bytes);
    if (l.status == ES2S_OK && params->n_threads > 1) {
        m.pool = es2s_thread_pool_create(params->n_threads);
        if (!m.pool)
            l.status = es2s_fail(ES2S_OUT_OF_MEMORY, "model: cannot start %d threads", params->n_threads - 1);
    }
    if (l.status != ES2S_OK) {
        es2s_free(l.arena.base);
        return l.status;
    }
    *model = m;
    *model_out = model;
    return ES2S_OK;
}

void es2s_model_free(es2s_model *model) {
    if (!model) return;
    es2s_thread_pool_free(model->pool);
    es2s_file_unmap(&model->file);
    es2s_free(model);
}
