/*
 * AVX2: Intel since Haswell (2013), AMD since Excavator (2015).
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs in int16, where 2 * 255 * 127 would saturate.
 * So the sign of a moves to w:
 *     a w  =  |a| * (sign(a) w)
 * and with both in [-127, 127] a pair is at most 2 * 127 * 127 = 32258 < 2^15: exact. vpmaddwd by ones then
 * widens to int32. This needs no row sums. -128 is outside the range: its negation wraps.
 *
 * A tile (gemm_tiles.h) is 8 sums: with the activations, their absolute values and temporaries that fills the
 * 16 registers.
 *
 * Trap: the accumulators have an int32 vector type, not __m256i, as in avx512_vnni.c.
 *
 * Measured by check_kernels --bench: one core of an AMD EPYC (Zen 4), gcc 12.2 -O3, median of 15 samples, us.
 *     weights         1 row               4 rows   16 rows   only reading the weights
 *     [768, 256]        3.8    52 GB/s        15        59        1.9   101 GB/s
 *     [2048, 512]      17.5    60 GB/s        71       282       12.4    84 GB/s
 *     [8192, 256]      40.7    51 GB/s       160       635       22.0    95 GB/s
 *     [32128, 512]      418    39 GB/s      1200      4680        215    77 GB/s
 * Four instructions for each 32 products are the limit: several rows share the loads, not the arithmetic.
 * Prefetching is worth 10 % on [8192, 256] and 30 % on [32128, 512].
 */
#include <immintrin.h>

#include "float_ops.h"

#define INLINE static inline __attribute__((always_inline)) /* with its n_rows a constant */

enum { N_SUMS = 8, STEP = 32, A_OFFSET = 0 };
typedef int32_t sums_i32 __attribute__((vector_size(STEP)));

/* Never faults, so it may look beyond the end of w; the sum is one of integers because a pointer may not.
 * Inlined by force: gcc takes a call without result or side effect for dead code. */
INLINE void prefetch(const int8_t *w) {
    _mm_prefetch((const char *)((uintptr_t)w + 4096), _MM_HINT_T0);
}

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

INLINE void sum_each(const sums_i32 *sums, int32_t *sum) {
    __m256i s[8];
    for (int i = 0; i < 8; i++)
        s[i] = (__m256i)sums[i];
    for (int i = 0; i < 4; i++)
        s[i] = _mm256_hadd_epi32(s[2 * i], s[2 * i + 1]);
    for (int i = 0; i < 2; i++)
        s[i] = _mm256_hadd_epi32(s[2 * i], s[2 * i + 1]);
    const __m256i low = _mm256_permute2x128_si256(s[0], s[1], 0x20);
    const __m256i high = _mm256_permute2x128_si256(s[0], s[1], 0x31);
    _mm256_storeu_si256((__m256i *)sum, _mm256_add_epi32(low, high));
}

#include "gemm_tiles.h"

void es2s_kernels_init_avx2(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx2";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
}
