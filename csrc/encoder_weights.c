#include "encoder_weights.h"

#include <stdio.h>

#include "error.h"

void es2s_encoder_read_keys(es2s_loader *l, es2s_encoder *encoder, const es2s_encoder_fit *fit) {
    encoder->features = es2s_load_features(l);
    if (l->status == ES2S_OK && encoder->features.d_model != fit->d_model)
        l->status = es2s_fail(ES2S_BAD_FORMAT,
                              "key \"d_model\": expected %d, as the embedding that encoder and decoder share "
                              "has, found %d",
                              fit->d_model, encoder->features.d_model);
}

static es2s_position_bias read_position_bias(es2s_loader *l, const es2s_features *f) {
    const es2s_position_bias bias = es2s_load_position_bias(l, f->n_heads);
    if (l->status == ES2S_OK && bias.n_columns % 2 == 0)
        es2s_refuse_tensor(l, "an odd number of columns, with distance 0 in the middle", bias.n_columns);
    return bias;
}

void es2s_encoder_read_tensors(es2s_loader *l, es2s_encoder *encoder, const es2s_encoder_fit *fit) {
    const es2s_features *f = &encoder->features;
    es2s_encoder_layer *layers = es2s_arena_take(l->arena, (uint64_t)f->n_layers, sizeof *layers);
    es2s_matrix *cross_kv = es2s_arena_take(l->arena, (uint64_t)fit->n_decoder_layers, sizeof *cross_kv);
    encoder->layers = layers;
    encoder->cross_kv = cross_kv;
    es2s_position_bias shared = {0};
    if (f->position_is_table)
        encoder->position_embedding = es2s_load_position_embedding(l, fit->max_source_len, f->d_model);
    else if (!f->position_bias_per_layer)
        shared = read_position_bias(l, f);
    if (f->has_embedding_norm) encoder->embedding_norm = es2s_load_norm(l, "embedding_norm", f->d_model);
    for (int32_t i = 0; i < f->n_layers; i++) {
        snprintf(l->prefix, sizeof l->prefix, "layers.%d.", i);
        es2s_encoder_layer layer = {.position_bias = shared};
        layer.self_attn = es2s_load_self_attention(l, f);
        layer.ffn = es2s_load_feed_forward(l, f);
        if (f->position_bias_per_layer) layer.position_bias = read_position_bias(l, f);
        if (layers) layers[i] = layer;
    }
    for (int32_t i = 0; i < fit->n_decoder_layers; i++) {
        snprintf(l->prefix, sizeof l->prefix, "decoder_layers.%d.", i);
        const es2s_matrix kv = es2s_load_linear(l, "cross_attn.kv", 2 * fit->decoder_inner, f->d_model);
        if (cross_kv) cross_kv[i] = kv;
    }
    l->prefix[0] = '\0';
    if (f->has_final_norm) encoder->final_norm = es2s_load_norm(l, "final_norm", f->d_model);
}
