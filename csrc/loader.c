#include "loader.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "platform.h"

#define MAX_POSITIONS 65536

enum { PACKED_TOGETHER = 512 }; /* outputs, whole blocks: so much is in memory twice */

/* ============================================== Keys ============================================= */

int32_t es2s_load_int(es2s_loader *l, const char *name, int32_t min, int32_t max) {
    int32_t value = min;
    if (l->status == ES2S_OK) l->status = es2s_weights_file_get_int(&l->file, name, min, max, &value);
    return value;
}

double es2s_load_float(es2s_loader *l, const char *name, double min, double max) {
    double value = min;
    if (l->status == ES2S_OK) l->status = es2s_weights_file_get_float(&l->file, name, min, max, &value);
    return value;
}

int32_t es2s_load_optional_int(es2s_loader *l, const char *name, int32_t min, int32_t max, int32_t absent) {
    if (l->status != ES2S_OK || !es2s_weights_file_has(&l->file, name)) return absent;
    const int32_t value = es2s_load_int(l, name, min, max);
    if (l->status == ES2S_OK && value == absent)
        l->status = es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected no such key for its default, found %d",
                              name, value);
    return value;
}

static const char *const weights_dtypes[] = {"float32", "int8", NULL};
static const char *const float_dtypes[] = {"float32", "float16", NULL};
static const char *const norms[] = {"rms", "layer", NULL};
static const char *const norm_positions[] = {"pre", "post", NULL};
static const char *const positions[] = {"relative_bias", "table", NULL};
static const char *const ffns[] = {"relu",           "gelu_tanh",  "gelu_erf",
                                   "silu",           "gated_relu", "gated_gelu_tanh",
                                   "gated_gelu_erf", "gated_silu", NULL};

/* Which of the values a key has; 0 after a failure. */
static int get_choice(es2s_loader *l, const char *name, const char *const *values) {
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

bool es2s_load_kv_cache_is_f16(es2s_loader *l) {
    const char *const name = "kv_cache_dtype";
    if (l->status != ES2S_OK || !es2s_weights_file_has(&l->file, name)) return false;
    const bool is_f16 = get_choice(l, name, float_dtypes) == 1;
    if (l->status == ES2S_OK && !is_f16)
        l->status =
            es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected no such key for its default, found float32", name);
    return is_f16;
}

/* The limits keep products of dimensions within 64 bits and int8 dot products (131072 * 127 * 127) within 32.
 */
es2s_features es2s_load_features(es2s_loader *l) {
    es2s_features f = {0};
    f.d_model = es2s_load_int(l, "d_model", 1, 65536);
    f.d_ff = es2s_load_int(l, "d_ff", 1, 131072);
    f.n_layers = es2s_load_int(l, "n_layers", 1, 256);
    f.n_heads = es2s_load_int(l, "n_heads", 1, 1024);
    f.d_head = es2s_load_int(l, "d_head", 1, 65536 / f.n_heads < 1024 ? 65536 / f.n_heads : 1024);
    l->is_int8 = get_choice(l, "weights_dtype", weights_dtypes) == 1;
    l->norm_is_layer = f.norm_is_layer = get_choice(l, "norm", norms) == 1;
    f.norm_is_post = get_choice(l, "norm_position", norm_positions) == 1;
    f.position_is_table = get_choice(l, "position", positions) == 1;
    f.position_bias_per_layer = es2s_load_int(l, "position_bias_per_layer", 0, f.position_is_table ? 0 : 1);
    const int ffn = get_choice(l, "ffn", ffns);
    void (*const activations[])(float *, size_t) = {l->kernels->relu, l->kernels->gelu_tanh,
                                                    l->kernels->gelu_erf, l->kernels->silu};
    f.ffn_activation = activations[ffn % 4];
    f.ffn_gated = ffn >= 4;
    l->linear_has_bias = f.linear_has_bias = es2s_load_int(l, "linear_bias", 0, 1);
    f.has_embedding_norm = es2s_load_int(l, "embedding_norm", 0, 1);
    f.has_final_norm = es2s_load_int(l, "final_norm", 0, 1);
    f.norm_eps = (float)es2s_load_float(l, "norm_eps", 1e-12, 1);
    f.embedding_scale = (float)es2s_load_float(l, "embedding_scale", 1e-6, 1e6);
    return f;
}

/* ============================================ Tensors ============================================ */

static const void *get_tensor(es2s_loader *l, const char *suffix, es2s_dtype dtype, int n_dims,
                              uint64_t *dims) {
    const void *data = NULL;
    if (l->status != ES2S_OK) return NULL;
    snprintf(l->name, sizeof l->name, "%s%s", l->prefix, suffix);
    l->status = es2s_weights_file_get_tensor(&l->file, l->name, dtype, n_dims, dims, &data);
    return data;
}

void es2s_refuse_tensor(es2s_loader *l, const char *expected, double found) {
    l->status = es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected %s, found %g", l->name, expected, found);
}

static const float *copy_floats(es2s_loader *l, const void *data, uint64_t n) {
    if (l->status != ES2S_OK) return NULL;
    float *copy = es2s_arena_take(l->arena, n, sizeof *copy);
    if (copy) memcpy(copy, data, (size_t)n * sizeof *copy);
    return copy;
}

/* x: float[n], NULL while measuring. */
static void check_floats(es2s_loader *l, const float *x, uint64_t n, float min) {
    if (!l->arena->base || l->status != ES2S_OK) return;
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            es2s_refuse_tensor(l, "finite values", (double)x[i]);
            return;
        }
        if (x[i] < min) {
            es2s_refuse_tensor(l, "values >= 0", (double)x[i]);
            return;
        }
    }
}

