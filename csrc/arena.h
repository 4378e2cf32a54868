/*
 * One block of memory cut into 64-byte aligned pieces.
 *
 * The code that takes the pieces runs twice: with base NULL it only measures, so the block is allocated once,
 * exactly, and after everything was checked; then the same code fills it.
 */
#ifndef ES2S_ARENA_H
#define ES2S_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct es2s_arena {
    uint8_t *base; /* NULL: measure */
    size_t used;   /* a multiple of 64, or SIZE_MAX: more than can be addressed */
} es2s_arena;

/* n elements of `size` bytes, uninitialised; NULL while measuring. */
static inline void *es2s_arena_take(es2s_arena *arena, uint64_t n, size_t size) {
    const size_t offset = arena->used;
    if (offset == SIZE_MAX || n > (SIZE_MAX - 64 - offset) / size) {
        arena->used = SIZE_MAX;
        return NULL;
    }
    arena->used = (offset + (size_t)n * size + 63) / 64 * 64;
    return arena->base ? arena->base + offset : NULL;
}

#endif
