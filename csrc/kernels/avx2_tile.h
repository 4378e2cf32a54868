/*
 * The tile of gemm_tiles.h on 256-bit registers, without its products: 8 sums, which with the operands fit
 * the 16 registers.
 *
 * Trap: the accumulators have an int32 vector type, not __m256i, as in avx512_vnni.c.
 */
#ifndef ES2S_AVX2_TILE_H
#define ES2S_AVX2_TILE_H

#include <immintrin.h>

#include "float_ops.h"
#include "gemm.h"

enum { N_SUMS = 8, STEP = 32 };
typedef int32_t sums_i32 __attribute__((vector_size(STEP)));

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

static inline int32_t sum_lanes_i32(__m256i x) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
}

#endif
