/* A piece of text as tokens: byte pair encoding (Sennrich et al. 2016) or the unigram model (Kudo 2018). */
#ifndef ES2S_SEGMENT_H
#define ES2S_SEGMENT_H

#include "tokenizer.h"

/* Token ids as they are found, and the scratch that finding them takes. */
typedef struct es2s_segments {
    int32_t *ids; /* [capacity] */
    size_t n, capacity;
    void *scratch;
    size_t scratch_bytes;
    bool failed; /* no memory: nothing more is done */
} es2s_segments;

void es2s_segments_free(es2s_segments *s);

void es2s_segments_add(es2s_segments *s, int32_t id);

/* Appends the tokens of a piece of n bytes, UTF-8. */
void es2s_segment(const es2s_tokenizer *t, const uint8_t *piece, size_t n, es2s_segments *s);

#endif
