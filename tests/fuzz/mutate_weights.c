#include "mutate_weights.h"

#include <string.h>

#include "tiny_weights.h"

enum { KEY = 256, TENSOR = 128 };

void put(uint8_t *at, uint64_t value, size_t n) {
    for (size_t i = 0; i < n; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t get(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t get64(const uint8_t *at) {
    return get(at) | (uint64_t)get(at + 4) << 32;
}

uint64_t tempting(uint64_t *seed) {
    const unsigned bits = (unsigned)(tiny_random(seed) % (tiny_random(seed) % 2 ? 65 : 17));
    const uint64_t power = bits == 64 ? 0 : (uint64_t)1 << bits;
    return power + tiny_random(seed) % 7 - 3;
}

/* First byte and number of the tensor entries; no entries where the file is too damaged to tell. */
static uint8_t *find_entries(uint8_t *file, size_t size, size_t *n_out) {
    const size_t n_keys = get(file + 16), n_tensors = get(file + 20), start = WEIGHTS_HEADER + n_keys * KEY;
    *n_out = n_keys <= 256 && n_tensors <= 4096 && start + n_tensors * TENSOR <= size ? n_tensors : 0;
    return file + start;
}

void change_weights(uint8_t *file, size_t size, uint64_t *seed) {
    static const struct {
        uint8_t at, size;
    } in_key[] = {{0, 1}, {48, 4}, {52, 4}, {56, 4}, {56, 8}, {56, 8}, {56, 8}, {255, 1}},
      in_tensor[] = {{0, 1},  {64, 4}, {68, 4}, {72, 8},  {72, 8},  {80, 8}, {80, 8},
                     {80, 8}, {80, 8}, {88, 8}, {104, 8}, {112, 8}, {120, 8}};
    size_t n_tensors;
    uint8_t *entries = find_entries(file, size, &n_tensors);
    if (n_tensors == 0 || entries == file + WEIGHTS_HEADER || tiny_random(seed) % 16 == 0) {
        put(file + 8 + 4 * (tiny_random(seed) % 4), tempting(seed), 4);
    } else if (tiny_random(seed) % 2) {
        const size_t f = tiny_random(seed) % (sizeof in_key / sizeof *in_key);
        uint8_t *key = file + WEIGHTS_HEADER + tiny_random(seed) % get(file + 16) * KEY;
        put(key + in_key[f].at, tempting(seed), in_key[f].size);
    } else {
        const size_t f = tiny_random(seed) % (sizeof in_tensor / sizeof *in_tensor);
        uint8_t *entry = entries + tiny_random(seed) % n_tensors * TENSOR;
        put(entry + in_tensor[f].at, tempting(seed), in_tensor[f].size);
    }
}

size_t lay_out_weights(uint8_t *file, size_t size, size_t max_size, unsigned product_bits) {
    static uint8_t old[MAX_WEIGHTS];
    size_t n_tensors;
    uint8_t *entries = find_entries(file, size, &n_tensors);
    memcpy(old, file, size);
    size_t end = (size_t)(entries - file) + n_tensors * TENSOR;
    if (n_tensors == 0) return size;
    memset(file + end, 0, max_size - end);
    for (uint8_t *entry = entries; n_tensors > 0; n_tensors--, entry += TENSOR) {
        uint64_t n_bytes = get(entry + 64) == 1 ? 4 : 1;
        for (uint32_t d = 0; d < get(entry + 68) && d < 4; d++)
            n_bytes *= get64(entry + 72 + 8 * d);
        if (product_bits < 64) n_bytes &= ((uint64_t)1 << product_bits) - 1;
        end = (end + 63) / 64 * 64;
        const uint64_t from = get64(entry + 104);
        if (end > max_size || n_bytes > max_size - end) {
            memcpy(file, old, size);
            return size;
        }
        if (from < size) memcpy(file + end, old + from, n_bytes < size - from ? n_bytes : size - from);
        put(entry + 104, end, 8);
        put(entry + 112, n_bytes, 8);
        end += n_bytes;
    }
    const size_t new_size = (end + 63) / 64 * 64;
    return new_size <= max_size ? new_size : max_size;
}
