/*
 * NEON with int8 matrix products: Cortex-A510, A710, X2 and later, Apple since A15 and M2, Neoverse V1, N2.
 *
 * smmla multiplies 2 rows x 8 by 2 outputs x 8 bytes and adds to 2 x 2 int32 lanes: twice the products of an
 * sdot, exact as well. Each operand is woven from two registers, one instruction for 8 bytes of two rows, so
 * it pays from 4 rows on: 4 x 16 outputs x 16 elements take 32 smmla and 20 zips instead of 64 sdot. Fewer
 * rows are left to sdot (neon_sdot.h), of whose 2 x 2 sums one row would waste half.
 *
 * Not measured: the tests run under emulation, whose times say nothing.
 */
#include "neon_sdot.h"

#include "gemm_tiles.h"

enum { MATRIX_OUTS = 16 };

/* 8 bytes of two rows in each register: elements 0-7, and 8-15. */
typedef struct woven {
    int8x16_t half[2];
} woven;

INLINE woven weave(const int8_t *row, const int8_t *next_row) {
    const int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(row)), y = vreinterpretq_s64_s8(vld1q_s8(next_row));
    return (woven){{vreinterpretq_s8_s64(vzip1q_s64(x, y)), vreinterpretq_s8_s64(vzip2q_s64(x, y))}};
}

/* sums[p][q]: rows 2p, 2p + 1 by outputs 2q, 2q + 1. */
INLINE void add_matrix_products(const int8_t *const *a, const int8_t *const *w, size_t i,
                                int32x4_t (*sums)[MATRIX_OUTS / 2]) {
    const woven a_01 = weave(a[0] + i, a[1] + i), a_23 = weave(a[2] + i, a[3] + i);
    for (int q = 0; q < MATRIX_OUTS / 2; q++) {
        const woven w_q = weave(w[2 * q] + i, w[2 * q + 1] + i);
        for (int half = 0; half < 2; half++) {
            sums[0][q] = vmmlaq_s32(sums[0][q], a_01.half[half], w_q.half[half]);
            sums[1][q] = vmmlaq_s32(sums[1][q], a_23.half[half], w_q.half[half]);
        }
    }
}

/* Rows r .. r + 4 of y, outputs o .. o + 16; those beyond n_out as in gemm_tiles.h. */
static void matrix_tile(const gemm *g, size_t r, size_t o) {
    const size_t n_left = g->n_out - o, n_in = g->n_in;
    const int8_t *a[4], *w[MATRIX_OUTS];
    for (size_t i = 0; i < 4; i++)
        a[i] = g->a + (r + i) * n_in;
    for (size_t i = 0; i < MATRIX_OUTS; i++)
        w[i] = g->w + (o + (i < n_left ? i : n_left - 1)) * n_in;

    int32x4_t sums[2][MATRIX_OUTS / 2] = {{{0}}};
    const size_t odd = n_in % STEP;
    if (odd > 0) {
        int8_t a_copies[4][STEP], w_copies[MATRIX_OUTS][STEP];
        const int8_t *a_odd[4], *w_odd[MATRIX_OUTS];
        copy_odd_end(4, a, n_in - odd, odd, a_copies, a_odd);
        copy_odd_end(MATRIX_OUTS, w, n_in - odd, odd, w_copies, w_odd);
        add_matrix_products(a_odd, w_odd, 0, sums);
    }
    for (size_t i = 0; i + STEP <= n_in; i += STEP) {
        prefetch(w[0] + i * MATRIX_OUTS, STEP * MATRIX_OUTS);
        add_matrix_products(a, w, i, sums);
    }

    for (size_t i = 0; i < 4; i++) {
        int32_t sum[MATRIX_OUTS];
        for (size_t q = 0; q < MATRIX_OUTS / 2; q++) {
            const int32x4_t block = sums[i / 2][q];
            vst1_s32(sum + 2 * q, i % 2 ? vget_high_s32(block) : vget_low_s32(block));
        }
        for (size_t j = 0; j < MATRIX_OUTS && j < n_left; j++)
            g->y[(r + i) * g->y_stride + o + j] = ((float)sum[j] * g->a_scale[r + i]) * g->w_scale[o + j];
    }
}

static void gemm_qd8_qc8w_neon_i8mm(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                    const int8_t *w, const float *w_scale, const int32_t *w_sums,
                                    size_t n_out, float *y, size_t y_stride) {
    const gemm g = {a, a_scale, w, w_scale, w_sums, n_in, n_out, y_stride, y};
    const size_t n_fours = n_rows - n_rows % 4;
    for (size_t block = 0; block < n_out; block += MATRIX_OUTS) {
        for (size_t r = 0; r < n_fours; r += 4)
            matrix_tile(&g, r, block);
        few_rows(&g, n_fours, n_rows, block);
    }
}

void es2s_kernels_init_neon_i8mm(es2s_kernels *k) {
    k->isa = "neon_i8mm";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_neon_i8mm;
}
