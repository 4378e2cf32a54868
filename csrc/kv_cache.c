#include "kv_cache.h"

#include <assert.h>
#include <string.h>

/* Sizes below are products of the model's and the session's limits, which api.c keeps small enough for 64
 * bits. */
static uint64_t n_cross_elements(const es2s_kv_cache *c, int32_t source_len) {
    return (uint64_t)c->n_layers * 2 * (uint64_t)c->n_heads * (uint64_t)source_len * (uint64_t)c->d_head;
}

static size_t element_size(const es2s_kv_cache *c) {
    return c->is_f16 ? sizeof(uint16_t) : sizeof(float);
}

void es2s_kv_cache_take(es2s_kv_cache *c, es2s_arena *arena) {
    const uint64_t max_batch = (uint64_t)c->max_batch, max_rows = (uint64_t)c->max_rows;
    const uint64_t max_target_len = (uint64_t)c->max_target_len;
    const uint64_t n_heads = (uint64_t)c->n_layers * 2 * (uint64_t)c->n_heads;
    c->cross = es2s_arena_take(arena, max_batch * n_cross_elements(c, c->max_source_len), element_size(c));
    c->source_lens = es2s_arena_take(arena, max_batch, sizeof *c->source_lens);
    c->self = es2s_arena_take(arena, n_heads * (uint64_t)c->n_slots * max_target_len * (uint64_t)c->d_head,
                              element_size(c));
    c->lens = es2s_arena_take(arena, max_rows, sizeof *c->lens);
    c->lens_next = es2s_arena_take(arena, max_rows, sizeof *c->lens_next);
    c->index = es2s_arena_take(arena, max_rows * max_target_len, sizeof *c->index);
    c->index_next = es2s_arena_take(arena, max_rows * max_target_len, sizeof *c->index_next);
}

void es2s_kv_cache_clear(es2s_kv_cache *c) {
    memset(c->source_lens, 0, (size_t)c->max_batch * sizeof *c->source_lens);
    es2s_kv_cache_empty_rows(c, 0, c->max_rows);
}

/* Where the i-th element of a source lies. */
static void *cross_element(const es2s_kv_cache *c, int32_t source, size_t i) {
    const size_t first = (size_t)source * (size_t)n_cross_elements(c, c->max_source_len);
    return (char *)c->cross + (first + i) * element_size(c);
}

static void write_elements(es2s_kv_cache *c, void *to, const float *from, size_t n) {
    if (c->is_f16)
        c->kernels->narrow_f16(from, n, to);
    else
        memcpy(to, from, n * sizeof *from);
}

void es2s_kv_cache_set_source(es2s_kv_cache *c, int32_t source, const float *cross_kv, int32_t source_len) {
    es2s_kv_cache_open_source(c, source, source_len);
    write_elements(c, cross_element(c, source, 0), cross_kv, (size_t)n_cross_elements(c, source_len));
}

void es2s_kv_cache_open_source(es2s_kv_cache *c, int32_t source, int32_t source_len) {
    assert(source < c->max_batch && source_len >= 1 && source_len <= c->max_source_len);
    c->source_lens[source] = source_len;
}

void es2s_kv_cache_forget_source(es2s_kv_cache *c, int32_t source) {
    c->source_lens[source] = 0;
}

void es2s_kv_cache_get_source(const es2s_kv_cache *c, int32_t source, float *cross_kv) {
    const size_t n = (size_t)n_cross_elements(c, c->source_lens[source]);
    if (c->is_f16)
        c->kernels->widen_f16(cross_element(c, source, 0), n, cross_kv);
    else
        memcpy(cross_kv, cross_element(c, source, 0), n * sizeof *cross_kv);
}

/* Where row `row` of the keys or values of a head lies. */
static void *cross_row(const es2s_kv_cache *c, int32_t source, int32_t layer, int which, int32_t head,
                       size_t row) {
    const size_t i = ((size_t)layer * 2 + (size_t)which) * (size_t)c->n_heads + (size_t)head;
    return cross_element(c, source, (i * (size_t)c->source_lens[source] + row) * (size_t)c->d_head);
}

