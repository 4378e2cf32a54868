/*
 * What the layers of encoder and decoder are made of: the weights as pointers, the features that vary, and
 * the arithmetic that works on rows alone. Attention is not here, since each of the two has its own.
 *
 * Every number of a row is computed from that row alone in one fixed order, so neither the other rows nor the
 * number of threads change a bit of it.
 */
#ifndef ES2S_LAYERS_H
#define ES2S_LAYERS_H

#include <stdbool.h>

#include "arena.h"
#include "kernels/kernels.h"
#include "thread_pool.h"

/* A linear layer y = x W^T + bias, or a table of embeddings. int8 weights have scale and either packed or q,
 * the others are NULL; float32 weights have f32. */
typedef struct es2s_matrix {
    int32_t n_out;
    int32_t n_in;
    const float *scale;    /* [n_out] */
    const uint8_t *packed; /* a copy, as gemm_qd8_packed reads it */
    const int8_t *q;       /* [n_out, n_in] in [-127, 127], inside the file */
    const int32_t *sums;   /* [n_out] sum of each row of q, of a linear layer */
    const float *f32;      /* [n_out, n_in] */
    const float *bias;     /* [n_out], NULL = none */
} es2s_matrix;

/* RMS norm, or layer norm if it has a bias. */
typedef struct es2s_norm {
    const float *weight; /* [d_model], NULL = no norm at all */
    const float *bias;   /* [d_model] */
} es2s_norm;

/* inner = n_heads * d_head */
typedef struct es2s_self_attention {
    es2s_norm norm;
    es2s_matrix qkv; /* [3 * inner, d_model]: rows of q, then k, then v */
    es2s_matrix o;   /* [d_model, inner] */
} es2s_self_attention;

typedef struct es2s_feed_forward {
    es2s_norm norm;
    es2s_matrix up;   /* [d_ff, d_model], gated [2 * d_ff, d_model]: rows of the gate first */
    es2s_matrix down; /* [d_model, d_ff] */
} es2s_feed_forward;

/* Sizes and features of a stack of layers. */
typedef struct es2s_features {
    int32_t d_model, d_ff, n_layers, n_heads, d_head;
    bool norm_is_layer, norm_is_post, position_is_table, position_bias_per_layer, linear_has_bias;
    bool has_embedding_norm, has_final_norm;
    float norm_eps;
    float embedding_scale;
    bool ffn_gated;
    void (*ffn_activation)(float *x, size_t n); /* a member of the kernel table */
} es2s_features;

/* What works on rows, and with which scratch; `rows` below are so many at most. */
typedef struct es2s_worker {
    const es2s_kernels *kernels;
    es2s_thread_pool *pool; /* NULL: the caller alone */
    float *h;               /* [rows, d_model] what a block reads (normed) and then what it adds to x */
    float *wide;            /* [rows, d_ff], gated [rows, 2 * d_ff]: inside a feed-forward */
    int8_t *q8;             /* [rows, max(d_model, inner, d_ff)] quantized input of a linear layer */
    float *q8_scale;        /* [rows] */
} es2s_worker;

/* Takes the arrays for so many rows from the arena; its kernels and pool are not set. */
es2s_worker es2s_worker_take(const es2s_features *f, uint64_t rows, es2s_arena *arena);

/* y = x W^T + bias. x: float[n_rows, n_in], y: float[n_rows, n_out]. */
void es2s_linear(const es2s_worker *worker, const es2s_matrix *w, const float *x, size_t n_rows, float *y);

/* Row `row` of int8 weights: where it is, or unpacked to q: int8[n_in]. */
const int8_t *es2s_matrix_row(const es2s_matrix *w, size_t row, int8_t *q);

/* embeds: float[n, n_in] = table[token_ids] * scale */
void es2s_look_up(const es2s_kernels *kernels, const es2s_matrix *table, float scale,
                  const int32_t *token_ids, size_t n, float *embeds);

/* y = norm(x); x, y: float[n_rows, d_model], y may be x. */
void es2s_normalize(const es2s_kernels *kernels, const es2s_features *f, const es2s_norm *norm,
                    const float *x, size_t n_rows, float *y);

/* What a block reads: with pre-norm norm(x), in worker->h, with post-norm x itself. */
const float *es2s_block_input(const es2s_worker *worker, const es2s_features *f, const es2s_norm *norm,
                              const float *x, size_t n_rows);

/* Adds what a block has computed, worker->h, to the residual stream; with post-norm x = norm(x + h). */
void es2s_add_residual(const es2s_worker *worker, const es2s_features *f, const es2s_norm *norm, float *x,
                       size_t n_rows);

/* The whole block: x: float[n_rows, d_model] */
void es2s_feed_forward_rows(const es2s_worker *worker, const es2s_features *f, const es2s_feed_forward *ffn,
                            float *x, size_t n_rows);

#endif
