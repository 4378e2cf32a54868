/*
 * AVX-VNNI: Intel since Alder Lake (2021), AMD since Zen 5. VNNI on 256-bit registers for CPUs without
 * AVX-512.
 *
 * It takes the place of avx2.c's products; all else, the packing of weights too, is that set's.
 *
 * vpdpbusd adds to each int32 lane four products of an unsigned and a signed byte, without saturation. As in
 * avx512_vnni.c the activations move into [1, 255] by adding 128, and 128 row sums of the weights are
 * subtracted at the end (gemm_tiles.h).
 *
 * No machine with this ISA was at hand: tests/csrc/check_avx_vnni.c runs this source with vpdpbusd spelled
 * out, on any CPU with AVX2. With the instruction of AVX-512 VL in its place, one core of an AMD EPYC (Zen 4)
 * takes, us, best of three runs of check_kernels --bench:
 *                     1 row             4 rows           16 rows
 *     weights         in rows  packed   in rows packed   in rows packed
 *     [768, 256]        3.0     1.8       7.5    5.1        30     20
 *     [2048, 512]        15      12        31     27       120    107
 *     [8192, 256]        35      23        82     58       319    222
 *     [32128, 512]      283     226       540    521      2229   1994
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

/* ---- packed weights ---- */

enum { OPERAND = 4, N_PARTS = 2 };

/* Here the weights are the unsigned side, so 128 times the row's sum of activations is too much. */
static int32_t prepare(const int8_t *a, size_t n, uint8_t *operands) {
    __m256i sum = _mm256_setzero_si256();
    memcpy(operands, a, n);
    for (size_t i = 0; i < n; i += STEP) {
        int8_t end[STEP] = {0};
        const int8_t *from = n - i < STEP ? memcpy(end, a + i, n - i) : a + i;
        sum = _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi8(1), _mm256_loadu_si256((const __m256i *)from));
    }
    return -128 * sum_lanes_i32(sum);
}

INLINE void add_products_packed(const uint8_t *operand, const __m256i *w, sums_i32 *sums) {
    int32_t a;
    memcpy(&a, operand, sizeof a);
    for (int v = 0; v < 4; v++)
        sums[v] = (sums_i32)_mm256_dpbusd_avx_epi32((__m256i)sums[v], w[v], _mm256_set1_epi32(a));
}

#include "avx2_packed.h"

void es2s_kernels_init_avx_vnni(es2s_kernels *k) {
    k->isa = "avx_vnni";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_tiles;
    k->gemm_qd8_packed = gemm_qd8_packed_tiles;
}
