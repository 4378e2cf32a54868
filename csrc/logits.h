/*
 * Rules on the scores of the next token: what may not, and what must, come now.
 *
 * Names, order and corner cases are those of transformers' logits processors. Greedy search rules raw logits,
 * beam search rules log-probabilities; nothing is renormalised afterwards.
 */
#ifndef ES2S_LOGITS_H
#define ES2S_LOGITS_H

#include <stdint.h>

#include "edge_s2s.h"

/* Applies every rule of `params` to one row.
 * history: int32[n_history], the start token and all tokens generated since; n_history >= 1.
 * scores: float[vocab_size], in place; a forbidden token becomes -inf, a forced one 0 and all others -inf.
 * scratch: float[n_history]. */
void es2s_logits_apply_rules(const es2s_generate_params *params, const int32_t *history, int32_t n_history,
                             float *scores, int32_t vocab_size, float *scratch);

#endif
