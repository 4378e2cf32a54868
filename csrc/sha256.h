/* SHA-256 (FIPS 180-4) of one piece of memory. */
#ifndef ES2S_SHA256_H
#define ES2S_SHA256_H

#include <stddef.h>
#include <stdint.h>

void es2s_sha256(const void *data, size_t size, uint8_t digest[32]);

#endif
