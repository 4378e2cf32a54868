/* FIPS 180-4, sections 5 and 6, with the standard's names. */
#include "sha256.h"

#include <string.h>

const uint32_t es2s_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static void add_block(uint32_t H[8], const uint8_t block[64]) {
    uint32_t W[64];
    for (int t = 0; t < 16; t++)
        W[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
               (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        const uint32_t s0 = rotr(W[t - 15], 7) ^ rotr(W[t - 15], 18) ^ W[t - 15] >> 3;
        const uint32_t s1 = rotr(W[t - 2], 17) ^ rotr(W[t - 2], 19) ^ W[t - 2] >> 10;
        W[t] = s1 + W[t - 7] + s0 + W[t - 16];
    }
    uint32_t a = H[0], b = H[1], c = H[2], d = H[3], e = H[4], f = H[5], g = H[6], h = H[7];
    for (int t = 0; t < 64; t++) {
        const uint32_t S1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25), ch = (e & f) ^ (~e & g);
        const uint32_t S0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22), maj = (a & b) ^ (a & c) ^ (b & c);
        const uint32_t T1 = h + S1 + ch + es2s_sha256_k[t] + W[t], T2 = S0 + maj;
        h = g, g = f, f = e, e = d + T1;
        d = c, c = b, b = a, a = T1 + T2;
    }
    H[0] += a, H[1] += b, H[2] += c, H[3] += d, H[4] += e, H[5] += f, H[6] += g, H[7] += h;
}

void es2s_sha256_blocks_portable(uint32_t H[][8], const uint8_t *const blocks[], int n_streams, size_t n) {
    for (int s = 0; s < n_streams; s++)
        for (size_t i = 0; i < n; i++)
            add_block(H[s], blocks[s] + 64 * i);
}

/* What the kernel sets do not need: a CPU with AVX2 may lack it, one without may have it. */
#if defined(__x86_64__)
#include <cpuid.h>

es2s_sha256_blocks *es2s_sha256_fastest(void) {
    enum { CPUID_1_ECX_SSSE3 = 1 << 9, CPUID_1_ECX_SSE4_1 = 1 << 19, CPUID_7_EBX_SHA = 1 << 29 };
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return es2s_sha256_blocks_portable;
    if (!(ecx & CPUID_1_ECX_SSSE3) || !(ecx & CPUID_1_ECX_SSE4_1)) return es2s_sha256_blocks_portable;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return es2s_sha256_blocks_portable;
    return ebx & CPUID_7_EBX_SHA ? es2s_sha256_blocks_x86 : es2s_sha256_blocks_portable;
}
#elif defined(__aarch64__)
#include "platform.h"

es2s_sha256_blocks *es2s_sha256_fastest(void) {
    return es2s_cpu_arm_features().sha2 ? es2s_sha256_blocks_armv8 : es2s_sha256_blocks_portable;
}
#else
es2s_sha256_blocks *es2s_sha256_fastest(void) {
    return es2s_sha256_blocks_portable;
}
#endif

static const uint32_t H0[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* The blocks from `done` on: whole ones, and the rest with one bit 1, zeros, the length in bits. */
static void finish(es2s_sha256_blocks *add_blocks, uint32_t H[1][8], const uint8_t *data, size_t size,
                   size_t done, uint8_t digest[32]) {
    const size_t n = size / 64, left = size % 64;
    if (n > done) add_blocks(H, (const uint8_t *[]){data + 64 * done}, 1, n - done);

    uint8_t last[128] = {0};
    if (left > 0) memcpy(last, data + 64 * n, left);
    last[left] = 0x80;
    const size_t n_last = left < 56 ? 64 : 128;
    for (size_t i = 0; i < 8; i++)
        last[n_last - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    add_blocks(H, (const uint8_t *[]){last}, 1, n_last / 64);

    for (size_t i = 0; i < 32; i++)
        digest[i] = (uint8_t)(H[0][i / 4] >> (24 - 8 * (i % 4)));
}

void es2s_sha256(const void *data, size_t size, uint8_t digest[32]) {
    uint32_t H[1][8];
    memcpy(H, H0, sizeof H);
    finish(es2s_sha256_fastest(), H, data, size, 0, digest);
}

void es2s_sha256_two(const void *const data[2], const size_t size[2], uint8_t digest[2][32]) {
    uint32_t H[2][8];
    es2s_sha256_blocks *const add_blocks = es2s_sha256_fastest();
    const size_t n = (size[0] < size[1] ? size[0] : size[1]) / 64;
    for (int s = 0; s < 2; s++)
        memcpy(H[s], H0, sizeof H0);
    if (n > 0) add_blocks(H, (const uint8_t *[]){data[0], data[1]}, 2, n);
    for (int s = 0; s < 2; s++)
        finish(add_blocks, &H[s], data[s], size[s], n, digest[s]);
}
