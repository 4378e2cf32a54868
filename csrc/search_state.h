/*
 * The state of a search, and the steps that every kind of search has in common.
 *
 * A source is searched by groups that each follow a few hypotheses: greedy search has one group of one, beam
 * search one of num_beams, diverse beam search num_beam_groups, and sampling one of one for each sequence
 * that it draws.
 */
#ifndef ES2S_SEARCH_STATE_H
#define ES2S_SEARCH_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "edge_s2s.h"
#include "prompt_lookup.h"
#include "sampling.h"

/* The score of what must lose. It shows only where too few continuations are allowed. */
#define ES2S_HOPELESS (-1.0e9f)

/* A sequence decoded so far. */
struct hypothesis {
    int32_t *tokens; /* [1 + max_new_tokens] the last token of the prompt, behind the others, then `len` new
                        ones */
    float *logprobs; /* [max_new_tokens] of the generated tokens, before rules */
    int32_t len;
    int32_t row; /* live: the decoder row that read all its tokens but the last */
    float score; /* live: sum over its tokens; finished: divided by the length penalty */
};

/* A live hypothesis with one more token. */
struct candidate {
    float score;
    float rank;   /* what candidates compete by: the score, or a random number that the score makes likely */
    int32_t beam; /* index of the live hypothesis */
    int32_t token;
};

/* What turns a row of logits into log-probabilities: (logit - max) - log_sum. */
struct log_softmax {
    float max, log_sum;
};

/* Hypotheses of one source that compete. */
struct group {
    struct hypothesis *live;     /* [group_size] best first; all have generated the same number of tokens */
    struct hypothesis *next;     /* [group_size] where the step builds the next live ones */
    struct hypothesis *finished; /* [group_size] best first */
    int32_t n_live, n_finished;
    bool is_settled; /* no step can change what it has found */
};

/* The search for one source. */
struct source_search {
    int32_t source;       /* row of the session's sources and of the outputs */
    int32_t n_prompt;     /* tokens that it begins with: start token and prefix */
    struct group *groups; /* [n_groups] */
    int32_t n_streamed;   /* tokens handed to on_tokens */
};

/* One call, for all sources. */
struct search {
    es2s_session *session;
    const es2s_generate_params *params;
    int32_t vocab_size;
    int32_t n_groups, group_size;
    bool is_sampling; /* without beams */
    int32_t max_len;  /* of the longest prefix and new tokens */
    int64_t start_ns;

    struct source_search *active; /* [n_active] sources whose result is still open, longest prompt first */
    int32_t n_active;
    int32_t n_generated;  /* tokens that each live hypothesis has after this step */
    bool stopped;         /* by on_tokens */
    es2s_status status;   /* of logits_processor */
    int32_t interruption; /* es2s_finish_reason of sources that are still open then, or NOT_INTERRUPTED */

    struct group *groups;          /* [n_sources, n_groups] what the sources point into */
    struct hypothesis *hypotheses; /* [n_sources, n_groups, 3, group_size] what the groups point into */
    int32_t *tokens;               /* [n_sources, n_groups, 3, group_size, 1 + max_len] */
    float *logprobs;               /* [n_sources, n_groups, 3, group_size, max_new_tokens] */
    struct candidate *candidates;  /* [2 * group_size] best first */
    struct candidate *survivors;   /* [group_size] best first */
    int32_t *chosen;               /* [n_groups * group_size] tokens that earlier groups took in this step */
    int32_t n_chosen;
    const struct hypothesis **results; /* [2 * n_groups * group_size] of one source */
    float *scores;                     /* [vocab_size] of the next token of one row, ruled */
    float *rule_scratch;               /* [max(max_len, max_source_len)] */
    es2s_sampler sampler;              /* for one row */

    es2s_prompt_lookup lookup; /* greedy search while one source is open; .max_tokens = 0: none */
    int32_t n_draft;           /* tokens that this step has read ahead, in rows 1..n_draft */
    int64_t step_ns;           /* time of the decoder in this step */

    int32_t *row_tokens;  /* [n_sources * n_groups * group_size] what the decoder reads in this step */
    int32_t *row_sources; /* [n_sources * n_groups * group_size] */
    int32_t
        *row_parents; /* [n_sources * n_groups * group_size] the row of the last step that a row continues */
    struct log_softmax *row_log_softmax; /* [n_sources * n_groups * group_size] */

    int32_t *tokens_out;         /* [n_sources, num_return_sequences, max_new_tokens] */
    int32_t *lens_out;           /* [n_sources, num_return_sequences] */
    float *scores_out;           /* [n_sources, num_return_sequences] */
    float *logprobs_out;         /* [n_sources, num_return_sequences, max_new_tokens], or NULL */
    int32_t *finish_reasons_out; /* [n_sources, num_return_sequences], or NULL */
};

/* float[vocab_size] that the row's step returned. */
const float *es2s_search_logits(const struct search *search, int32_t row);

/* Of a row of scores, of which -inf are 0 to the sum. */
struct log_softmax es2s_search_log_softmax(const struct search *search, const float *scores);

/* Applies the rules, and the caller's, to search->scores, those of the next token of a live hypothesis; may
 * set search->status. */
void es2s_search_rule(struct search *search, const struct source_search *source,
                      const struct hypothesis *live);

/* Whether a sequence ends with this token, in this step. */
bool es2s_search_ends(const struct search *search, int32_t token);

/* Adds a token to a hypothesis and sets its score. */
void es2s_search_append(const struct search *search, struct hypothesis *h, int32_t token, float score);

/* Where the random numbers of this step of a source begin. */
es2s_random_index es2s_search_random_index(const struct search *search, const struct source_search *source);

/* One step of beam search for a group of at least two. */
void es2s_beam_search_step(struct search *search, const struct source_search *source, struct group *group);

#endif
