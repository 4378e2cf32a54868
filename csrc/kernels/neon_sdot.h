/*
 * The tile of gemm_tiles.h by sdot, for the sets that have the instruction.
 *
 * sdot adds to each int32 lane four products of signed bytes: exact, and no row sums are needed. 16 sums,
 * 4 rows of activations and the weights fit the 32 registers.
 */
#ifndef ES2S_NEON_SDOT_H
#define ES2S_NEON_SDOT_H

#include "neon_tile.h"

enum { N_SUMS = 16 };

INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
                            sums_i32 *sums) {
    const int n_outs = N_SUMS / n_rows;
    int8x16_t a_r[4];
    for (int r = 0; r < n_rows; r++)
        a_r[r] = vld1q_s8(a[r] + i);
    for (int o = 0; o < n_outs; o++) {
        const int8x16_t w_o = vld1q_s8(w[o] + i);
        for (int r = 0; r < n_rows; r++)
            sums[r * n_outs + o] = vdotq_s32(sums[r * n_outs + o], a_r[r], w_o);
    }
}

INLINE void sum_each(const sums_i32 *sums, int32_t *sum) {
    for (int i = 0; i < N_SUMS; i += 4)
        vst1q_s32(sum + i,
                  vpaddq_s32(vpaddq_s32(sums[i], sums[i + 1]), vpaddq_s32(sums[i + 2], sums[i + 3])));
}

#endif
