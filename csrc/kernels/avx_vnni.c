/*
 * AVX-VNNI: Intel since Alder Lake (2021), AMD since Zen 5. VNNI on 256-bit registers for CPUs without
 * AVX-512.
 *
 * vpdpbusd adds to each int32 lane four products of an unsigned and a signed byte, without saturation. As in
 * avx512_vnni.c the activations move into [1, 255] by adding 128, and 128 row sums of the weights are
 * subtracted at the end (gemm_tiles.h).
 *
 * Not measured: no machine with this ISA was at hand. tests/csrc/check_avx_vnni.c runs this source with
 * vpdpbusd spelled out, on any CPU with AVX2.
 */
#include "avx2_tile.h"

enum { A_OFFSET = 128 };

INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
                            sums_i32 *sums) {
    const int n_outs = N_SUMS / n_rows;
    __m256i a_shifted[4];
    for (int r = 0; r < n_rows; r++)
        a_shifted[r] =
            _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(a[r] + i)), _mm256_set1_epi8(-128));
    for (int o = 0; o < n_outs; o++) {
        const __m256i w_o = _mm256_loadu_si256((const __m256i *)(w[o] + i));
        for (int r = 0; r < n_rows; r++) {
            sums_i32 *sum = &sums[r * n_outs + o];
            *sum = (sums_i32)_mm256_dpbusd_avx_epi32((__m256i)*sum, a_shifted[r], w_o);
        }
    }
}

#include "gemm_tiles.h"

void es2s_kernels_init_avx_vnni(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx_vnni";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
}
