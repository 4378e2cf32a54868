/*
 * AVX-512 with VNNI: Intel since Ice Lake, AMD since Zen 4.
 *
 * vpdpbusd adds to each int32 lane four products of an unsigned and a signed byte, without saturation. Our
 * activations are signed, so they are moved into [1, 255] by adding 128 (flipping the top bit), and
 *     sum (a + 128) w  =  sum a w  +  128 sum w
 * gives the wanted sum after subtracting 128 times the row sum of the weights, known since load. The shifted
 * sum may wrap around at 2^31; the difference is exact all the same, being computed modulo 2^32.
 *
 * One tile is always 16 sums, one register each: 1 row x 16 outputs, 2 x 8 or 4 x 4. They end in one
 * transposing sum whose 16 lanes are the tile in row-major order, so the epilogue is the same for each shape.
 * That sum costs as much as the products of 160 elements. In packed weights (kernels.h) the lanes of a
 * register are outputs and nothing is left to sum; there the weights are the unsigned side, moved by 128, and
 * the row sums of the activations are subtracted.
 *
 * Traps. The accumulators have an int32 vector type, not __m512i: gcc 12 copies every one of them twice per
 * step when it has to convert between the two modes. The odd end of n_in comes before the loop, not after it:
 * gcc then keeps all 16 in registers. Together these took [8192, 256], one row, from 46 to 29 us. Masked
 * loads never fault on the bytes that they leave out, but where these lie in an unmapped page they take
 * hundreds of cycles, so the row scales are loaded by at most four.
 *
 * One core of an AMD EPYC (Zen 4), gcc 12.2 -O3:
 *     4 MB as 16 times [1024, 256], microseconds (bounds.c: 18 a row)
 *     rows                       1    2    4    8   16   32
 *     packed                    44   45   75  150  299  598
 *     in rows                   53   64  124  245  460  980
 *     One row of packed weights, GB/s, and a plain read of the same pages
 *     MB                         4   16   40   88  200
 *     huge pages, packed        96   77   46   33   33
 *     huge pages, plain read   100   82   53   32   32
 *     huge pages, in rows       76   68   34   24   21
 *     4 KiB pages, packed       98   66   31   23   23
 *     4 KiB pages, in rows      77   60   32   22   20
 *
 * These are of 512-bit registers. One row reads on 256-bit ones, two loads for each line of the cache.
 * In turn with the others, huge pages, rows of 768, GB/s, medians of three times 21 runs:
 *     MB                         4   16   40   88  200
 *     512 bits                  92   72   41   29   29
 *     256 bits                  95   71   44   35   32
 * Two and four rows are slower on them, and a row by [768, 256] in the second cache is, 1.93 us for 1.82.
 */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "float_ops.h"
#include "gemm.h"

typedef int32_t sums_i32 __attribute__((vector_size(64)));
typedef int32_t half_sums_i32 __attribute__((vector_size(32)));

/* Up to 64 products of each row and output: the elements that `in` selects. */
INLINE void add_products_q8(int n_rows, const int8_t *const *a, const int8_t *const *w, size_t i,
                            __mmask64 in, sums_i32 *sums /* [n_rows, 16 / n_rows] */) {
    const int n_outs = 16 / n_rows;
    __m512i a_shifted[4];
    for (int r = 0; r < n_rows; r++)
        a_shifted[r] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(in, a[r] + i), _mm512_set1_epi8(-128));
    for (int o = 0; o < n_outs; o++) {
        const __m512i w_o = _mm512_maskz_loadu_epi8(in, w[o] + i);
        for (int r = 0; r < n_rows; r++) {
            sums_i32 *sum = &sums[r * n_outs + o];
            *sum = (sums_i32)_mm512_dpbusd_epi32((__m512i)*sum, a_shifted[r], w_o);
        }
    }
}

