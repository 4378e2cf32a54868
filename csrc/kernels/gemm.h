/*
 * What every int8 GEMM is written with: its arguments in one struct, and prefetching.
 */
#ifndef ES2S_GEMM_H
#define ES2S_GEMM_H

#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline)) /* with its n_rows a constant */

typedef struct gemm {
    const int8_t *a;       /* [n_rows, n_in] */
    const float *a_scale;  /* [n_rows] */
    const int8_t *w;       /* [n_out, n_in] */
    const float *w_scale;  /* [n_out] */
    const int32_t *w_sums; /* [n_out] */
    size_t n_in, n_out, y_stride;
    float *y; /* [n_rows, y_stride] */
} gemm;

enum { LINE = 64, NEAR = 4096, FAR = 16384 };

/* Asks for n bytes that come soon after those from `w` on, line after line: FAR behind them into the second
 * cache, NEAR into the first.
 *
 * A tile reads several weight rows at once, but memory likes its lines one after the other. And a core waits
 * for few lines on their way to the first cache (24 on Zen 4), for many more on their way to the second.
 * On a Zen 4 whose plain read of 200 MB has 17.6 GB/s, one row by [409600, 512] had 9.6 with prefetches row
 * by row into the first cache, 15.3 with lines in order into the second, 17.8 with both; AVX2 had 7.2 and
 * has 16.3.
 *
 * Never faults, so it may look beyond the end of w; the sum is one of integers because a pointer may not.
 * Inlined by force: gcc takes a call without result or side effect for dead code. */
INLINE void prefetch(const int8_t *w, size_t n) {
    for (size_t i = 0; i < n; i += LINE) {
        __builtin_prefetch((const void *)((uintptr_t)w + FAR + i), 0, 2);
        __builtin_prefetch((const void *)((uintptr_t)w + NEAR + i), 0, 3);
    }
}

#endif
