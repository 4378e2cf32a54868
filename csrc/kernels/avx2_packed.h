/*
 * The GEMM over packed weights (kernels.h) on 256-bit registers, without its products. A lane of a register
 * is an output, so no sum across a register is left.
 *
 * Two rows of activations are prepared and pass over the weights, block by block: with a block they are 8
 * sums, which with the operands fit the 16 registers. If more rows follow, these two stop after PASS bytes,
 * which the second cache then holds for the others; meanwhile the first four rows ask for the next PASS
 * bytes, half of the lines each, so that memory does not rest while rows are multiplied. The ISA's file
 * defines, before it includes this one:
 *
 *     OPERAND     bytes that `prepare` makes of a group of 4 activations
 *     N_PARTS     sums that a single row has for each output: 1, or 2 where products take longer than sums
 *
 *     static int32_t prepare(const int8_t *a, size_t n, uint8_t *operands);   n activations, a multiple of 4;
 *                 returns what is to be added to each sum of their products
 *     INLINE void add_products_packed(const uint8_t *operand, const __m256i *w, sums_i32 *sums);
 *                 the products of a group with the 4 registers of a block: 4 bytes of each of 32 outputs
 */
#ifndef ES2S_AVX2_PACKED_H
#define ES2S_AVX2_PACKED_H

#include <stdbool.h>
#include <string.h>

#include "avx2_tile.h"

enum {
    OUTS = 8,   /* of a register */
    BLOCK = 32, /* outputs that are packed together */
    BLOCK_VECS = BLOCK / OUTS,
    GROUP = 4 * BLOCK, /* bytes of four elements of a block */
    STRIP = 2,         /* rows that are prepared together */
    CHUNK = 4096,      /* elements of a row that are prepared at a time */
    PASS = 1 << 17
};

typedef struct strip {
    size_t first, n_rows;
    bool asks_for_next;
    int32_t corrections[STRIP];
    uint8_t operands[STRIP][CHUNK / 4 * OPERAND + LINE]; /* so that the rows do not share sets of the cache */
} strip;

/* Elements from .. from + n of the rows. */
static void prepare_strip(const gemm *g, size_t from, size_t n, strip *s) {
    for (size_t i = 0; i < s->n_rows; i++)
        s->corrections[i] += prepare(g->a + (s->first + i) * g->n_in + from, n, s->operands[i]);
}

/* Adds the products of n_groups groups to sums: [n_rows, BLOCK_VECS]. next: a line to ask for with each. */
INLINE void packed_tile(int n_rows, bool asks_for_next, const strip *s, const uint8_t *block, uintptr_t next,
                        size_t n_groups, sums_i32 *sums) {
    const int n_parts = n_rows == 1 ? N_PARTS : 1;
    sums_i32 t[2 * BLOCK_VECS] = {0}; /* [n_rows or n_parts, BLOCK_VECS] */
    for (size_t k = 0; k < n_groups; k += (size_t)n_parts)
        for (int p = 0; p < n_parts; p++) {
            const size_t group = k + (size_t)p;
            if (p > 0 && group >= n_groups) break;
            if (asks_for_next) __builtin_prefetch((const void *)(next + group * GROUP), 0, 2);
            __m256i w[BLOCK_VECS];
            for (int v = 0; v < BLOCK_VECS; v++)
                w[v] = _mm256_loadu_si256((const __m256i *)(block + group * GROUP) + v);
            for (int i = 0; i < n_rows; i++)
                add_products_packed(s->operands[i] + group * OPERAND, w, t + (p + i) * BLOCK_VECS);
        }
    for (int i = 0; i < (n_rows > n_parts ? n_rows : n_parts); i++)
        for (int v = 0; v < BLOCK_VECS; v++) {
            sums_i32 *const sum = &sums[(n_rows == 1 ? 0 : i) * BLOCK_VECS + v];
            *sum = (sums_i32)_mm256_add_epi32((__m256i)*sum, (__m256i)t[i * BLOCK_VECS + v]);
        }
}

