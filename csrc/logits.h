/*
 * Rules on the scores of the next token: what may not, and what must, come now.
 *
 * Names, order and corner cases are those of transformers' logits processors. Greedy search rules raw logits,
 * beam search rules log-probabilities, which it renormalises afterwards only if asked to.
 */
#ifndef ES2S_LOGITS_H
#define ES2S_LOGITS_H

#include <stdint.h>

#include "edge_s2s.h"

/* What a row has read so far. */
typedef struct es2s_rule_context {
    const int32_t
        *history; /* [n_history] the prompt (start token and target prefix), then generated tokens */
    int32_t n_history;
    int32_t n_prompt; /* >= 1 */
    int32_t n_source_ids;
    const int32_t *source_ids; /* [n_source_ids] of the decoder's vocabulary, for the rules encoder_* */
} es2s_rule_context;

/* Applies every rule of `params` to one row.
 * scores: float[vocab_size], in place; a forbidden token becomes -inf, a forced one 0 and all others -inf.
 * scratch: float[max(n_history, n_source_ids)]. */
void es2s_logits_apply_rules(const es2s_generate_params *params, const es2s_rule_context *context,
                             float *scores, int32_t vocab_size, float *scratch);

#endif
