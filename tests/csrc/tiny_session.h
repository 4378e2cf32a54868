/* A session over a small random model, and the same sources again and again. */
#ifndef TINY_SESSION_H
#define TINY_SESSION_H

#include "check_status.h"
#include "tiny_weights.h"

typedef struct fixture {
    tiny_options options;
    uint8_t *file;
    es2s_model *model;
} fixture;

/* isa NULL = the widest. Then unload. */
fixture load(tiny_options options, int32_t n_threads, const char *isa);
void unload(fixture *f);

es2s_session *create(const fixture *f, int32_t max_batch, int32_t max_beams);

/* Source `id` is always the same; they have different lengths. */
void set_source(const fixture *f, es2s_session *session, int32_t row, int32_t id);

/* The oracle: logits after `n` tokens of source `id`, decoded alone in a session of their own. */
void decode_alone(const fixture *f, int32_t id, const int32_t *tokens, int32_t n, float *logits);

/* Of two rows of logits. */
bool same_bits(const fixture *f, const float *a, const float *b);

#endif
