/*
 * The model: what decoder.weights, encoder.weights and tokenizer.table say, checked, as pointers that decoder and encoder can
 * use. Immutable once loaded, except for its thread pool, which guards itself.
 */
#ifndef ES2S_MODEL_H
#define ES2S_MODEL_H

#include <stdbool.h>

#include "bundle_file.h"
#include "edge_s2s.h"
#include "encoder_weights.h"
#include "kernels/kernels.h"
#include "layers.h"
#include "loader.h"
#include "platform.h"
#include "thread_pool.h"
#include "tokenizer.h"

#define ES2S_MAX_HEAD_RESCORE 64

typedef struct es2s_layer {
    es2s_position_bias position_bias; /* by the distance of the key before the query; the last column holds for
                                         every larger one. The same in all layers, unless per layer */
    es2s_self_attention self_attn;
    es2s_norm cross_attn_norm;
    es2s_matrix cross_attn_q; /* [inner, d_model]; k and v are made by the encoder */
    es2s_matrix cross_attn_o; /* [d_model, inner] */
    es2s_feed_forward ffn;
} es2s_layer;

struct es2s_model {
    es2s_kernels kernels;
    es2s_model_dims dims;
    es2s_generate_params generation; /* defaults */

    es2s_features features;
    bool kv_cache_is_f16; /* sessions keep keys and values in float16 */
    int32_t head_rescore; /* so many best logits of a row are recomputed with float activations */

    es2s_matrix embedding;           /* [vocab_size, d_model] */
    es2s_matrix encoder_embedding;   /* [source_vocab_size, d_model]; the decoder's if they share one */
    const float *position_embedding; /* [>= max_target_len, d_model], NULL = none */
    es2s_norm embedding_norm;
    const es2s_layer *layers; /* [n_layers] */
    es2s_norm final_norm;
    es2s_matrix lm_head; /* [vocab_size, d_model], the embedding if tied; its bias is final_logits_bias */

    const es2s_encoder *encoder;     /* NULL: encoded elsewhere */
    const es2s_tokenizer *tokenizer; /* NULL: tokenized elsewhere */

    es2s_thread_pool *pool;
    es2s_bundle_file files; /* what is mapped; nothing if the data is the caller's */
};

/* What `files` says must live as long as the model; params is complete and checked. */
es2s_status es2s_model_create(const es2s_bundle_file *files, const es2s_model_params *params,
                              es2s_model **model_out);

#endif
