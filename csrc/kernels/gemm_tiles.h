/*
 * The int8 GEMM around the instructions of one ISA.
 *
 * A tile is always N_SUMS sums, one register each: 1 row x N_SUMS outputs, 2 x N_SUMS / 2 or 4 x N_SUMS / 4.
 * The ISA's file defines, before it includes this one:
 *
 *     N_SUMS      sums of a tile, a multiple of 4, at most 16
 *     STEP        bytes of a register, at most 32
 *     A_OFFSET    what add_products_q8 adds to each activation to make it unsigned: 128, or 0
 *     sums_i32    an int32 vector of STEP bytes: the partial sums of one output
 *
 *     INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
 *                                 sums_i32 *sums);   STEP products of each row and output, from element i on;
 *                                                    sums: [n_rows, N_SUMS / n_rows]
 *     INLINE void sum_each(const sums_i32 *sums, int32_t *sum);   sum[j] = the sum of the lanes of sums[j]
 *  *
 * With A_OFFSET,  sum (a + 128) w = sum a w + 128 sum w:  the row sums of the weights, known since load, are
 * subtracted. The shifted sum may wrap around at 2^31; the difference is exact all the same, modulo 2^32.
 *
 * The odd end of n_in comes before the loop, not after it: gcc 12 then keeps all sums in registers.
 */
#ifndef ES2S_GEMM_TILES_H
#define ES2S_GEMM_TILES_H

#include <string.h>

#include "gemm.h"

/* Copies the last n < STEP elements of each row, filled up with zeros. */
INLINE void copy_odd_end(int n_rows, const int8_t *const *rows, size_t from, size_t n, int8_t (*copies)[STEP],
                         const int8_t **pointers) {
    for (int r = 0; r < n_rows; r++) {
        memset(copies[r], 0, STEP);
        memcpy(copies[r], rows[r] + from, n);
        pointers[r] = copies[r];
    }
}

INLINE int32_t without_offset(const gemm *g, int32_t sum, size_t o) {
    return A_OFFSET ? (int32_t)((uint32_t)sum - (uint32_t)A_OFFSET * (uint32_t)g->w_sums[o]) : sum;
}

/* Rows r .. r + n_rows of y, outputs o .. o + N_SUMS / n_rows; n_rows is 1, 2 or 4. Outputs beyond n_out are
 * computed from the last weight row and not stored. */
INLINE void tile(int n_rows, const gemm *g, size_t r, size_t o) {
    const int n_outs = N_SUMS / n_rows;
    const size_t n_left = g->n_out - o, n_in = g->n_in;
    const int8_t *a[4], *w[N_SUMS];
    for (int i = 0; i < n_rows; i++)
        a[i] = g->a + (r + (size_t)i) * n_in;
    for (int i = 0; i < n_outs; i++)
        w[i] = g->w + (o + ((size_t)i < n_left ? (size_t)i : n_left - 1)) * n_in;

    sums_i32 sums[N_SUMS] = {0};
    const size_t odd = n_in % STEP;
    if (odd > 0) {
        int8_t a_copies[4][STEP], w_copies[N_SUMS][STEP];
        const int8_t *a_odd[4], *w_odd[N_SUMS];
        copy_odd_end(n_rows, a, n_in - odd, odd, a_copies, a_odd);
        copy_odd_end(n_outs, w, n_in - odd, odd, w_copies, w_odd);
        add_products_q8(n_rows, a_odd, w_odd, 0, sums);
    }
    for (size_t i = 0; i + STEP <= n_in; i += STEP) {
        prefetch(w[0] + i * (size_t)n_outs, STEP * (size_t)n_outs);
        add_products_q8(n_rows, a, w, i, sums);
    }

    int32_t sum[N_SUMS]; /* [n_rows, n_outs] */
    sum_each(sums, sum);
    for (int i = 0; i < n_rows; i++)
        for (size_t j = 0; j < (size_t)n_outs && j < n_left; j++)
            g->y[(r + (size_t)i) * g->y_stride + o + j] =
                ((float)without_offset(g, sum[(size_t)(i * n_outs) + j], o + j) * g->a_scale[r + (size_t)i]) *
                g->w_scale[o + j];
}

/* The last rows, r .. n_rows, fewer than 4, of the outputs block .. block + N_SUMS. */
INLINE void few_rows(const gemm *g, size_t r, size_t n_rows, size_t block) {
    if (r + 2 <= n_rows) {
        for (size_t o = block; o < block + N_SUMS && o < g->n_out; o += N_SUMS / 2)
            tile(2, g, r, o);
        r += 2;
    }
    if (r < n_rows) tile(1, g, r, block);
}

/* Blocks of N_SUMS weight rows stay in the L1 cache while all rows of a pass over them. */
static inline void gemm_qd8_qc8w_tiles(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                       const int8_t *w, const float *w_scale, const int32_t *w_sums,
                                       size_t n_out, float *y, size_t y_stride) {
    const gemm g = {a, a_scale, w, w_scale, w_sums, n_in, n_out, y_stride, y};
    for (size_t block = 0; block < n_out; block += N_SUMS) {
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            for (size_t o = block; o < block + N_SUMS && o < n_out; o += N_SUMS / 4)
                tile(4, &g, r, o);
        few_rows(&g, r, n_rows, block);
    }
}

#endif
