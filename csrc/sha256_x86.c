/* SHA-256 with the SHA extensions of x86: sha256rnds2 does two rounds, sha256msg1 and msg2 the message
 * schedule. It wants the state as ABEF and CDGH, the first letter in the highest lane. */
#include <immintrin.h>

#include "sha256.h"

/* Inlined with n_streams a constant. */
static inline __attribute__((always_inline)) void add_blocks(uint32_t H[][8], const uint8_t *const blocks[],
                                                             const int n_streams, size_t n) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abef[2], cdgh[2];
    for (int s = 0; s < n_streams; s++) {
        const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)H[s]), 0xb1);
        const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(H[s] + 4)), 0x1b);
        abef[s] = _mm_alignr_epi8(cdab, efgh, 8);
        cdgh[s] = _mm_blend_epi16(efgh, cdab, 0xf0);
    }
    for (size_t i = 0; i < n; i++) {
        __m128i abef_before[2], cdgh_before[2], W[2][4]; /* the last 16 words, 4 to each */
        for (int s = 0; s < n_streams; s++) {
            abef_before[s] = abef[s];
            cdgh_before[s] = cdgh[s];
        }
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* rounds 4 g to 4 g + 3 */
            const __m128i k = _mm_loadu_si128((const __m128i *)es2s_sha256_k + g);
#pragma GCC unroll 2
            for (int s = 0; s < n_streams; s++) {
                __m128i *w = W[s] + g % 4;
                if (g < 4) {
                    const __m128i *const words = (const __m128i *)(blocks[s] + 64 * i) + g;
                    *w = _mm_shuffle_epi8(_mm_loadu_si128(words), big_endian);
                } else {
                    const __m128i last = W[s][(g + 3) % 4], before_last = W[s][(g + 2) % 4];
                    const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(*w, W[s][(g + 1) % 4]),
                                                      _mm_alignr_epi8(last, before_last, 4));
                    *w = _mm_sha256msg2_epu32(sum, last);
                }
                const __m128i wk = _mm_add_epi32(*w, k);
                cdgh[s] = _mm_sha256rnds2_epu32(cdgh[s], abef[s], wk);
                abef[s] = _mm_sha256rnds2_epu32(abef[s], cdgh[s], _mm_shuffle_epi32(wk, 0x0e));
            }
        }
        for (int s = 0; s < n_streams; s++) {
            abef[s] = _mm_add_epi32(abef[s], abef_before[s]);
            cdgh[s] = _mm_add_epi32(cdgh[s], cdgh_before[s]);
        }
    }
    for (int s = 0; s < n_streams; s++) {
        const __m128i feba = _mm_shuffle_epi32(abef[s], 0x1b), dchg = _mm_shuffle_epi32(cdgh[s], 0xb1);
        _mm_storeu_si128((__m128i *)H[s], _mm_blend_epi16(feba, dchg, 0xf0));
        _mm_storeu_si128((__m128i *)(H[s] + 4), _mm_alignr_epi8(dchg, feba, 8));
    }
}

void es2s_sha256_blocks_x86(uint32_t H[][8], const uint8_t *const blocks[], int n_streams, size_t n) {
    if (n_streams == 2)
        add_blocks(H, blocks, 2, n);
    else
        add_blocks(H, blocks, 1, n);
}