/* Lane i of the result is the sum of all lanes of sums[i]. */
static inline __m512i sum_each(const sums_i32 *sums /* [16] */) {
    __m512i s[16];
    for (int i = 0; i < 16; i++)
        s[i] = (__m512i)sums[i];
    for (int i = 0; i < 8; i++)
        s[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                                _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
    for (int i = 0; i < 4; i++)
        s[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(s[2 * i], s[2 * i + 1]),
                                _mm512_unpackhi_epi64(s[2 * i], s[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        s[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(s[2 * i], s[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(s[2 * i], s[2 * i + 1], 0xDD));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(s[0], s[1], 0x88), _mm512_shuffle_i32x4(s[0], s[1], 0xDD));
}

/* Rows r .. r + n_rows of y, outputs o .. o + 16 / n_rows; n_rows is 1, 2 or 4. Outputs beyond n_out are
 * computed from the last weight row and not stored. */
INLINE void tile(int n_rows, const gemm *g, size_t r, size_t o) {
    const int n_outs = 16 / n_rows;
    const size_t n_left = g->n_out - o, n_in = g->n_in;
    const int8_t *a[4], *w[16];
    for (int i = 0; i < n_rows; i++)
        a[i] = g->a + (r + (size_t)i) * n_in;
    for (int i = 0; i < n_outs; i++)
        w[i] = g->w + (o + ((size_t)i < n_left ? (size_t)i : n_left - 1)) * n_in;

    sums_i32 sums[16] = {0};
    const size_t odd = n_in % 64;
    if (odd > 0) add_products_q8(n_rows, a, w, n_in - odd, ((__mmask64)1 << odd) - 1, sums);
    for (size_t i = 0; i + 64 <= n_in; i += 64) {
        prefetch(w[0] + i * (size_t)n_outs, 64 * (size_t)n_outs);
        add_products_q8(n_rows, a, w, i, ~(__mmask64)0, sums);
    }

    const __mmask16 outs = (__mmask16)((1u << (n_left < (size_t)n_outs ? n_left : (size_t)n_outs)) - 1);
    const __mmask8 rows = (__mmask8)((1u << n_rows) - 1);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i lane_row = _mm512_srli_epi32(lane, n_rows == 1 ? 4 : n_rows == 2 ? 3 : 2);
    const __m512i lane_out = _mm512_and_si512(lane, _mm512_set1_epi32(n_outs - 1));
    const __m512i w_sum = _mm512_permutexvar_epi32(lane_out, _mm512_maskz_loadu_epi32(outs, g->w_sums + o));
    const __m512 a_scale =
        _mm512_permutexvar_ps(lane_row, _mm512_castps128_ps512(_mm_maskz_loadu_ps(rows, g->a_scale + r)));
    const __m512 w_scale = _mm512_permutexvar_ps(lane_out, _mm512_maskz_loadu_ps(outs, g->w_scale + o));
    const __m512i sum = _mm512_sub_epi32(sum_each(sums), _mm512_slli_epi32(w_sum, 7));
    const __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), a_scale), w_scale);
    for (int i = 0; i < n_rows; i++) {
        const __m512i from = _mm512_add_epi32(lane_out, _mm512_set1_epi32(i * n_outs));
        _mm512_mask_storeu_ps(g->y + (r + (size_t)i) * g->y_stride + o, outs, _mm512_permutexvar_ps(from, y));
    }
}

/* Blocks of 16 weight rows stay in the L1 cache while all rows of a pass over them. */
static void gemm_qd8_qc8w_avx512_vnni(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                      const int8_t *w, const float *w_scale, const int32_t *w_sums,
                                      size_t n_out, float *y, size_t y_stride) {
    const gemm g = {a, a_scale, w, w_scale, w_sums, n_in, n_out, y_stride, y};
    for (size_t block = 0; block < n_out; block += 16) {
        const size_t end = block + 16 < n_out ? block + 16 : n_out;
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            for (size_t o = block; o < end; o += 4)
                tile(4, &g, r, o);
        for (; r + 2 <= n_rows; r += 2)
            for (size_t o = block; o < end; o += 8)
                tile(2, &g, r, o);
        if (r < n_rows) tile(1, &g, r, block);
    }
}

/* ---- packed weights ---- */

enum { STRIP = 128 }; /* rows whose sums are on the stack */

/* 16 x 16 int32: out[k] holds element k of each row. */
INLINE void transpose(__m512i *x /* [16] */) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) { /* x[i + j]: elements j, j + 4, j + 8, j + 12 of rows i / 4 .. */
            t[i + j] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0xDD);
        }
    for (int j = 0; j < 4; j++) {
        x[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        x[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xDD);
        x[j + 4] = _mm512_shuffle_i32x4(t[j + 4], t[j + 12], 0x88);
        x[j + 12] = _mm512_shuffle_i32x4(t[j + 4], t[j + 12], 0xDD);
    }
}

