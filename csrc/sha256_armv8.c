/* SHA-256 with the instructions of ARMv8 for it: sha256h and sha256h2 do four rounds, su0 and su1 the message
 * schedule. */
#include <arm_neon.h>

#include "sha256.h"

void es2s_sha256_blocks_armv8(uint32_t H[8], const uint8_t *blocks, size_t n) {
    uint32x4_t abcd = vld1q_u32(H), efgh = vld1q_u32(H + 4);
    for (; n > 0; n--, blocks += 64) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t W[4]; /* the last 16 words, 4 to each */
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* rounds 4 g to 4 g + 3 */
            uint32x4_t *w = W + g % 4;
            if (g < 4)
                *w = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * g)));
            else
                *w = vsha256su1q_u32(vsha256su0q_u32(*w, W[(g + 1) % 4]), W[(g + 2) % 4], W[(g + 3) % 4]);
            const uint32x4_t wk = vaddq_u32(*w, vld1q_u32(es2s_sha256_k + 4 * g)), abcd_now = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, abcd_now, wk);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(H, abcd);
    vst1q_u32(H + 4, efgh);
}
