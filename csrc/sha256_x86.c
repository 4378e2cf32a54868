/* SHA-256 with the SHA extensions of x86: sha256rnds2 does two rounds, sha256msg1 and msg2 the message
 * schedule. It wants the state as ABEF and CDGH, the first letter in the highest lane. */
#include <immintrin.h>

#include "sha256.h"

void es2s_sha256_blocks_x86(uint32_t H[8], const uint8_t *blocks, size_t n) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)H), 0xb1);
    const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(H + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; n > 0; n--, blocks += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i W[4]; /* the last 16 words, 4 to each */
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* rounds 4 g to 4 g + 3 */
            __m128i *w = W + g % 4;
            if (g < 4) {
                *w = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)blocks + g), big_endian);
            } else {
                const __m128i last = W[(g + 3) % 4], before_last = W[(g + 2) % 4];
                const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(*w, W[(g + 1) % 4]),
                                                  _mm_alignr_epi8(last, before_last, 4));
                *w = _mm_sha256msg2_epu32(sum, last);
            }
            const __m128i wk = _mm_add_epi32(*w, _mm_loadu_si128((const __m128i *)es2s_sha256_k + g));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)H, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(H + 4), _mm_alignr_epi8(dchg, feba, 8));
}
