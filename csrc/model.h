/*
 * The model: what decoder.weights says, checked, as pointers that the decoder can use. Immutable once loaded,
 * except for its thread pool, which guards itself.
 */
#ifndef ES2S_MODEL_H
#define ES2S_MODEL_H

#include <stdbool.h>

#include "edge_s2s.h"
#include "kernels/kernels.h"
#include "platform.h"
#include "thread_pool.h"

#define ES2S_MAX_HEAD_RESCORE 64

/* A linear layer y = x W^T + bias. Either q, scale and sums are set (int8 weights), or f32 is. */
typedef struct es2s_matrix {
    int32_t n_out;
    int32_t n_in;
    const int8_t *q;     /* [n_out, n_in] in [-127, 127], inside the file */
    const float *scale;  /* [n_out] */
    const int32_t *sums; /* [n_out] sum of each row of q */
    const float *f32;    /* [n_out, n_in] */
    const float *bias;   /* [n_out], NULL = none */
} es2s_matrix;

/* RMS norm, or layer norm if it has a bias. */
typedef struct es2s_norm {
    const float *weight; /* [d_model], NULL = no norm at all */
    const float *bias;   /* [d_model] */
} es2s_norm;

/* What self-attention adds to the score of the key `distance` positions before the query. */
typedef struct es2s_position_bias {
    int32_t n_distances;
    const float *values; /* [n_heads, n_distances]; the last one holds for every larger distance too */
} es2s_position_bias;

/* inner = n_heads * d_head */
typedef struct es2s_layer {
    es2s_position_bias position_bias; /* the same in all layers, unless position_bias_per_layer */
    es2s_norm self_attn_norm;
    es2s_matrix self_attn_qkv; /* [3 * inner, d_model]: rows of q, then k, then v */
    es2s_matrix self_attn_o;   /* [d_model, inner] */
    es2s_norm cross_attn_norm;
    es2s_matrix cross_attn_q; /* [inner, d_model]; k and v are made by the encoder */
    es2s_matrix cross_attn_o; /* [d_model, inner] */
    es2s_norm ffn_norm;
    es2s_matrix ffn_up;   /* [d_ff, d_model], gated [2 * d_ff, d_model]: rows of the gate first */
    es2s_matrix ffn_down; /* [d_model, d_ff] */
} es2s_layer;

struct es2s_model {
    es2s_kernels kernels;
    es2s_model_dims dims;
    es2s_generate_params generation; /* defaults */

    /* Features; norms, biases and tables say themselves whether they are there. */
    bool norm_is_layer, norm_is_post, position_is_table, position_bias_per_layer, linear_has_bias;
    float norm_eps;
    float embedding_scale;
    bool ffn_gated;
    void (*ffn_activation)(float *x, size_t n); /* a member of kernels */
    int32_t head_rescore; /* so many best logits of a row are recomputed with float activations */

    es2s_matrix embedding;           /* [vocab_size, d_model] */
    es2s_matrix encoder_embedding;   /* [source_vocab_size, d_model]; the decoder's if they share one */
    const float *position_embedding; /* [>= max_target_len, d_model], NULL = none */
    es2s_norm embedding_norm;
    const es2s_layer *layers; /* [n_layers] */
    es2s_norm final_norm;
    es2s_matrix lm_head; /* [vocab_size, d_model], the embedding if tied; its bias is final_logits_bias */

    es2s_thread_pool *pool;
    es2s_mapping file; /* empty if the data is the caller's */
};

/* data must live as long as the model; params is complete and checked. */
es2s_status es2s_model_create(const void *data, size_t size, const es2s_model_params *params,
                              es2s_model **model_out);

#endif
