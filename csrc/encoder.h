/*
 * The encoder: all tokens of a source at once, from their ids to the keys and values that the decoder's
 * cross-attention reads.
 */
#ifndef ES2S_ENCODER_H
#define ES2S_ENCODER_H

#include "arena.h"
#include "kv_cache.h"
#include "model.h"

/* inner = n_heads * d_head of the encoder; padded_len = max_len rounded up to a multiple of 16 */
typedef struct es2s_encoder_scratch {
    int32_t max_len;
    size_t padded_len;
    float *x;             /* [max_len, d_model] residual stream */
    float *q;             /* [max_len, inner] queries, then what attention makes of them */
    float *k;             /* [n_heads, d_head, padded_len] keys, transposed */
    float *v;             /* [n_heads, max_len, d_head] */
    float *position_bias; /* [0, 1 or n_layers, n_heads, 2 * max_len - 1], of query 0 and key 0 in the middle */
    es2s_worker *workers; /* [n_threads], each for a block of rows */
    float *block;         /* [n_threads, block_floats] q, k and v, or scores, or cross keys and values */
    size_t block_floats;
} es2s_encoder_scratch;

/* When to give up. */
typedef struct es2s_patience {
    int64_t deadline_ns;            /* on es2s_clock_ns */
    const volatile int32_t *cancel; /* non-zero: now; may be NULL */
} es2s_patience;

/* Takes the arrays for sources of so many tokens; the model has an encoder. */
void es2s_encoder_scratch_take(es2s_encoder_scratch *s, const es2s_model *model, int32_t max_len,
                               es2s_arena *arena);

/* Fills a row of the cache from int32[n] checked token_ids, n <= max_len. Writes the mean of the last hidden
 * states, float[d_model], unless it is NULL. Looks at its patience before each layer; CANCELLED leaves the row
 * without a source. */
es2s_status es2s_encoder_run(es2s_encoder_scratch *s, const es2s_model *model, const int32_t *token_ids,
                             int32_t n, const es2s_patience *patience, es2s_kv_cache *cache, int32_t row,
                             float *mean_hidden);

#endif