/* y of the rows, outputs o .. o + BLOCK. */
static void store_block(const gemm *g, const strip *s, const sums_i32 *sums, size_t o) {
    const size_t n_left = g->n_out - o;
    float w_scale[BLOCK] = {0}, odd_end[BLOCK];
    if (n_left < BLOCK) memcpy(w_scale, g->w_scale + o, n_left * sizeof *w_scale);
    const float *const scales = n_left < BLOCK ? w_scale : g->w_scale + o;
    for (size_t i = 0; i < s->n_rows; i++) {
        float *const y = g->y + (s->first + i) * g->y_stride + o, *const to = n_left < BLOCK ? odd_end : y;
        const __m256i correction = _mm256_set1_epi32(s->corrections[i]);
        const __m256 a_scale = _mm256_set1_ps(g->a_scale[s->first + i]);
        for (size_t v = 0; v < BLOCK_VECS; v++) {
            const __m256i sum = _mm256_add_epi32((__m256i)sums[i * BLOCK_VECS + v], correction);
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), a_scale);
            _mm256_storeu_ps(to + OUTS * v, _mm256_mul_ps(scaled, _mm256_loadu_ps(scales + OUTS * v)));
        }
        if (n_left < BLOCK) memcpy(y, odd_end, n_left * sizeof *y);
    }
}

/* The rows over the outputs from .. end. A row that is one chunk is prepared once for all blocks. */
static void packed_rows(const gemm *g, const uint8_t *packed, strip *s, size_t from, size_t end) {
    const size_t n_in = g->n_in, ahead = (end - from) * n_in + s->first / STRIP * LINE;
    const bool is_whole = n_in <= CHUNK;
    memset(s->corrections, 0, sizeof s->corrections);
    if (is_whole) prepare_strip(g, 0, n_in, s);
    for (size_t o = from; o < end; o += BLOCK) {
        sums_i32 sums[STRIP * BLOCK_VECS] = {0};
        if (!is_whole) memset(s->corrections, 0, sizeof s->corrections);
        for (size_t k = 0; k < n_in; k += CHUNK) {
            const size_t n = n_in - k < CHUNK ? n_in - k : CHUNK;
            const uint8_t *const block = packed + o * n_in + k * BLOCK;
            if (!is_whole) prepare_strip(g, k, n, s);
            if (s->n_rows == 1)
                packed_tile(1, false, s, block, 0, n / 4, sums);
            else if (s->asks_for_next)
                packed_tile(2, true, s, block, (uintptr_t)block + ahead, n / 4, sums);
            else
                packed_tile(2, false, s, block, 0, n / 4, sums);
        }
        store_block(g, s, sums, o);
    }
}

static void gemm_qd8_packed_tiles(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                  const uint8_t *packed, const float *w_scale, size_t n_out, float *y,
                                  size_t y_stride) {
    const gemm g = {.a = a,
                    .a_scale = a_scale,
                    .w_scale = w_scale,
                    .n_in = n_in,
                    .n_out = n_out,
                    .y_stride = y_stride,
                    .y = y};
    const size_t n_blocks = PASS / (BLOCK * (n_in + 1));
    const size_t pass = n_rows <= STRIP ? n_out : (n_blocks > 0 ? n_blocks : 1) * BLOCK;
    strip s;
    for (size_t from = 0; from < n_out; from += pass) {
        const size_t end = n_out - from < pass ? n_out : from + pass;
        for (s.first = 0; s.first < n_rows; s.first += STRIP) {
            s.n_rows = n_rows - s.first < STRIP ? n_rows - s.first : STRIP;
            s.asks_for_next = n_rows > STRIP && s.first < 2 * STRIP;
            packed_rows(&g, packed, &s, from, end);
        }
    }
}

#endif
