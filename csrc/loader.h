/*
 * Reading a model's weights: keys, then tensors, each by its name and checked.
 *
 * After a failure every function does nothing, so that what a model consists of reads as a list. Tensors are
 * walked twice, as arena.h describes: first to check names, types and shapes and to measure, then to copy and
 * to check values. Float vectors are copied, since data may lie at any alignment; the large matrices are
 * packed, in kernel sets that have a use for it (kernels.h), or used where they are.
 */
#ifndef ES2S_LOADER_H
#define ES2S_LOADER_H

#include "arena.h"
#include "layers.h"
#include "weights_file.h"

typedef struct es2s_loader {
    es2s_status status;
    es2s_weights_file file;
    es2s_arena *arena;
    const es2s_kernels *kernels;
    bool packs;      /* int8 matrices, where the kernels have an order of their own */
    size_t n_mapped; /* bytes of the file, if it is a mapping whose pages can be let go, else 0 */
    bool has_packed;
    bool is_int8, norm_is_layer, linear_has_bias;
    char prefix[32]; /* of the tensors asked for: "layers.3." or "" */
    char name[64];   /* the tensor asked for last, for messages */
} es2s_loader;

/* What self-attention adds to a score, by the distance of key and query. */
typedef struct es2s_position_bias {
    int32_t n_columns;
    const float *values; /* [n_heads, n_columns] */
} es2s_position_bias;

/* ---- keys ---- */

/* A value in [min, max]; min after a failure. */
int32_t es2s_load_int(es2s_loader *l, const char *name, int32_t min, int32_t max);
double es2s_load_float(es2s_loader *l, const char *name, double min, double max);

/* A key that may be absent; the file has it only for other values than `absent`. */
int32_t es2s_load_optional_int(es2s_loader *l, const char *name, int32_t min, int32_t max, int32_t absent);

/* Of the optional key "kv_cache_dtype": whether sessions keep keys and values in float16. */
bool es2s_load_kv_cache_is_f16(es2s_loader *l);

/* The keys that stacks of layers have in common; the loader then knows which tensors they call for. */
es2s_features es2s_load_features(es2s_loader *l);

/* ---- tensors: <prefix><name> ---- */

/* float[n], each >= min; NULL while measuring. */
const float *es2s_load_vector(es2s_loader *l, const char *name, int32_t n, float min);

/* `<name>.weight` and, of a layer norm, `<name>.bias`. */
es2s_norm es2s_load_norm(es2s_loader *l, const char *name, int32_t n);

/* With int8 weights `<name>_scale`, too. A table is good for es2s_look_up alone, a matrix also for
 * es2s_linear: packed, if the loader packs and the kernels have an order of their own. */
es2s_matrix es2s_load_table(es2s_loader *l, const char *name, int32_t n_out, int32_t n_in);
es2s_matrix es2s_load_matrix(es2s_loader *l, const char *name, int32_t n_out, int32_t n_in);

/* After all: lets go of a file whose weights were packed. */
void es2s_let_go_of_packed(const es2s_loader *l);

/* `<name>.weight`, a matrix, and, in a model that has them, `<name>.bias`. */
es2s_matrix es2s_load_linear(es2s_loader *l, const char *name, int32_t n_out, int32_t n_in);

/* `position_embedding.weight`: float[>= n_positions, d_model] */
const float *es2s_load_position_embedding(es2s_loader *l, int32_t n_positions, int32_t d_model);

/* `position_bias` */
es2s_position_bias es2s_load_position_bias(es2s_loader *l, int32_t n_heads);

/* `self_attn_norm`, `self_attn.qkv`, `self_attn.o` */
es2s_self_attention es2s_load_self_attention(es2s_loader *l, const es2s_features *f);

/* `ffn_norm`, `ffn.up`, `ffn.down` */
es2s_feed_forward es2s_load_feed_forward(es2s_loader *l, const es2s_features *f);

/* Refuses the tensor asked for last. */
void es2s_refuse_tensor(es2s_loader *l, const char *expected, double found);

#endif