const float *es2s_load_vector(es2s_loader *l, const char *suffix, int32_t n, float min) {
    uint64_t dims[] = {(uint64_t)n};
    const void *data = get_tensor(l, suffix, ES2S_FLOAT32, 1, dims);
    const float *x = copy_floats(l, data, dims[0]);
    check_floats(l, x, dims[0], min);
    return x;
}

es2s_norm es2s_load_norm(es2s_loader *l, const char *name, int32_t n) {
    char suffix[48];
    es2s_norm norm = {0};
    snprintf(suffix, sizeof suffix, "%s.weight", name);
    norm.weight = es2s_load_vector(l, suffix, n, -FLT_MAX);
    snprintf(suffix, sizeof suffix, "%s.bias", name);
    if (l->norm_is_layer) norm.bias = es2s_load_vector(l, suffix, n, -FLT_MAX);
    return norm;
}

/* Used in place where the file's alignment allows it. */
static const float *get_float_matrix(es2s_loader *l, const char *suffix, uint64_t dims[2]) {
    const void *data = get_tensor(l, suffix, ES2S_FLOAT32, 2, dims);
    const bool is_aligned = (uintptr_t)data % _Alignof(float) == 0;
    const float *x = is_aligned ? data : copy_floats(l, data, dims[0] * dims[1]);
    check_floats(l, x, dims[0] * dims[1], -FLT_MAX);
    return x;
}

/* All of it, again and again: a read brings along the pages around it. */
void es2s_let_go_of_packed(const es2s_loader *l) {
    if (l->has_packed) es2s_mapping_let_go(l->file.data, l->n_mapped);
}

/* Of int8 weights. */
static void check_values(es2s_loader *l, const int8_t *q, size_t n) {
    if (memchr(q, 0x80, n)) es2s_refuse_tensor(l, "values in [-127, 127]", -128);
}

/* sums: int32[n_out], or NULL: nothing is multiplied by w. */
static void check_in_place(es2s_loader *l, es2s_matrix *w, int32_t *sums) {
    const size_t n_out = (size_t)w->n_out, n_in = (size_t)w->n_in;
    if (!l->arena->base || l->status != ES2S_OK) return;
    check_values(l, w->q, n_out * n_in);
    if (sums) l->kernels->row_sums_qc8w(w->q, n_out, n_in, sums);
    w->sums = sums;
}

/* Each part of w is checked and then packed while the cache holds it. packed: NULL while measuring. */
static void pack(es2s_loader *l, es2s_matrix *w, uint8_t *packed) {
    const size_t n_out = (size_t)w->n_out, n_in = (size_t)w->n_in;
    l->has_packed = true;
    if (!packed) es2s_let_go_of_packed(l); /* what was read to verify it */
    if (!packed || l->status != ES2S_OK) return;
    for (size_t o = 0; o < n_out && l->status == ES2S_OK; o += PACKED_TOGETHER) {
        const size_t n = n_out - o < PACKED_TOGETHER ? n_out - o : PACKED_TOGETHER;
        check_values(l, w->q + o * n_in, n * n_in);
        l->kernels->pack_qc8w(w->q + o * n_in, n, n_in, packed + o * n_in);
        es2s_let_go_of_packed(l);
    }
    w->packed = packed;
    w->q = NULL; /* a read would bring its pages back */
}

