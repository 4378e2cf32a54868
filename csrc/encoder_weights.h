/* The encoder: what encoder.weights says, checked, as pointers. The format is in edge_s2s/encoder_weights.py. */
#ifndef ES2S_ENCODER_WEIGHTS_H
#define ES2S_ENCODER_WEIGHTS_H

#include "layers.h"
#include "loader.h"

typedef struct es2s_encoder_layer {
    es2s_position_bias position_bias; /* column n_columns / 2 + (key - query), the outer ones hold beyond. The
                                         same in all layers, unless per layer */
    es2s_self_attention self_attn;
    es2s_feed_forward ffn;
} es2s_encoder_layer;

typedef struct es2s_encoder {
    es2s_features features;
    const float *position_embedding; /* [>= max_source_len, d_model], NULL = none */
    es2s_norm embedding_norm;
    const es2s_encoder_layer *layers; /* [n_layers] */
    es2s_norm final_norm;
    const es2s_matrix *cross_kv; /* [decoder layers] of [2 * inner, d_model]: rows of k, then v; inner is the
                                    decoder's */
} es2s_encoder;

/* What the encoder is for. */
typedef struct es2s_encoder_fit {
    int32_t d_model, max_source_len, n_decoder_layers, decoder_inner;
} es2s_encoder_fit;

/* Features and sizes, from the loader's keys. */
void es2s_encoder_read_keys(es2s_loader *l, es2s_encoder *encoder, const es2s_encoder_fit *fit);

/* Takes the encoder's arrays from the arena; fills and checks them if it has a block. */
void es2s_encoder_read_tensors(es2s_loader *l, es2s_encoder *encoder, const es2s_encoder_fit *fit);

#endif
