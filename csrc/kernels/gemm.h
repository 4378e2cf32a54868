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

/* Never faults, so it may look beyond the end of w; the sum is one of integers because a pointer may not.
 * Inlined by force: gcc takes a call without result or side effect for dead code. */
INLINE void prefetch(const int8_t *w, size_t n_ahead) {
    __builtin_prefetch((const void *)((uintptr_t)w + n_ahead));
}

#endif