/* multiplies: vectors are multiplied by it, otherwise it is a table of rows that are looked up. */
static es2s_matrix load_matrix(es2s_loader *l, const char *suffix, int32_t n_out, int32_t n_in,
                               bool multiplies) {
    es2s_matrix w = {.n_out = n_out, .n_in = n_in};
    uint64_t dims[] = {(uint64_t)n_out, (uint64_t)n_in};
    if (!l->is_int8) {
        w.f32 = get_float_matrix(l, suffix, dims);
        return w;
    }
    w.q = get_tensor(l, suffix, ES2S_INT8, 2, dims);
    char scale[64];
    snprintf(scale, sizeof scale, "%s_scale", suffix);
    const size_t n_packed = multiplies && l->packs ? l->kernels->packed_size(dims[0], dims[1]) : 0;
    if (n_packed > 0)
        pack(l, &w, es2s_arena_take(l->arena, n_packed, 1));
    else
        check_in_place(l, &w, multiplies ? es2s_arena_take(l->arena, dims[0], sizeof *w.sums) : NULL);
    w.scale = es2s_load_vector(l, scale, n_out, 0);
    return w;
}

es2s_matrix es2s_load_table(es2s_loader *l, const char *suffix, int32_t n_out, int32_t n_in) {
    return load_matrix(l, suffix, n_out, n_in, false);
}

es2s_matrix es2s_load_matrix(es2s_loader *l, const char *suffix, int32_t n_out, int32_t n_in) {
    return load_matrix(l, suffix, n_out, n_in, true);
}

es2s_matrix es2s_load_linear(es2s_loader *l, const char *name, int32_t n_out, int32_t n_in) {
    char suffix[48];
    snprintf(suffix, sizeof suffix, "%s.weight", name);
    es2s_matrix w = es2s_load_matrix(l, suffix, n_out, n_in);
    snprintf(suffix, sizeof suffix, "%s.bias", name);
    if (l->linear_has_bias) w.bias = es2s_load_vector(l, suffix, n_out, -FLT_MAX);
    return w;
}

const float *es2s_load_position_embedding(es2s_loader *l, int32_t n_positions, int32_t d_model) {
    uint64_t dims[] = {0, (uint64_t)d_model};
    const float *table = get_float_matrix(l, "position_embedding.weight", dims);
    if (l->status != ES2S_OK) return NULL;
    if (dims[0] > MAX_POSITIONS) es2s_refuse_tensor(l, "65536 rows at most", (double)dims[0]);
    if (dims[0] < (uint64_t)n_positions) {
        char expected[64];
        snprintf(expected, sizeof expected, "a row for each of %d positions", n_positions);
        es2s_refuse_tensor(l, expected, (double)dims[0]);
    }
    return table;
}

es2s_position_bias es2s_load_position_bias(es2s_loader *l, int32_t n_heads) {
    uint64_t dims[] = {(uint64_t)n_heads, 0};
    const void *data = get_tensor(l, "position_bias", ES2S_FLOAT32, 2, dims);
    if (dims[1] > MAX_POSITIONS && l->status == ES2S_OK)
        es2s_refuse_tensor(l, "65536 distances at most", (double)dims[1]);
    const float *values = copy_floats(l, data, dims[0] * dims[1]);
    check_floats(l, values, dims[0] * dims[1], -FLT_MAX);
    return (es2s_position_bias){.n_columns = (int32_t)dims[1], .values = values};
}

es2s_self_attention es2s_load_self_attention(es2s_loader *l, const es2s_features *f) {
    const int32_t inner = f->n_heads * f->d_head;
    es2s_self_attention attention;
    attention.norm = es2s_load_norm(l, "self_attn_norm", f->d_model);
    attention.qkv = es2s_load_linear(l, "self_attn.qkv", 3 * inner, f->d_model);
    attention.o = es2s_load_linear(l, "self_attn.o", f->d_model, inner);
    return attention;
}

es2s_feed_forward es2s_load_feed_forward(es2s_loader *l, const es2s_features *f) {
    es2s_feed_forward ffn;
    ffn.norm = es2s_load_norm(l, "ffn_norm", f->d_model);
    ffn.up = es2s_load_linear(l, "ffn.up", f->ffn_gated ? 2 * f->d_ff : f->d_ff, f->d_model);
    ffn.down = es2s_load_linear(l, "ffn.down", f->d_model, f->d_ff);
    return ffn;
}