/* Group k of 16 outputs, 64 bytes at packed + 128 * k: elements 4 k .. 4 k + 3 of the weight rows o .. o +
 * 16, each + 128; those beyond n_out are the last. */
static void turn(const gemm *g, size_t o, uint8_t *packed) {
    const size_t n_in = g->n_in, n_left = o < g->n_out ? g->n_out - o : 0;
    for (size_t i = 0; i < n_in; i += 64) {
        const size_t n = n_in - i < 64 ? n_in - i : 64;
        const __mmask64 in = ~(__mmask64)0 >> (64 - n);
        prefetch(g->w + o * n_in + i * 16, 64 * 16);
        __m512i x[16];
        for (size_t j = 0; j < 16; j++) {
            const int8_t *w = g->w + (j < n_left ? o + j : g->n_out - 1) * n_in + i;
            x[j] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(in, w), _mm512_set1_epi8(-128));
        }
        transpose(x);
        for (size_t k = 0; k < n / 4; k++)
            _mm512_storeu_si512(packed + 128 * (i / 4 + k), x[k]);
    }
}

static int32_t sum_of(const int8_t *a, size_t n_in) {
    __m512i sum = _mm512_setzero_si512();
    for (size_t k = 0; k < n_in; k += 64) {
        const __mmask64 in = n_in - k >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (n_in - k)) - 1;
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_maskz_loadu_epi8(in, a + k));
    }
    return _mm512_reduce_add_epi32(sum);
}

/* Stores outputs o .. o + 16 of row r, without those beyond n_out. a_sum: the sum of the row of a. */
INLINE void store_outputs(const gemm *g, __m512i sum, int32_t a_sum, size_t r, size_t o) {
    if (o >= g->n_out) return;
    const size_t n_left = g->n_out - o;
    const __mmask16 outs = n_left < 16 ? (__mmask16)((1u << n_left) - 1) : (__mmask16)~0;
    const __m512i correction = _mm512_set1_epi32((int32_t)((uint32_t)a_sum << 7));
    const __m512 a_scale = _mm512_set1_ps(g->a_scale[r]),
                 w_scale = _mm512_maskz_loadu_ps(outs, g->w_scale + o);
    const __m512 products = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, correction));
    _mm512_mask_storeu_ps(g->y + r * g->y_stride + o, outs,
                          _mm512_mul_ps(_mm512_mul_ps(products, a_scale), w_scale));
}

/* Four products of a row with 32 outputs, on 256-bit registers. */
INLINE void add_group(const int8_t *a, const uint8_t *w, half_sums_i32 *sums /* [4] */) {
    int32_t a_group;
    memcpy(&a_group, a, sizeof a_group);
    for (size_t v = 0; v < 4; v++) {
        const __m256i w_v = _mm256_loadu_si256((const __m256i *)(w + 32 * v));
        sums[v] = (half_sums_i32)_mm256_dpbusd_epi32((__m256i)sums[v], w_v, _mm256_set1_epi32(a_group));
    }
}

/* Row r of y, outputs o .. o + 32 from their block, on 256-bit registers, see above; n_in is a multiple of 8.
 * Two sums for each output, so that eight products are on their way. */
static __attribute__((noinline)) void packed_row(const gemm *g, const uint8_t *block, int32_t a_sum, size_t r,
                                                 size_t o) {
    const size_t n_in = g->n_in;
    const int8_t *const a = g->a + r * n_in;
    half_sums_i32 sums[2][4] = {0};
    for (size_t i = 0; i < n_in; i += 8)
        for (size_t p = 0; p < 2; p++)
            add_group(a + i + 4 * p, block + 32 * i + 128 * p, sums[p]);
    for (size_t b = 0; b < 2; b++) {
        __m256i half[2];
        for (size_t v = 0; v < 2; v++)
            half[v] = _mm256_add_epi32((__m256i)sums[0][2 * b + v], (__m256i)sums[1][2 * b + v]);
        store_outputs(g, _mm512_inserti64x4(_mm512_castsi256_si512(half[0]), half[1], 1), a_sum, r,
                      o + 16 * b);
    }
}

/* Rows r .. r + n_rows of y, n_rows 1, 2, 4 or 8, outputs o .. o + 32 from their block. a_sums: the sums of
 * these rows of a. Few rows have several sums for each output, so that eight products are on their way.
 * asks_for_next: for the next block, too. */
