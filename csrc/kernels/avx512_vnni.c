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
 * For a few rows memory is the limit; for many this sum costs as much as the products of 160 elements. There
 * a block of weights is turned once, so that the lanes of a register are outputs and nothing is left to sum;
 * then the weights are the unsigned side, moved by 128, and the row sums of the activations are subtracted.
 * Weights that stay in a cache are kept turned: packed (kernels.h).
 *
 * Traps. The accumulators have an int32 vector type, not __m512i: gcc 12 copies every one of them twice per
 * step when it has to convert between the two modes. The odd end of n_in comes before the loop, not after it:
 * gcc then keeps all 16 in registers. Together these took [8192, 256], one row, from 46 to 29 us. Masked
 * loads never fault on the bytes that they leave out, but where these lie in an unmapped page they take
 * hundreds of cycles, so the row scales are loaded by at most four.
 *
 * One core of an AMD EPYC (Zen 4), gcc 12.2 -O3, 1e9 products a second, best of 0.4 s (bounds.c: 231):
 *     weights        4 rows  16 rows  32 rows  128 rows   without turning: 16   32   128
 *     [4096, 256]       142      171      192      205                    142  141   141
 *     [2048, 512]       180      182      198      218                    184  182   179
 *     [1024, 1024]      198      205      205      218                    206  205   205
 * Packed, 4 MB as 16 times [1024, 256], against the same in rows, microseconds:
 *     rows                1    2    4    8   16   32
 *     packed             50   59   78  151  299  601
 *     in rows            53   64  124  245  460  764
 * One row reads [4096, 256] at 75 GB/s, [40960, 512] at 50 and [409600, 512] at 18; gemm.h has more.
 */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "float_ops.h"
#include "gemm.h"

typedef int32_t sums_i32 __attribute__((vector_size(64)));

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

/* ---- many rows: a block of 16 weight rows, turned so that a register holds 4 elements of each ---- */

enum {
    MIN_ROWS = 12,
    IN_PER_ROW = 24,   /* turning a block costs by n_in, what it saves by the number of rows */
    MAX_TURNED = 3072, /* n_in: 48 KiB of stack */
    STRIP = 128        /* rows between two turns of a block */
};

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

/* Group k of a turned block, 64 bytes: elements 4 k .. 4 k + 3 of the weight rows o .. o + 16, each + 128;
 * those beyond n_out are the last. n_in is a multiple of 4. */
static void turn(const gemm *g, size_t o, uint8_t *turned /* [n_in / 4, 64] */) {
    const size_t n_left = g->n_out - o, n_in = g->n_in;
    for (size_t i = 0; i < n_in; i += 64) {
        const size_t n = n_in - i < 64 ? n_in - i : 64;
        const __mmask64 in = ~(__mmask64)0 >> (64 - n);
        prefetch(g->w + o * n_in + i * 16, 64 * 16);
        __m512i x[16];
        for (size_t j = 0; j < 16; j++) {
            const int8_t *w = g->w + (o + (j < n_left ? j : n_left - 1)) * n_in + i;
            x[j] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(in, w), _mm512_set1_epi8(-128));
        }
        transpose(x);
        memcpy(turned + i * 16, x, n * 16);
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

/* Rows r .. r + n_rows of y, n_rows 1, 2, 4 or 8, outputs o .. o + 16 * n_blocks, n_blocks 1 or 2; a_sums:
 * the sums of these rows of a. No sum across a register is needed: a lane is an output. Where rows and blocks
 * are few, each of them has several sums, so that eight products are on their way. */
INLINE void turned_tile(int n_rows, int n_blocks, const gemm *g, const uint8_t *turned, const int32_t *a_sums,
                        size_t r, size_t o) {
    const int n_parts = n_rows * n_blocks < 8 ? 8 / (n_rows * n_blocks) : 1;
    const size_t n_in = g->n_in, n_groups = n_in / 4;
    sums_i32 sums[16] = {0};
    const int8_t *a = g->a + r * n_in;
    for (size_t k = 0; k < n_groups; k += (size_t)n_parts)
        for (int p = 0; p < n_parts; p++) {
            const size_t group = k + (size_t)p;
            if (p > 0 && group >= n_groups) break;
            __m512i w[2];
            for (int b = 0; b < n_blocks; b++) {
                const uint8_t *from = turned + (size_t)b * 16 * n_in + 64 * group;
#ifdef PFP
                if (n_rows <= 4) prefetch((const int8_t *)from, 64);
#endif
                w[b] = _mm512_loadu_si512(from);
            }
            for (int i = 0; i < n_rows; i++) {
                int32_t a_group;
                memcpy(&a_group, a + (size_t)i * n_in + 4 * group, sizeof a_group);
                for (int b = 0; b < n_blocks; b++) {
                    sums_i32 *sum = &sums[(i * n_blocks + b) * n_parts + p];
                    *sum = (sums_i32)_mm512_dpbusd_epi32((__m512i)*sum, w[b], _mm512_set1_epi32(a_group));
                }
            }
        }
    for (int b = 0; b < n_blocks; b++, o += 16) {
        const size_t n_left = g->n_out - o;
        const __mmask16 outs = (__mmask16)((1u << (n_left < 16 ? n_left : 16)) - 1);
        const __m512 w_scale = _mm512_maskz_loadu_ps(outs, g->w_scale + o);
        for (int i = 0; i < n_rows; i++) {
            const sums_i32 *part = sums + (i * n_blocks + b) * n_parts;
            __m512i sum = _mm512_set1_epi32((int32_t)(0 - ((uint32_t)a_sums[i] << 7)));
            for (int p = 0; p < n_parts; p++)
                sum = _mm512_add_epi32(sum, (__m512i)part[p]);
            const __m512 a_scale = _mm512_set1_ps(g->a_scale[r + (size_t)i]);
            const __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), a_scale), w_scale);
            _mm512_mask_storeu_ps(g->y + (r + (size_t)i) * g->y_stride + o, outs, y);
        }
    }
}

