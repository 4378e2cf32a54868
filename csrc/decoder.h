/*
 * The decoder step: one more position for each row, from tokens to logits.
 *
 * A source is what the encoder has read; a row is one sequence being decoded from it, so a source has as many
 * rows as beams. The search calls begin, then step and reorder in turn.
 */
#ifndef ES2S_DECODER_H
#define ES2S_DECODER_H

#include "arena.h"
#include "edge_s2s.h"
#include "encoder.h"
#include "kv_cache.h"
#include "model.h"

struct es2s_session {
    const es2s_model *model;
    int32_t max_batch, max_beams;
    int32_t max_rows; /* of a step: max_batch * max_beams, or a token and its draft */
    int32_t max_source_len, max_target_len, max_draft_tokens;
    int32_t n_sources;       /* rows 0..n_sources-1 hold a source; set by api.c before it calls the search */
    int32_t rows_per_source; /* of the public step; 0 = all self-attention caches are empty */
    int32_t n_stepped_rows;  /* of the last public step; 0 = anything else came since */
    int64_t n_steps;         /* of the last search */
    bool keep_cross_attention;
    bool is_generating; /* inside es2s_session_generate, whose callbacks must leave the session alone */
    size_t memory;      /* bytes, all in one block that starts with this struct */

    es2s_kv_cache cache;
    int32_t *source_ids;   /* [max_batch, max_source_len] what the rules encoder_* read */
    int32_t *n_source_ids; /* [max_batch] 0 = not told */
    float *position_bias;  /* [0, 1 or n_layers, n_heads, max_target_len], the largest distance first */

    /* Scratch of a step; inner = n_heads * d_head */
    es2s_worker worker; /* for max_rows rows; its pool is NULL but while a step has it */
    float *x;           /* [max_rows, d_model] residual stream */
    float *qkv;         /* [max_rows, 3 * inner], or q alone in cross-attention: [max_rows, inner] */
    float *attention;   /* [max_rows, inner] */
    float *scores;      /* [n_threads, scores_stride] attention weights of one row and head per thread */
    int32_t scores_stride;
    float *
        cross_attention; /* [max_rows, n_layers, n_heads, max_source_len] of the last step; NULL = not kept */
    int32_t *row_sources; /* [max_rows] for the public step */

    es2s_encoder_scratch encoder_scratch; /* of a model with an encoder */

    float *logits;        /* [max_rows, vocab_size] for the search */
    void *search_scratch; /* zeroed when the session is created */
};

/* params is complete and checked against the model; search_scratch_bytes are set aside for the search. */
es2s_status es2s_decoder_create(const es2s_model *model, const es2s_session_params *params,
                                size_t search_scratch_bytes, es2s_session **session_out);

/* Empties the self-attention caches of all rows. */
void es2s_decoder_begin(es2s_session *s);

/* One position for rows 0..n_rows-1. Row r reads source sources[r]; rows of one source are neighbours.
 * tokens, sources: int32[n_rows]; logits: float[n_rows, vocab_size], after rescoring; NULL = not computed. */
void es2s_decoder_step(es2s_session *s, const int32_t *tokens, const int32_t *sources, int32_t n_rows,
                       float *logits);

/* n_rows positions of one sequence at once: row 0 reads the next token and each other row the one after it.
 * Afterwards row i has read tokens 0..i, and its logits have the bits of i+1 single steps. */
void es2s_decoder_step_ahead(es2s_session *s, const int32_t *tokens, const int32_t *sources, int32_t n_rows,
                             float *logits);

/* Before the next step, row i continues row beam_idx[i]; n_rows may shrink or grow. Copies indices, no cache.
 */
void es2s_decoder_reorder(es2s_session *s, const int32_t *beam_idx, int32_t n_rows);

/* Where the last step's attention of a row lies: float[source_len]. */
float *es2s_decoder_cross_attention(const es2s_session *s, int32_t row, int32_t layer, int32_t head);

#endif
