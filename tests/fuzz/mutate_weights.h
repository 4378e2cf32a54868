/* Mutations of a file in the format of decoder.weights that come past the reader's first checks. */
#ifndef MUTATE_WEIGHTS_H
#define MUTATE_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

enum { WEIGHTS_HEADER = 64, MAX_WEIGHTS = 1 << 16 }; /* bytes: the least and the most that a file may have */

/* A number near the edge of a type, or near another power of two; small ones often. */
uint64_t tempting(uint64_t *seed);

/* Writes the low `n` bytes of a number, the lowest one first. */
void put(uint8_t *at, uint64_t value, size_t n);

/* Sets a field of the header, of a key or of a tensor to a tempting number. */
void change_weights(uint8_t *file, size_t size, uint64_t *seed);

/* Gives each tensor the bytes that its dimensions call for, as a careless writer would: their product may
 * wrap to `product_bits`. Returns the file's new size, or the old one where they do not fit. */
size_t lay_out_weights(uint8_t *file, size_t size, size_t max_size, unsigned product_bits);

#endif
