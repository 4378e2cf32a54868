/*
 * Drawing the next token: transformers' warpers temperature, top_k, top_p, min_p and typical_p, in this
 * order, then one draw from the softmax of what they keep.
 *
 * Randomness is a function of (seed, draw, step) and nothing else, by the counter-based generator Philox
 * (Salmon et al. 2011), and every sum has one order: the same token comes on every CPU, with any number of
 * threads, and whatever else is being decoded.
 */
#ifndef ES2S_SAMPLING_H
#define ES2S_SAMPLING_H

#include <stdint.h>

#include "arena.h"
#include "edge_s2s.h"
#include "kernels/kernels.h"

/* Which random number. */
typedef struct es2s_random_index {
    uint64_t seed;
    uint32_t step;  /* new tokens before this one */
    uint32_t draw;  /* number of the sequence among those drawn with one seed */
    uint32_t beam;  /* 0 but in beam search that samples, */
    uint32_t token; /* which has a number for each continuation */
} es2s_random_index;

/* Uniform in (0, 1), an odd multiple of 2^-53. */
double es2s_random_uniform(es2s_random_index index);

/* Room for one row. */
typedef struct es2s_sampler {
    const es2s_kernels *kernels;
    const es2s_generate_params *params;
    int32_t *tokens; /* [vocab_size] that are kept, ascending */
    float *scores;   /* [vocab_size] of them */
    float *probs;    /* [vocab_size] of them */
    float *keys;     /* [vocab_size] what they are taken by, smallest first */
    int32_t *heap;   /* [vocab_size] indices of them */
} es2s_sampler;

void es2s_sampler_take(es2s_sampler *sampler, es2s_arena *arena, int32_t vocab_size);

/* Applies the warpers to a row; at least `min_to_keep` tokens stay, if so many are allowed.
 * scores: float[vocab_size], after rules, in place: what is not kept becomes -inf. */
void es2s_sampling_warp(const es2s_sampler *sampler, float *scores, int32_t vocab_size, int32_t min_to_keep);

/* Draws one token from a row of scores, after rules; 0 if every token is forbidden. */
int32_t es2s_sampling_draw(const es2s_sampler *sampler, const float *scores, int32_t vocab_size,
                           es2s_random_index index);

#endif