/* Rows from .. end of y, outputs o .. o + 16 * n_blocks. */
INLINE void turned_rows(int n_blocks, const gemm *g, const uint8_t *turned, const int32_t *a_sums,
                        size_t from, size_t end, size_t o) {
    const size_t eights = from + (end - from) / 8 * 8;
    for (int b = 0; b < n_blocks; b++)
        for (size_t r = from; r < eights; r += 8)
            turned_tile(8, 1, g, turned + (size_t)b * 16 * g->n_in, a_sums + (r - from), r,
                        o + 16 * (size_t)b);
    size_t r = eights;
    if (r + 4 <= end) {
        turned_tile(4, n_blocks, g, turned, a_sums + (r - from), r, o);
        r += 4;
    }
    if (r + 2 <= end) {
        turned_tile(2, n_blocks, g, turned, a_sums + (r - from), r, o);
        r += 2;
    }
    if (r < end) turned_tile(1, n_blocks, g, turned, a_sums + (r - from), r, o);
}

static void sum_rows(const gemm *g, size_t from, size_t end, int32_t *a_sums) {
    for (size_t r = from; r < end; r++)
        a_sums[r - from] = sum_of(g->a + r * g->n_in, g->n_in);
}

/* Rows from .. end, at most STRIP of them. */
static __attribute__((noinline)) void gemm_many_rows(const gemm *g, size_t from, size_t end) {
    _Alignas(64) uint8_t turned[MAX_TURNED * 16];
    int32_t a_sums[STRIP];
    sum_rows(g, from, end, a_sums);
    for (size_t o = 0; o < g->n_out; o += 16) {
        turn(g, o, turned);
        turned_rows(1, g, turned, a_sums, from, end, o);
    }
}

static size_t packed_size(size_t n_out, size_t n_in) {
    return n_in % 4 == 0 ? (n_out + 15) / 16 * 16 * n_in : 0;
}

static void pack_qc8w(const int8_t *w, size_t n_out, size_t n_in, uint8_t *packed) {
    const gemm g = {.w = w, .n_in = n_in, .n_out = n_out};
    for (size_t o = 0; o < n_out; o += 16)
        turn(&g, o, packed + o * n_in);
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
    for (size_t r = 0; r < n_rows; r += STRIP) {
        const size_t end = r + STRIP < n_rows ? r + STRIP : n_rows;
        sum_rows(&g, r, end, a_sums);
        size_t o = 0;
        for (; o + 16 < n_out; o += 32)
            turned_rows(2, &g, packed + o * n_in, a_sums, r, end, o);
        if (o < n_out) turned_rows(1, &g, packed + o * n_in, a_sums, r, end, o);
    }
}

/* Blocks of 16 weight rows stay in the L1 cache while all rows of a pass over them. */
static void gemm_qd8_qc8w_avx512_vnni(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                      const int8_t *w, const float *w_scale, const int32_t *w_sums,
                                      size_t n_out, float *y, size_t y_stride) {
    const gemm g = {a, a_scale, w, w_scale, w_sums, n_in, n_out, y_stride, y};
    if (n_rows >= MIN_ROWS && n_rows * IN_PER_ROW >= n_in && n_in % 4 == 0 && n_in <= MAX_TURNED) {
        for (size_t r = 0; r < n_rows; r += STRIP)
            gemm_many_rows(&g, r, r + STRIP < n_rows ? r + STRIP : n_rows);
        return;
    }
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

void es2s_kernels_init_avx512_vnni(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "avx512_vnni";
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_avx512_vnni;
    k->packed_size = packed_size;
    k->pack_qc8w = pack_qc8w;
    k->gemm_qd8_packed = gemm_qd8_packed_avx512_vnni;
}
