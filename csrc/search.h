/* Greedy and beam search over the sources of a session, with the meaning of transformers' generate(). */
#ifndef ES2S_SEARCH_H
#define ES2S_SEARCH_H

#include <stddef.h>
#include <stdint.h>

#include "edge_s2s.h"

/* Size of es2s_session.search_scratch, a multiple of 64; SIZE_MAX if that cannot be addressed. */
size_t es2s_search_scratch_bytes(int32_t vocab_size, int32_t max_batch, int32_t max_beams,
                                 int32_t max_draft_tokens, int32_t max_source_len, int32_t max_target_len);

/* As es2s_session_generate, whose arguments are complete, checked, and fit the session. Allocates nothing. */
es2s_status es2s_search_run(es2s_session *s, const es2s_generate_params *params, int32_t *tokens_out,
                            int32_t *lens_out, float *scores_out, float *logprobs_out,
                            int32_t *finish_reasons_out);

#endif
