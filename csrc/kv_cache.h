/*
 * Keys and values that the decoder attends to: of the sources (cross-attention, written once) and of the
 * tokens decoded so far (self-attention, one position per step).
 *
 * Beams share history. So that reordering them copies no keys, the j-th row of source i always writes its new
 * position into slot i * max_beams + j, and an index table says for every row where each position of its
 * history lies. Sources never share slots, so they may be at different positions.
 */
#ifndef ES2S_KV_CACHE_H
#define ES2S_KV_CACHE_H

#include <stdbool.h>

#include "arena.h"
#include "edge_s2s.h"
#include "kernels/kernels.h"

typedef struct es2s_kv_cache {
    int32_t n_layers, n_heads, d_head;
    int32_t max_batch, max_beams, n_slots; /* n_slots = max_batch * max_beams */
    int32_t max_rows;                      /* n_slots, or more for drafts */
    int32_t max_source_len, max_target_len;

    const es2s_kernels *kernels;
    bool is_f16; /* keys and values are float16, in half of the memory, else float */
    void *cross; /* [max_batch] x [n_layers, 2, n_heads, source_len, d_head], room for max_source_len */
    int32_t *source_lens; /* [max_batch], 0 = no source */

    void *self;          /* [n_layers, 2, n_heads, n_slots, max_target_len, d_head] */
    int32_t *lens;       /* [max_rows] positions decoded so far */
    int32_t *index;      /* [max_rows, max_target_len] position -> slot * max_target_len + position */
    int32_t *lens_next;  /* reorder writes these two, */
    int32_t *index_next; /* then swaps them with the two above */
} es2s_kv_cache;

enum { ES2S_KEYS = 0, ES2S_VALUES = 1 };

/* Takes the arrays from the arena; the sizes above are set. Then call es2s_kv_cache_clear. */
void es2s_kv_cache_take(es2s_kv_cache *cache, es2s_arena *arena);

/* Forgets all sources and all that was decoded. */
void es2s_kv_cache_clear(es2s_kv_cache *cache);

/* cross_kv: float[n_layers, 2, n_heads, source_len, d_head], copied, and narrowed if is_f16. */
void es2s_kv_cache_set_source(es2s_kv_cache *cache, int32_t source, const float *cross_kv,
                              int32_t source_len);

/* Opens room for a source of this length, to be filled by es2s_kv_cache_write_cross. */
void es2s_kv_cache_open_source(es2s_kv_cache *cache, int32_t source, int32_t source_len);

/* The row has no source any more. */
void es2s_kv_cache_forget_source(es2s_kv_cache *cache, int32_t source);

/* Rows first..first+n-1 of the keys or values of a head; row i lies at rows + i * stride: float[d_head]. */
void es2s_kv_cache_write_cross(es2s_kv_cache *cache, int32_t source, int32_t layer, int which, int32_t head,
                               size_t first, size_t n, const float *rows, size_t stride);

/* cross_kv: as above, a copy of the source. */
void es2s_kv_cache_get_source(const es2s_kv_cache *cache, int32_t source, float *cross_kv);

/* float[source_len, d_head], or float16: keys or values of a source. */
const void *es2s_kv_cache_cross(const es2s_kv_cache *cache, int32_t source, int32_t layer, int which,
                                int32_t head);

/* float[n_slots * max_target_len, d_head], or float16: keys or values of all rows, addressed through
 * es2s_kv_cache_index. */
const void *es2s_kv_cache_self(const es2s_kv_cache *cache, int32_t layer, int which, int32_t head);

/* The key or value of the position that a row has opened last: float[d_head]. */
void es2s_kv_cache_write_self(es2s_kv_cache *cache, int32_t row, int32_t layer, int which, int32_t head,
                              const float *values);

/* int32[lens[row]]: where the history of a row lies. */
const int32_t *es2s_kv_cache_index(const es2s_kv_cache *cache, int32_t row);

/* Opens the next position of rows 0..n_rows-1, which the step then writes; each has room for it.
 * sources: int32[n_rows], the source of each row; rows of one source are neighbours. */
void es2s_kv_cache_grow(es2s_kv_cache *cache, const int32_t *sources, int32_t n_rows);

/* Opens the next n_rows positions of row 0, one for each of rows 0..n_rows-1: row i continues row i-1 with
 * the token that it reads in the same step. */
void es2s_kv_cache_grow_ahead(es2s_kv_cache *cache, int32_t source, int32_t n_rows);

/* Row i continues row beam_idx[i] (int32[n_rows]); rows from n_rows on are empty. */
void es2s_kv_cache_reorder(es2s_kv_cache *cache, const int32_t *beam_idx, int32_t n_rows);

/* Forgets what rows first..first+n-1 have decoded. */
void es2s_kv_cache_empty_rows(es2s_kv_cache *cache, int32_t first, int32_t n);

#endif