void es2s_kv_cache_write_cross(es2s_kv_cache *c, int32_t source, int32_t layer, int which, int32_t head,
                               size_t first, size_t n, const float *rows, size_t stride) {
    for (size_t r = 0; r < n; r++)
        write_elements(c, cross_row(c, source, layer, which, head, first + r), rows + r * stride,
                       (size_t)c->d_head);
}

const void *es2s_kv_cache_cross(const es2s_kv_cache *c, int32_t source, int32_t layer, int which,
                                int32_t head) {
    return cross_row(c, source, layer, which, head, 0);
}

/* Where position `place`, of all rows', of the keys or values of a head lies. */
static void *self_row(const es2s_kv_cache *c, int32_t layer, int which, int32_t head, size_t place) {
    const size_t i = ((size_t)layer * 2 + (size_t)which) * (size_t)c->n_heads + (size_t)head;
    const size_t n_places = (size_t)c->n_slots * (size_t)c->max_target_len;
    return (char *)c->self + (i * n_places + place) * (size_t)c->d_head * element_size(c);
}

const void *es2s_kv_cache_self(const es2s_kv_cache *c, int32_t layer, int which, int32_t head) {
    return self_row(c, layer, which, head, 0);
}

void es2s_kv_cache_write_self(es2s_kv_cache *c, int32_t row, int32_t layer, int which, int32_t head,
                              const float *values) {
    const size_t place = (size_t)es2s_kv_cache_index(c, row)[c->lens[row] - 1];
    write_elements(c, self_row(c, layer, which, head, place), values, (size_t)c->d_head);
}

const int32_t *es2s_kv_cache_index(const es2s_kv_cache *c, int32_t row) {
    return c->index + (size_t)row * (size_t)c->max_target_len;
}

void es2s_kv_cache_grow(es2s_kv_cache *c, const int32_t *sources, int32_t n_rows) {
    assert(n_rows <= c->max_rows);
    for (int32_t row = 0, beam = 0; row < n_rows; row++) {
        beam = row > 0 && sources[row] == sources[row - 1] ? beam + 1 : 0;
        const int32_t position = c->lens[row]++, slot = sources[row] * c->max_beams + beam;
        assert(beam < c->max_beams && position < c->max_target_len);
        c->index[(size_t)row * (size_t)c->max_target_len + (size_t)position] =
            slot * c->max_target_len + position;
    }
}

void es2s_kv_cache_grow_ahead(es2s_kv_cache *c, int32_t source, int32_t n_rows) {
    const int32_t len = c->lens[0], slot = source * c->max_beams;
    const size_t row_size = (size_t)c->max_target_len;
    assert(n_rows <= c->max_rows && len + n_rows <= c->max_target_len);
    for (int32_t i = 0; i < n_rows; i++)
        c->index[len + i] = slot * c->max_target_len + len + i;
    for (int32_t row = 0; row < n_rows; row++) {
        c->lens[row] = len + row + 1;
        if (row > 0)
            memcpy(c->index + (size_t)row * row_size, c->index, (size_t)c->lens[row] * sizeof *c->index);
    }
}

void es2s_kv_cache_reorder(es2s_kv_cache *c, const int32_t *beam_idx, int32_t n_rows) {
    assert(n_rows <= c->max_rows);
    for (int32_t row = 0; row < n_rows; row++) {
        const int32_t from = beam_idx[row], len = c->lens[from];
        memcpy(c->index_next + (size_t)row * (size_t)c->max_target_len, es2s_kv_cache_index(c, from),
               (size_t)len * sizeof *c->index);
        c->lens_next[row] = len;
    }
    int32_t *const index = c->index, *const lens = c->lens;
    c->index = c->index_next;
    c->lens = c->lens_next;
    c->index_next = index;
    c->lens_next = lens;
    es2s_kv_cache_empty_rows(c, n_rows, c->max_rows - n_rows);
}

void es2s_kv_cache_empty_rows(es2s_kv_cache *c, int32_t first, int32_t n) {
    assert(first >= 0 && n >= 0 && first + n <= c->max_rows);
    memset(c->lens + first, 0, (size_t)n * sizeof *c->lens);
}
