/*
 * AVX2: Intel since Haswell (2013), AMD since Excavator (2015).
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs in int16, where 2 * 255 * 127 would saturate.
 * So the sign of a moves to w:
 *     a w  =  |a| * (sign(a) w)
 * and with both in [-127, 127] a pair is at most 2 * 127 * 127 = 32258 < 2^15: exact. vpmaddwd by ones then
 * widens to int32. This needs no row sums. -128 is outside the range: its negation wraps.
 *
 * One tile is always 8 sums, one register each: 1 row x 8 outputs, 2 x 4 or 4 x 2. With the activations,
 * their absolute values and temporaries that fills the 16 registers.
 *
 * Traps: those of avx512_vnni.c, whose layout this file shares.
 *
 * Measured by check_kernels --bench: one core of an AMD EPYC (Zen 4), gcc 12.2 -O3, median of 15 samples, us.
 *     weights         1 row               4 rows   16 rows   only reading the weights
 *     [768, 256]        3.8    52 GB/s        15        59        1.9   101 GB/s
 *     [2048, 512]      17.5    60 GB/s        71       282       12.4    84 GB/s
 *     [8192, 256]      40.7    51 GB/s       160       635       22.0    95 GB/s
 *     [32128, 512]      418    39 GB/s      1200      4680        215    77 GB/s
 * Four instructions for each 32 products are the limit: several rows share the loads, not the arithmetic.
 * Prefetching is worth 10 % on [8192, 256] and 30 % on [32128, 512].
 */
#include <immintrin.h>

#include "float_ops.h"

#define INLINE static inline __attribute__((always_inline)) /* with its n_rows a constant */

typedef int32_t sums_i32 __attribute__((vector_size(32)));

typedef struct gemm {
    const int8_t *a;      /* [n_rows, n_in] */
    const float *a_scale; /* [n_rows] */
    const int8_t *w;      /* [n_out, n_in] */
    const float *w_scale; /* [n_out] */
    size_t n_in, n_out, y_stride;
    float *y; /* [n_rows, y_stride] */
} gemm;

/* Never faults, so it may look beyond the end of w; the sum is one of integers because a pointer may not.
 * Inlined by force: gcc takes a call without result or side effect for dead code. */
INLINE void prefetch(const int8_t *w) {
    _mm_prefetch((const char *)((uintptr_t)w + 4096), _MM_HINT_T0);
}

/* 32 products of each row and output. */
INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
                            sums_i32 *sums /* [n_rows, 8 / n_rows] */) {
    const int n_outs = 8 / n_rows;
    for (int r = 0; r < n_rows; r++) {
        const __m256i a_r = _mm256_loadu_si256((const __m256i *)(a[r] + i));
        const __m256i a_abs = _mm256_abs_epi8(a_r);
        for (int o = 0; o < n_outs; o++) {
            const __m256i w_o = _mm256_loadu_si256((const __m256i *)(w[o] + i));
            const __m256i pairs = _mm256_maddubs_epi16(a_abs, _mm256_sign_epi8(w_o, a_r));
            sums[r * n_outs + o] += (sums_i32)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        }
    }
}

/* Copies the last n < 32 elements of each row, filled up with zeros. */
INLINE void copy_odd_end(int n_rows, const int8_t *const *rows, size_t from, size_t n, int8_t (*copies)[32],
                         const int8_t **pointers) {
    for (int r = 0; r < n_rows; r++) {
        memset(copies[r], 0, 32);
        memcpy(copies[r], rows[r] + from, n);
        pointers[r] = copies[r];
    }
}

/* Lane i of the result is the sum of all lanes of sums[i]. */
static inline __m256i sum_each(const sums_i32 *sums /* [8] */) {
    __m256i s[8];
    for (int i = 0; i < 8; i++)
        s[i] = (__m256i)sums[i];
    for (int i = 0; i < 4; i++)
        s[i] = _mm256_hadd_epi32(s[2 * i], s[2 * i + 1]);
    for (int i = 0; i < 2; i++)
        s[i] = _mm256_hadd_epi32(s[2 * i], s[2 * i + 1]);
    return _mm256_add_epi32(_mm256_permute2x128_si256(s[0], s[1], 0x20),
                            _mm256_permute2x128_si256(s[0], s[1], 0x31));
}

/* Rows r .. r + n_rows of y, outputs o .. o + 8 / n_rows; n_rows is 1, 2 or 4. Outputs beyond n_out are
 * computed from the last weight row and not stored. */
INLINE void tile(int n_rows, const gemm *g, size_t r, size_t o) {
    const int n_outs = 8 / n_rows;
    const size_t n_left = g->n_out - o, n_in = g->n_in;
    const int8_t *a[4], *w[8];
    for (int i = 0; i < n_rows; i++)
        a[i] = g->a + (r + (size_t)i) * n_in;
    for (int i = 0; i < n_outs; i++)
        w[i] = g->w + (o + ((size_t)i < n_left ? (size_t)i : n_left - 1)) * n_in;

    sums_i32 sums[8] = {0};
    const size_t odd = n_in % 32;
    if (odd > 0) {
        int8_t a_copies[4][32], w_copies[8][32];
        const int8_t *a_odd[4], *w_odd[8];
        copy_odd_end(n_rows, a, n_in - odd, odd, a_copies, a_odd);
        copy_odd_end(n_outs, w, n_in - odd, odd, w_copies, w_odd);
        add_products_q8(n_rows, a_odd, w_odd, 0, sums);
    }
    for (size_t i = 0; i + 32 <= n_in; i += 32) {
        for (int j = 0; j < n_outs; j++)
            prefetch(w[j] + i);
        add_products_q8(n_rows, a, w, i, sums);
    }

    int32_t sum[8]; /* [n_rows, n_outs] */
    _mm256_storeu_si256((__m256i *)sum, sum_each(sums));
    for (int i = 0; i < n_rows; i++)
        for (size_t j = 0; j < (size_t)n_outs && j < n_left; j++)
            g->y[(r + (size_t)i) * g->y_stride + o + j] =
                ((float)sum[(size_t)(i * n_outs) + j] * g->a_scale[r + (size_t)i]) * g->w_scale[o + j];
}

/* Blocks of 8 weight rows stay in the L1 cache while all rows of a pass over them. */
static void gemm_qd8_qc8w_avx2(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                               const int8_t *w, const float *w_scale, const int32_t *w_sums, size_t n_out,
                               float *y, size_t y_stride) {
    (void)w_sums;
    const gemm g = {a, a_scale, w, w_scale, n_in, n_out, y_stride, y};
    for (size_t block = 0; block < n_out; block += 8) {
        const size_t end = block + 8 < n_out ? block + 8 : n_out;
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            for (size_t o = block; o < end; o += 2)
                tile(4, &g, r, o);
        for (; r + 2 <= n_rows; r += 2)
            for (size_t o = block; o < end; o += 4)
                tile(2, &g, r, o);
        if (r < n_rows) tile(1, &g, r, block);
    }
}

void es2s_kernels_init_avx2(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx2";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_avx2;
}
