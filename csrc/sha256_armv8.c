/* SHA-256 with the instructions of ARMv8 for it: sha256h and sha256h2 do four rounds, su0 and su1 the message
 * schedule. */
#include <arm_neon.h>

#include "sha256.h"

/* Inlined with n_streams a constant. */
static inline __attribute__((always_inline)) void add_blocks(uint32_t H[][8], const uint8_t *const blocks[],
                                                             const int n_streams, size_t n) {
    uint32x4_t abcd[2], efgh[2];
    for (int s = 0; s < n_streams; s++) {
        abcd[s] = vld1q_u32(H[s]);
        efgh[s] = vld1q_u32(H[s] + 4);
    }
    for (size_t i = 0; i < n; i++) {
        uint32x4_t abcd_before[2], efgh_before[2], W[2][4]; /* the last 16 words, 4 to each */
        for (int s = 0; s < n_streams; s++) {
            abcd_before[s] = abcd[s];
            efgh_before[s] = efgh[s];
        }
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) { /* rounds 4 g to 4 g + 3 */
            const uint32x4_t k = vld1q_u32(es2s_sha256_k + 4 * g);
#pragma GCC unroll 2
            for (int s = 0; s < n_streams; s++) {
                uint32x4_t *w = W[s] + g % 4;
                if (g < 4)
                    *w = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks[s] + 64 * i + 16 * g)));
                else
                    *w = vsha256su1q_u32(vsha256su0q_u32(*w, W[s][(g + 1) % 4]), W[s][(g + 2) % 4],
                                         W[s][(g + 3) % 4]);
                const uint32x4_t wk = vaddq_u32(*w, k), abcd_now = abcd[s];
                abcd[s] = vsha256hq_u32(abcd[s], efgh[s], wk);
                efgh[s] = vsha256h2q_u32(efgh[s], abcd_now, wk);
            }
        }
        for (int s = 0; s < n_streams; s++) {
            abcd[s] = vaddq_u32(abcd[s], abcd_before[s]);
            efgh[s] = vaddq_u32(efgh[s], efgh_before[s]);
        }
    }
    for (int s = 0; s < n_streams; s++) {
        vst1q_u32(H[s], abcd[s]);
        vst1q_u32(H[s] + 4, efgh[s]);
    }
}

void es2s_sha256_blocks_armv8(uint32_t H[][8], const uint8_t *const blocks[], int n_streams, size_t n) {
    if (n_streams == 2)
        add_blocks(H, blocks, 2, n);
    else
        add_blocks(H, blocks, 1, n);
}
