/*
 * Drafts for speculative decoding: what followed the last tokens where they occurred before, in the source or
 * in the output itself (prompt lookup: https://github.com/apoorvumang/prompt-lookup-decoding).
 *
 * The search lets the decoder read a draft together with the last token and keeps it as far as it would have
 * chosen the same, so drafts change no result. Whether they save time depends on the text and on the machine:
 * the lookup measures both and ends where it does not pay.
 */
#ifndef ES2S_PROMPT_LOOKUP_H
#define ES2S_PROMPT_LOOKUP_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ES2S_MAX_DRAFT_TOKENS = 16,
    ES2S_LOOKUP_WINDOW = 8 /* drafts after which it is asked whether they pay */
};

/* Of one sequence; begins as {.max_tokens = n}. */
typedef struct es2s_prompt_lookup {
    int32_t max_tokens;           /* of a draft; 0 = none any more */
    int32_t n_tokens;             /* of the next draft: grows with success, 0 = it is the first one */
    int32_t n_whole;              /* drafts in a row that were accepted whole */
    int32_t n_drafts, n_accepted; /* of the window: drafts, and tokens of theirs */
    int64_t drafted_ns;           /* of the window: time of the steps with a draft */
    int64_t plain_ns;             /* the fastest step without one; 0 = none yet */
} es2s_prompt_lookup;

/* Writes the tokens that may follow the history, at most `room`, to `draft` and returns their number; 0 = no
 * idea. history: int32[n_history], the last token last. source: int32[n_source]. */
int32_t es2s_prompt_lookup_draft(es2s_prompt_lookup *lookup, const int32_t *history, int32_t n_history,
                                 const int32_t *source, int32_t n_source, int32_t room, int32_t *draft);

/* Learns from a step: its time, the tokens of its draft and how many of them were right. */
void es2s_prompt_lookup_learn(es2s_prompt_lookup *lookup, int64_t step_ns, int32_t n_drafted,
                              int32_t n_accepted);

#endif
