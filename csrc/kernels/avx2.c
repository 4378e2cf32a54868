/*
 * AVX2: Intel since Haswell (2013), AMD since Excavator (2015); all of them widen float16, too (F16C).
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs in int16, where 2 * 255 * 127 would saturate.
 * So the sign of a moves to w. Weights in rows have
 *     a w  =  |a| * (sign(a) w)
 * and with both in [-127, 127] a pair is at most 2 * 127 * 127 = 32258 < 2^15: exact. vpmaddwd by ones then
 * widens to int32. This needs no row sums. -128 is outside the range: its negation wraps.
 *
 * Packed weights (avx2_packed.h) do without vpsignb, which shares its two ports with both multiplications on
 * Zen 4. With m = -1 where a < 0 and 0 elsewhere, sign(a) w = (w ^ m) - m, so
 *     sum a w  =  sum |a| (w ^ m)  +  sum of |a| where a < 0
 * and the last sum is one number for all outputs. A pair is at most 2 * 127 * 128 = 32512 < 2^15. A xor has
 * four ports: four instructions for each 32 products take one cycle instead of one and a half, 118 products a
 * ns at 3.7 GHz.
 *
 * Measured by check_kernels --bench: one core of an AMD EPYC (Zen 4), gcc 12.2 -O3, us, medians of five runs.
 *                     only reading    1 row                 4 rows           16 rows
 *     weights         in rows         in rows   packed      rows   packed    rows   packed
 *     [768, 256]        1.9             3.9      2.6          15     9.1       58      36
 *     [2048, 512]      12.7              19       15          70      46      280     183
 *     [8192, 256]        23              44       30         156      99      617     389
 *     [32128, 512]      252             367      251        1294     772     4810    2976
 * Several rows share the loads, not the arithmetic.
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

/* ---- packed weights ---- */

enum { OPERAND = 8, N_PARTS = 1 };

/* |a|, and m ^ 128 as packed weights are w ^ 128. */
static int32_t prepare(const int8_t *a, size_t n, uint8_t *operands) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i negative = zero;
    for (size_t i = 0; i < n; i += STEP) {
        int8_t end[STEP] = {0};
        const int8_t *from = n - i < STEP ? memcpy(end, a + i, n - i) : a + i;
        const __m256i a_i = _mm256_loadu_si256((const __m256i *)from);
        const __m256i size = _mm256_abs_epi8(a_i), m = _mm256_cmpgt_epi8(zero, a_i);
        const __m256i flip = _mm256_xor_si256(m, _mm256_set1_epi8(-128));
        negative = _mm256_add_epi32(negative, _mm256_sad_epu8(_mm256_and_si256(size, m), zero));
        const __m256i low = _mm256_unpacklo_epi32(size, flip), high = _mm256_unpackhi_epi32(size, flip);
        const __m256i both[2] = {_mm256_permute2x128_si256(low, high, 0x20),
                                 _mm256_permute2x128_si256(low, high, 0x31)};
        memcpy(operands + i / 4 * OPERAND, both, n - i < STEP ? (n - i) / 4 * OPERAND : sizeof both);
    }
    return sum_lanes_i32(negative);
}

INLINE void add_products_packed(const uint8_t *operand, const __m256i *w, sums_i32 *sums) {
    int32_t size, flip;
    memcpy(&size, operand, sizeof size);
    memcpy(&flip, operand + sizeof size, sizeof flip);
    for (int v = 0; v < 4; v++) {
        const __m256i signed_w = _mm256_xor_si256(w[v], _mm256_set1_epi32(flip));
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(size), signed_w);
        sums[v] += (sums_i32)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
}

#include "avx2_packed.h"

/* 8 x 8 int32: x[k] becomes element k of each. */
INLINE void transpose(__m256i *x /* [8] */) {
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
            u[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        x[j] = _mm256_permute2x128_si256(u[j], u[j + 4], 0x20);
        x[j + 4] = _mm256_permute2x128_si256(u[j], u[j + 4], 0x31);
    }
}

static size_t packed_size_avx2(size_t n_out, size_t n_in) {
    return n_in % 4 == 0 ? (n_out + BLOCK - 1) / BLOCK * BLOCK * n_in : 0;
}

static void pack_qc8w_avx2(const int8_t *w, size_t n_out, size_t n_in, uint8_t *packed) {
    for (size_t o = 0; o < (n_out + BLOCK - 1) / BLOCK * BLOCK; o += OUTS)
        for (size_t i = 0; i < n_in; i += STEP) {
            const size_t n = n_in - i < STEP ? n_in - i : STEP;
            __m256i x[OUTS];
            prefetch(w + o * n_in + i * OUTS, STEP * OUTS);
            for (size_t j = 0; j < OUTS; j++) {
                int8_t odd_end[STEP] = {0};
                const int8_t *from = w + (o + j < n_out ? o + j : n_out - 1) * n_in + i;
                if (n < STEP) from = memcpy(odd_end, from, n);
                x[j] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)from), _mm256_set1_epi8(-128));
            }
            transpose(x);
            uint8_t *const to = packed + o / BLOCK * BLOCK * n_in + i / 4 * GROUP + o % BLOCK * 4;
            for (size_t k = 0; k < n / 4; k++)
                _mm256_storeu_si256((__m256i *)(to + k * GROUP), x[k]);
        }
}

void es2s_kernels_init_avx2(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx2";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
    k->packed_size = packed_size_avx2;
    k->pack_qc8w = pack_qc8w_avx2;
    k->gemm_qd8_packed = gemm_qd8_packed_tiles;
}
