/*
 * NEON: every 64-bit ARM CPU (Raspberry Pi 3 and 4: Cortex-A53, A72), and ARMv7 CPUs that have it.
 *
 * smull and smlal multiply 8 bytes into int16: two products of values in [-127, 127] are at most
 * 2 * 127 * 127 = 32258 < 2^15, exact. sadalp then adds pairs of them to int32 lanes.
 *
 * A tile (gemm_tiles.h) is 8 sums, which with the operands fit the 16 registers of ARMv7.
 *
 * Trap: NEON on ARMv7 flushes denormals to zero and has no division, so float operations there are the
 * scalar set's, on the VFP unit, and keep their bits. On AArch64 the compiler's baseline is NEON: the scalar
 * set's float operations are vectors already. Hence this file overrides the GEMM alone.
 *
 * Not measured: the tests run under emulation, whose times say nothing.
 */
#include "neon_tile.h"

enum { N_SUMS = 8 };

INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
                            sums_i32 *sums) {
    const int n_outs = N_SUMS / n_rows;
    for (int o = 0; o < n_outs; o++) {
        const int8x16_t w_o = vld1q_s8(w[o] + i);
        for (int r = 0; r < n_rows; r++) {
            const int8x16_t a_r = vld1q_s8(a[r] + i);
            int16x8_t pairs = vmull_s8(vget_low_s8(a_r), vget_low_s8(w_o));
            pairs = vmlal_s8(pairs, vget_high_s8(a_r), vget_high_s8(w_o));
            sums[r * n_outs + o] = vpadalq_s16(sums[r * n_outs + o], pairs);
        }
    }
}

/* Lanes i and i + 1 of x, then of y; ARMv7 has this for halves of registers only. */
INLINE int32x4_t add_neighbours(int32x4_t x, int32x4_t y) {
    return vcombine_s32(vpadd_s32(vget_low_s32(x), vget_high_s32(x)),
                        vpadd_s32(vget_low_s32(y), vget_high_s32(y)));
}

INLINE void sum_each(const sums_i32 *sums, int32_t *sum) {
    for (int i = 0; i < N_SUMS; i += 4)
        vst1q_s32(sum + i, add_neighbours(add_neighbours(sums[i], sums[i + 1]),
                                          add_neighbours(sums[i + 2], sums[i + 3])));
}

#include "gemm_tiles.h"

void es2s_kernels_init_neon(es2s_kernels *k) {
    k->isa = "neon";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
}