INLINE void packed_tile(int n_rows, bool asks_for_next, const gemm *g, const uint8_t *block,
                        const int32_t *a_sums, size_t r, size_t o) {
    const int n_parts = n_rows < 4 ? 4 / n_rows : 1;
    const size_t n_in = g->n_in, n_groups = n_in / 4;
    const int8_t *a = g->a + r * n_in;
    sums_i32 sums[16] = {0}; /* [n_rows, 2, n_parts] */
    for (size_t k = 0; k < n_groups; k += (size_t)n_parts)
        for (int p = 0; p < n_parts; p++) {
            const size_t group = k + (size_t)p;
            if (p > 0 && group >= n_groups) break;
            const uint8_t *const from = block + 128 * group;
            const __m512i w[] = {_mm512_loadu_si512(from), _mm512_loadu_si512(from + 64)};
            if (asks_for_next) {
                const uintptr_t next = (uintptr_t)from + 32 * n_in;
                __builtin_prefetch((const void *)next, 0, 2);
                __builtin_prefetch((const void *)(next + 64), 0, 2);
            }
            for (int i = 0; i < n_rows; i++) {
                int32_t a_group;
                memcpy(&a_group, a + (size_t)i * n_in + 4 * group, sizeof a_group);
                for (int b = 0; b < 2; b++) {
                    sums_i32 *sum = &sums[(i * 2 + b) * n_parts + p];
                    *sum = (sums_i32)_mm512_dpbusd_epi32((__m512i)*sum, w[b], _mm512_set1_epi32(a_group));
                }
            }
        }
    for (int i = 0; i < n_rows; i++)
        for (int b = 0; b < 2; b++) {
            __m512i sum = (__m512i)sums[(i * 2 + b) * n_parts];
            for (int p = 1; p < n_parts; p++)
                sum = _mm512_add_epi32(sum, (__m512i)sums[(i * 2 + b) * n_parts + p]);
            store_outputs(g, sum, a_sums[i], r + (size_t)i, o + 16 * (size_t)b);
        }
}

/* Rows from .. end of y, outputs o .. o + 32. With several tiles the next block is asked for during the
 * first: the CPU itself looks ahead only while it reads on. */
static void packed_rows(const gemm *g, const uint8_t *block, const int32_t *a_sums, size_t from, size_t end,
                        size_t o) {
    size_t r = from;
    if (end - from >= 16) {
        packed_tile(8, true, g, block, a_sums, r, o);
        r += 8;
    }
    for (; r + 8 <= end; r += 8)
        packed_tile(8, false, g, block, a_sums + (r - from), r, o);
    if (r + 4 <= end) {
        packed_tile(4, false, g, block, a_sums + (r - from), r, o);
        r += 4;
    }
    if (r + 2 <= end) {
        packed_tile(2, false, g, block, a_sums + (r - from), r, o);
        r += 2;
    }
    if (r < end && g->n_in % 8 == 0)
        packed_row(g, block, a_sums[r - from], r, o);
    else if (r < end)
        packed_tile(1, false, g, block, a_sums + (r - from), r, o);
}

static size_t packed_size_avx512_vnni(size_t n_out, size_t n_in) {
    return n_in % 4 == 0 ? (n_out + 31) / 32 * 32 * n_in : 0;
}

static void pack_qc8w_avx512_vnni(const int8_t *w, size_t n_out, size_t n_in, uint8_t *packed) {
    const gemm g = {.w = w, .n_in = n_in, .n_out = n_out};
    for (size_t o = 0; o < n_out; o += 32)
        for (size_t b = 0; b < 2; b++)
            turn(&g, o + 16 * b, packed + o * n_in + 64 * b);
}

static void gemm_qd8_packed_avx512_vnni(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                        const uint8_t *packed, const float *w_scale, size_t n_out, float *y,
                                        size_t y_stride) {
    const gemm g = {.a = a,
                    .a_scale = a_scale,
                    .w_scale = w_scale,
                    .n_in = n_in,
                    .n_out = n_out,
                    .y_stride = y_stride,
                    .y = y};
    int32_t a_sums[STRIP];
    for (size_t from = 0; from < n_rows; from += STRIP) {
        const size_t end = from + STRIP < n_rows ? from + STRIP : n_rows;
        for (size_t r = from; r < end; r++)
            a_sums[r - from] = sum_of(a + r * n_in, n_in);
        for (size_t o = 0; o < n_out; o += 32)
            packed_rows(&g, packed + o * n_in, a_sums, from, end, o);
    }
}

