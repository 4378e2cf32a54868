/* Small decoder.weights and encoder.weights files with random weights, and one of their fields changed at will. */
#ifndef TINY_WEIGHTS_H
#define TINY_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tiny_options {
    int32_t vocab_size, d_model, d_ff, n_layers, n_heads, d_head, max_source_len, max_target_len;
    bool is_int8, is_tied, bias_per_layer;
    bool layer_norm, post_norm, embedding_norm, no_final_norm, position_table, linear_bias, final_logits_bias;
    int32_t source_vocab_size; /* 0: the encoder shares the embedding */
    bool kv_cache_f16;
    const char *ffn;
    int32_t head_rescore; /* 0 for float32 */
    uint64_t seed;
    const char *extra_key;    /* one more key, an integer; NULL = none */
    const char *extra_tensor; /* one more tensor, float32 [3]; NULL = none */
} tiny_options;

/* int8, gated GELU, sizes that are no multiple of anything. */
tiny_options tiny_defaults(void);

/* A valid file of *size_out bytes, aligned to 64; free() it. */
uint8_t *tiny_weights(const tiny_options *options, size_t *size_out);

/* The same of an encoder.weights file for a decoder with those options; what only decoders have is not read. */
uint8_t *tiny_encoder(const tiny_options *options, const tiny_options *decoder, size_t *size_out);

/* Writes the SHA-256 of what the file now contains into its header. */
void tiny_seal(uint8_t *file, size_t size);

/* The 256-byte entry of a key, or the 128-byte entry of a tensor, inside the file. The name must exist. */
uint8_t *tiny_find_key(uint8_t *file, const char *name);
uint8_t *tiny_find_tensor(uint8_t *file, const char *name);

/* First byte of a tensor's data. */
uint8_t *tiny_tensor_data(uint8_t *file, const char *name);

/* Random floats in [-scale, scale), the next ones of *seed. */
void tiny_fill(uint64_t *seed, float scale, size_t n, float *x);

/* The next of a sequence of random numbers (Steele et al. 2014, splitmix64). */
uint64_t tiny_random(uint64_t *seed);

#endif
