/*
 * AVX2: Intel since Haswell (2013), AMD since Excavator (2015); all of them widen float16, too (F16C).
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs in int16, where 2 * 255 * 127 would saturate.
 * So the sign of a moves to w:
 *     a w  =  |a| * (sign(a) w)
 * and with both in [-127, 127] a pair is at most 2 * 127 * 127 = 32258 < 2^15: exact. vpmaddwd by ones then
 * widens to int32. This needs no row sums. -128 is outside the range: its negation wraps.
 *
 * Measured by check_kernels --bench: one core of an AMD EPYC (Zen 4), gcc 12.2 -O3, median of 15 samples, us.
 *     weights         1 row               4 rows   16 rows   only reading the weights
 *     [768, 256]        4.0    50 GB/s        15        58        2.0    99 GB/s
 *     [2048, 512]      19.2    55 GB/s        71       281       12.8    82 GB/s
 *     [8192, 256]      44.4    47 GB/s       160       634       22.7    93 GB/s
 *     [32128, 512]      772    21 GB/s      1576      5054        683    24 GB/s
 * Four instructions for each 32 products are the limit: several rows share the loads, not the arithmetic.
 */
#include "avx2_tile.h"

enum { A_OFFSET = 0 };

INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
                            sums_i32 *sums) {
    const int n_outs = N_SUMS / n_rows;
    for (int r = 0; r < n_rows; r++) {
        const __m256i a_r = _mm256_loadu_si256((const __m256i *)(a[r] + i));
        const __m256i a_abs = _mm256_abs_epi8(a_r);
        for (int o = 0; o < n_outs; o++) {
            const __m256i w_o = _mm256_loadu_si256((const __m256i *)(w[o] + i));
            const __m256i pairs = _mm256_maddubs_epi16(a_abs, _mm256_sign_epi8(w_o, a_r));
            sums[r * n_outs + o] += (sums_i32)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        }
    }
}

#include "gemm_tiles.h"

void es2s_kernels_init_avx2(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx2";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
}
