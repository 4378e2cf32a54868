/* SHA-256 (FIPS 180-4) of one piece of memory, or of two at a time. */
#ifndef ES2S_SHA256_H
#define ES2S_SHA256_H

#include <stddef.h>
#include <stdint.h>

void es2s_sha256(const void *data, size_t size, uint8_t digest[32]);

/* Of two pieces. What they have in common in length takes hardly longer than one of them where the CPU has
 * instructions for SHA-256: each of those waits for the one before. */
void es2s_sha256_two(const void *const data[2], const size_t size[2], uint8_t digest[2][32]);

/* ---- for the files of SHA-256 and their tests ---- */

extern const uint32_t es2s_sha256_k[64];

/* Hashes n blocks of 64 bytes of each of n_streams, one or two, into its state. */
typedef void es2s_sha256_blocks(uint32_t H[][8], const uint8_t *const blocks[], int n_streams, size_t n);

es2s_sha256_blocks es2s_sha256_blocks_portable;
es2s_sha256_blocks es2s_sha256_blocks_x86;   /* sha256_x86.c */
es2s_sha256_blocks es2s_sha256_blocks_armv8; /* sha256_armv8.c */

/* The fastest that this CPU runs. */
es2s_sha256_blocks *es2s_sha256_fastest(void);

#endif