/* ---- attention ---- */

enum { HEAD = 64 }; /* elements of a usual head; others take the common way */

/* The lanes of four sums as quads of one register: lanes i and i + 8, then i + 4, as sum_lanes has it. */
INLINE __m512 quads(const __m512 *s /* [4] */) {
    __m512 t[2];
    for (int i = 0; i < 2; i++)
        t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0xEE));
    return _mm512_add_ps(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xDD));
}

/* sum_lanes of 16 sums at once: 15 additions instead of 96. */
INLINE __m512 sum_lanes_of_16(const __m512 *s /* [16] */) {
    __m512 pairs[2]; /* quad k: two lanes each of the sums k and k + 4, or k + 8 and k + 12 */
    for (int i = 0; i < 2; i++) {
        const __m512d a = _mm512_castps_pd(quads(s + 8 * i)), b = _mm512_castps_pd(quads(s + 8 * i + 4));
        pairs[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    const __m512 sum = _mm512_add_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88),
                                     _mm512_shuffle_ps(pairs[0], pairs[1], 0xDD));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(order, sum);
}

INLINE __m128 sum_lanes_of_4(const __m512 *s /* [4] */) {
    __m512 sum = quads(s);
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4E));
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xB1));
    const __m512i first_of_quads = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quads, sum));
}

/* s[i]: the lanes of q . key_(j + i). */
INLINE void products_of_keys(element type, int n, const __m512 *q /* [4] */, const void *k,
                             const int32_t *index, size_t j, __m512 *s /* [n] */) {
    for (int i = 0; i < n; i++) {
        const void *key = element_at(type, k, row_of(index, j + (size_t)i) * HEAD);
        prefetch_ahead(type, key, HEAD);
        s[i] = _mm512_setzero_ps();
        for (int d = 0; d < HEAD / LANES; d++)
            s[i] =
                _mm512_add_ps(s[i], _mm512_mul_ps(q[d], (__m512)load_from(type, key, (size_t)(d * LANES))));
    }
}

/* The query stays in registers, and 16 keys share a sum across them. */
INLINE void scores_of_usual(element type, const float *q, const void *k, const int32_t *index, size_t n_keys,
                            size_t d_head, const float *bias, float *scores) {
    __m512 q_lanes[HEAD / LANES], s[16];
    if (d_head != HEAD) {
        scores_of(type, q, k, index, n_keys, d_head, scores);
    } else {
        for (int d = 0; d < HEAD / LANES; d++)
            q_lanes[d] = _mm512_loadu_ps(q + d * LANES);
        size_t j = 0;
        for (; j + 16 <= n_keys; j += 16) {
            products_of_keys(type, 16, q_lanes, k, index, j, s);
            _mm512_storeu_ps(scores + j, sum_lanes_of_16(s));
        }
        for (; j + 4 <= n_keys; j += 4) {
            products_of_keys(type, 4, q_lanes, k, index, j, s);
            _mm_storeu_ps(scores + j, sum_lanes_of_4(s));
        }
        for (; j < n_keys; j++)
            scores[j] = dot_key(type, q, element_at(type, k, row_of(index, j) * HEAD), HEAD);
    }
    if (bias) add(scores, bias, n_keys);
}

static void attention_scores_avx512_vnni(const float *q, const float *k, const int32_t *index, size_t n_keys,
                                         size_t d_head, const float *bias, float *scores) {
    scores_of_usual(F32, q, k, index, n_keys, d_head, bias, scores);
}

static void attention_scores_f16_avx512_vnni(const float *q, const uint16_t *k, const int32_t *index,
                                             size_t n_keys, size_t d_head, const float *bias, float *scores) {
    scores_of_usual(F16, q, k, index, n_keys, d_head, bias, scores);
}

void es2s_kernels_init_avx512_vnni(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx512_vnni";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_avx512_vnni;
    k->packed_size = packed_size_avx512_vnni;
    k->pack_qc8w = pack_qc8w_avx512_vnni;
    k->gemm_qd8_packed = gemm_qd8_packed_avx512_vnni;
    k->attention_scores = attention_scores_avx512_vnni;
    k->attention_scores_f16 = attention_scores_f16_avx512_vnni;
}
