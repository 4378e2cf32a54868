/*
 * The float operations of the kernel table, written once.
 *
 * Each ISA file includes this file and is compiled with its own flags, so the compiler turns the same source
 * into SSE2, AVX2, AVX-512 or NEON code. The bits agree by construction, because
 *   - +, -, *, / and sqrt are correctly rounded everywhere, and -ffp-contract=off forbids fused operations;
 *   - nothing is reassociated: every sum has the 16 lanes and the tree that kernels.h defines;
 *   - min, max and clamps are comparisons whose answer to NaN is defined, never fmin or fmax.
 * Only the sign and the payload of a NaN are left open.
 *
 * Sums keep their lanes in GNU C vectors as wide as the ISA's registers: with an array of 16 floats, gcc
 * spills the lanes or takes them apart one by one (2 to 4 times slower in attention). Elementwise loops are
 * plain C; gcc 12 and clang 14 vectorise each of them at -O3.
 *
 * NaN and infinity are ordinary inputs: a float becomes an integer only after a clamp that NaN cannot pass.
 */
#ifndef ES2S_FLOAT_OPS_H
#define ES2S_FLOAT_OPS_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "float operations must be exactly these: no -ffast-math; on 32-bit x86 -msse2 -mfpmath=sse"
#endif

/* Adding and subtracting it rounds |x| < 2^22 to an integer, half to even. */
#define ROUND_TO_INT 12582912.0f /* 1.5 * 2^23 */

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* condition ? a : b without a branch. Compilers thread the jumps of two clamps in a row, and a loop with
 * branches is not vectorised. */
static inline float choose(int condition, float a, float b) {
    const uint32_t mask = -(uint32_t)condition;
    return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

/* ---------------------------------------------- Lanes --------------------------------------------- */

enum {
    LANES = 16,
#if defined(__AVX512F__)
    VEC = 16,
#elif defined(__AVX__)
    VEC = 8,
#else
    VEC = 4, /* SSE2, NEON */
#endif
    N_VECS = LANES / VEC,
    MATMUL_ROWS = 4, /* of a tile whose sums, with a row of b, fill the registers: 32 of them, or 16 */
#if defined(__AVX512F__) || defined(__aarch64__)
    MATMUL_VECS = 4,
#else
    MATMUL_VECS = 2,
#endif
#if defined(__AVX__) || defined(__aarch64__)
    VALUE_BLOCKS = 4 /* of LANES elements whose sums stay in registers: all of a usual head */
#else
    VALUE_BLOCKS = 2
#endif
};

typedef float vec __attribute__((vector_size(VEC * sizeof(float))));
typedef int32_t vec_mask __attribute__((vector_size(VEC * sizeof(int32_t))));
typedef float quad __attribute__((vector_size(16)));
typedef int32_t quad_mask __attribute__((vector_size(16)));

/* 16 running sums (or maxima), element i of the row going to lane i % 16. */
typedef struct lanes {
    vec v[N_VECS];
} lanes;

static inline vec load(const float *x /* [VEC] */) {
    vec v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* ------------------------------------------- Float16 ---------------------------------------------- */

/* binary16 has 5 bits of exponent and 10 of fraction, binary32 8 and 23. */
static inline uint16_t half_of(float x) {
    const uint32_t bits = bits_of(x);
    const float size = float_of(bits & 0x7FFFFFFF);
    const float kept = choose(size > 65504.0f, 65504.0f, size);
    const uint32_t is_small = -(uint32_t)(kept < 0x1p-14f), is_nan = -(uint32_t)(size != size);
    const uint32_t fraction = bits_of(kept + 0.5f) - bits_of(0.5f); /* of 2^-24: the addition rounds */
    const uint32_t normal = (bits_of(kept) - (112u << 23) + 0xFFF + (bits_of(kept) >> 13 & 1)) >> 13;
    const uint32_t half = (fraction & is_small) | (normal & ~is_small);
    return (uint16_t)((half & ~is_nan) | (0x7E00 & is_nan) | (bits >> 16 & 0x8000));
}

static inline float float_of_half(uint16_t x) {
    const uint32_t bits = (uint32_t)(x & 0x7FFF) << 13;
    const float size = choose(bits >= 0x7C00u << 13, float_of(bits | 0x7F800000), float_of(bits) * 0x1p112f);
    return float_of(bits_of(size) | (uint32_t)(x & 0x8000) << 16);
}

static inline void narrow_f16(const float *x, size_t n, uint16_t *y) {
    for (size_t i = 0; i < n; i++)
        y[i] = half_of(x[i]);
}

static inline vec load_f16(const uint16_t *x /* [VEC] */) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
#elif defined(__aarch64__)
    return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
#else
    vec v;
    for (int i = 0; i < VEC; i++)
        v[i] = float_of_half(x[i]);
    return v;
#endif
}

static inline void widen_f16(const uint16_t *x, size_t n, float *y) {
    size_t i = 0;
    for (; i + VEC <= n; i += VEC) {
        const vec v = load_f16(x + i);
        memcpy(y + i, &v, sizeof v);
    }
    for (; i < n; i++)
        y[i] = float_of_half(x[i]);
}

/* Keys and values are floats or float16; which of them is a constant, so that no loop asks. */
typedef enum element { F32, F16 } element;

static inline __attribute__((always_inline)) const void *element_at(element type, const void *x, size_t i) {
    return (const char *)x + i * (type == F16 ? sizeof(uint16_t) : sizeof(float));
}

static inline __attribute__((always_inline)) vec load_from(element type, const void *x, size_t i) {
    const void *at = element_at(type, x, i);
    return type == F16 ? load_f16(at) : load(at);
}

static inline __attribute__((always_inline)) float float_from(element type, const void *x, size_t i) {
    const void *at = element_at(type, x, i);
    return type == F16 ? float_of_half(*(const uint16_t *)at) : *(const float *)at;
}

/* -------------------------------------------- Sums ------------------------------------------------ */

/* The last n < LANES elements of a row, filled up with what leaves the lanes unchanged. */
static inline void load_tail(const float *x, size_t n, float filling, float *block /* [LANES] */) {
#ifdef __AVX512F__ /* a copy of so many bytes costs as much as the exponentials of a tail */
    const __mmask16 in = (__mmask16)((1u << n) - 1);
    _mm512_storeu_ps(block, _mm512_mask_loadu_ps(_mm512_set1_ps(filling), in, x));
#else
    for (size_t i = 0; i < LANES; i++)
        block[i] = filling;
    memcpy(block, x, n * sizeof *x);
#endif
}

static inline void store_tail(const float *block /* [LANES] */, size_t n, float *x) {
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << n) - 1), _mm512_loadu_ps(block));
#else
    memcpy(x, block, n * sizeof *x);
#endif
}

/* The fixed tree: lanes i and i+8, then i+4, i+2, i+1. */
static inline float sum_lanes(const lanes *s) {
    quad q[4];
    memcpy(q, s, sizeof q);
    const quad sum = (q[0] + q[2]) + (q[1] + q[3]);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* n is a multiple of LANES, but for the last call of a row. */
static inline void add_products(lanes *s, const float *x, const float *y, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < N_VECS; l++)
            s->v[l] += load(x + i + l * VEC) * load(y + i + l * VEC);
    if (i < n) {
        float x_tail[LANES], y_tail[LANES];
        load_tail(x + i, n - i, 0.0f, x_tail);
        load_tail(y + i, n - i, 0.0f, y_tail);
        for (int l = 0; l < N_VECS; l++)
            s->v[l] += load(x_tail + l * VEC) * load(y_tail + l * VEC);
    }
}

static inline float dot_f32(const float *x, const float *y, size_t n) {
    lanes s = {0};
    add_products(&s, x, y, n);
    return sum_lanes(&s);
}

static inline void dequantize_q8(const int8_t *q, float scale, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] = (float)q[i] * scale;
}

/* Converts a chunk at a time: compilers vectorise that loop well, and a conversion of 16 values poorly. */
static inline float dot_f32_q8(const float *x, const int8_t *w, size_t n) {
    enum { CHUNK = 8 * LANES };
    lanes s = {0};
    for (size_t i = 0; i < n; i += CHUNK) {
        const size_t m = n - i < CHUNK ? n - i : CHUNK;
        float w_chunk[CHUNK];
        dequantize_q8(w + i, 1.0f, m, w_chunk);
        add_products(&s, x + i, w_chunk, m);
    }
    return sum_lanes(&s);
}

static inline void max_into(lanes *m, const float *x /* [LANES] */) {
    for (int i = 0; i < N_VECS; i++) {
        const vec v = load(x + i * VEC);
        const vec_mask greater = v > m->v[i];
        m->v[i] = (vec)((greater & (vec_mask)v) | (~greater & (vec_mask)m->v[i]));
    }
}

/* The largest element; NaN never wins; -infinity if there is nothing else. */
static inline float max_f32(const float *x, size_t n) {
    float block[LANES];
    for (size_t l = 0; l < LANES; l++)
        block[l] = -INFINITY;
    lanes m;
    memcpy(&m, block, sizeof m);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        max_into(&m, x + i);
    if (i < n) {
        load_tail(x + i, n - i, -INFINITY, block);
        max_into(&m, block);
    }
    quad q[4];
    memcpy(q, &m, sizeof q);
    for (int l = 1; l < 4; l++) {
        const quad_mask greater = q[l] > q[0];
        q[0] = (quad)((greater & (quad_mask)q[l]) | (~greater & (quad_mask)q[0]));
    }
    float max = q[0][0];
    for (int l = 1; l < 4; l++)
        max = q[0][l] > max ? q[0][l] : max;
    return max;
}

/* The first chunk that holds the maximum, then the first element of it. */
static inline size_t argmax(const float *x, size_t n) {
    enum { CHUNK = 512 };
    float max = -INFINITY;
    size_t start = 0;
    for (size_t i = 0; i < n; i += CHUNK) {
        const float chunk_max = max_f32(x + i, n - i < CHUNK ? n - i : CHUNK);
        if (chunk_max > max) {
            max = chunk_max;
            start = i;
        }
    }
    for (size_t i = start; i < n; i++)
        if (x[i] == max) return i;
    return 0; /* all NaN */
}

/* ------------------------------------------- Elementwise ------------------------------------------ */

static inline void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static inline void multiply(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] *= y[i];
}

/* The maximum is taken over the bits of |x|, which order like the floats and put NaN above infinity: one NaN
 * makes the scale NaN, and with it the whole row of the product. q is 127 where x / scale is NaN, as minps
 * has it. */
static inline void quantize_qd8(const float *x, size_t n, int8_t *q, float *scale_out) {
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t magnitude = bits_of(x[i]) & 0x7FFFFFFF;
        max = magnitude > max ? magnitude : max;
    }
    const float scale = float_of(max) / 127.0f;
    *scale_out = scale;
    if (scale == 0.0f) {
        if (n > 0) memset(q, 0, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float r = x[i] / scale;
        r = choose(r < 127.0f, r, 127.0f);
        r = choose(r > -127.0f, r, -127.0f);
        q[i] = (int8_t)(int32_t)((r + ROUND_TO_INT) - ROUND_TO_INT);
    }
}

/* exp(x) = 2^k exp(r) with k = round(x / ln 2), so |r| <= ln(2) / 2.
 * r = x - k ln 2 takes ln 2 in two parts (Cody and Waite 1980); the first has 9 bits, so its product with k
 * is exact. exp(r) = 1 + r + r^2 P(r), P minimising the largest relative error (Remez), 2^-28 before
 * rounding. The clamp lets k run from -127 to 128, whose exponent fields are those of 0 and infinity: from
 * about -87.7 down the result is 0, from 88.4 up infinity. NaN passes through. Within 0.92 ulp. */
static inline float exp_f32(float x) {
    x = choose(x < -88.0f, -88.0f, x);
    x = choose(x > 89.0f, 89.0f, x);
    const float shifted = x * 1.44269504f + ROUND_TO_INT; /* k in the low bits */
    const float k = shifted - ROUND_TO_INT;
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 0.001381454f;
    p = p * r + 0.008368745f;
    p = p * r + 0.04166839f;
    p = p * r + 0.16666521f;
    p = p * r + 0.49999994f;
    p = (p * (r * r) + r) + 1.0f;
    return p * float_of((bits_of(shifted) + 127) << 23);
}

static inline void relu(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = choose(x[i] < 0.0f, 0.0f, x[i]); /* NaN stays */
}

/* Within 1.7 ulp for x >= 0. Below, the exponent's own rounding counts: 20 ulp near -4, where y is -7e-5. */
static inline void gelu_tanh(float *x, size_t n) {
    const float linear = -1.59576912f, cubic = -0.0713548163f; /* -2 sqrt(2 / pi), and 0.044715 times that */
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + exp_f32(x[i] * (linear + cubic * (x[i] * x[i]))));
}

/* gelu_erf(x) = max(x, 0) - a Q(a) with a = |x| and Q(a) = erfc(a / sqrt(2)) / 2, the upper tail of the
 * normal distribution: nothing cancels where 1 + erf(x / sqrt(2)) does. Q(a) = exp(-a^2 / 2) R(a), where R
 * falls smoothly from 1/2 like 1 / a: a polynomial in t = 1 / (1 + 0.26 a), minimising the largest relative
 * error on [0, 13.3], 2^-25.5 before rounding. Beyond, Q is 0. Within 6 ulp for x >= 0; below, the rounding
 * of a^2 counts as in gelu_tanh: 9 ulp down to -4, where y is -1e-4, and 67 at -12.5. */
static inline void gelu_erf(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float a = choose(x[i] < 0.0f, -x[i], x[i]);
        a = choose(a > 14.0f, 14.0f, a);
        const float t = 1.0f / (1.0f + 0.26f * a);
        float r = 0.030896161f;
        r = r * t - 0.15474054f;
        r = r * t + 0.25546727f;
        r = r * t - 0.15553664f;
        r = r * t + 0.16415294f;
        r = r * t + 0.049642283f;
        r = r * t + 0.10339139f;
        r = r * t + 0.10296492f;
        r = r * t + 0.10376219f;
        x[i] = choose(x[i] < 0.0f, 0.0f, x[i]) - a * (exp_f32(-0.5f * (a * a)) * (r * t));
    }
}

/* Within 2.1 ulp on [-80, 80]. */
static inline void silu(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + exp_f32(-x[i]));
}

/* ----------------------------------------------- Rows --------------------------------------------- */

static inline float sum_f32(const float *x, size_t n) {
    lanes s = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < N_VECS; l++)
            s.v[l] += load(x + i + l * VEC);
    if (i < n) {
        float tail[LANES];
        load_tail(x + i, n - i, 0.0f, tail);
        for (int l = 0; l < N_VECS; l++)
            s.v[l] += load(tail + l * VEC);
    }
    return sum_lanes(&s);
}

static inline void rms_norm(const float *x, const float *gamma, float eps, size_t n, float *y) {
    const float rms = sqrtf(dot_f32(x, x, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] / rms) * gamma[i];
}

static inline void layer_norm(const float *x, const float *gamma, const float *beta, float eps, size_t n,
                              float *y) {
    const float mean = sum_f32(x, n) / (float)n;
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] - mean;
    const float deviation = sqrtf(dot_f32(y, y, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (y[i] / deviation) * gamma[i] + beta[i];
}

/* e = exp(x - max); e may be x. */
static inline void add_exponentials(lanes *s, const float *x /* [LANES] */, float max, float *e) {
    for (size_t l = 0; l < LANES; l++)
        e[l] = exp_f32(x[l] - max);
    for (int i = 0; i < N_VECS; i++)
        s->v[i] += load(e + i * VEC);
}

static inline void log_softmax_terms(const float *x, size_t n, float *max_out, float *sum_out) {
    const float max = max_f32(x, n);
    lanes s = {0};
    float e[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        add_exponentials(&s, x + i, max, e);
    if (i < n) {
        float tail[LANES];
        load_tail(x + i, n - i, -INFINITY, tail);
        add_exponentials(&s, tail, max, e);
    }
    *max_out = max;
    *sum_out = sum_lanes(&s);
}

/* The same sum, its terms kept. */
static inline void softmax(float *x, size_t n) {
    const float max = max_f32(x, n);
    lanes s = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        add_exponentials(&s, x + i, max, x + i);
    if (i < n) {
        float tail[LANES];
        load_tail(x + i, n - i, -INFINITY, tail);
        add_exponentials(&s, tail, max, tail);
        store_tail(tail, n - i, x + i);
    }
    const float sum = sum_lanes(&s);
    for (i = 0; i < n; i++)
        x[i] /= sum;
}

/* -------------------------------------------- Attention ------------------------------------------- */

/* Asks for the n elements that lie AHEAD bytes behind x. The keys of a row, its values and the keys of the
 * next head lie one behind the other, in runs too short for what the CPU fetches by itself: T5-small's batch
 * of 32 took 1.31 s without this and 1.26 with it. Never faults (gemm.h). */
static inline __attribute__((always_inline)) void prefetch_ahead(element type, const void *x, size_t n) {
    enum { AHEAD = 4096, LINE = 64 };
    const size_t n_bytes = n * (type == F16 ? sizeof(uint16_t) : sizeof(float));
    for (size_t i = 0; i < n_bytes; i += LINE)
        __builtin_prefetch((const void *)((uintptr_t)x + i + AHEAD), 0, 3);
}

static inline size_t row_of(const int32_t *index, size_t j) {
    return index ? (size_t)index[j] : j;
}

/* q . key. As dot_f32, whatever the type. */
static inline __attribute__((always_inline)) float dot_key(element type, const float *q, const void *key,
                                                           size_t d_head) {
    if (type == F32) return dot_f32(q, key, d_head);
    lanes s = {0};
    size_t i = 0;
    for (; i + LANES <= d_head; i += LANES)
        for (int l = 0; l < N_VECS; l++)
            s.v[l] += load(q + i + l * VEC) * load_from(type, key, i + (size_t)(l * VEC));
    if (i < d_head) {
        float key_tail[LANES] = {0};
        for (size_t t = i; t < d_head; t++)
            key_tail[t - i] = float_from(type, key, t);
        float q_tail[LANES];
        load_tail(q + i, d_head - i, 0.0f, q_tail);
        add_products(&s, q_tail, key_tail, LANES);
    }
    return sum_lanes(&s);
}

static inline __attribute__((always_inline)) void scores_of(element type, const float *q, const void *k,
                                                            const int32_t *index, size_t n_keys,
                                                            size_t d_head, float *scores) {
    for (size_t j = 0; j < n_keys; j++) {
        const void *key = element_at(type, k, row_of(index, j) * d_head);
        prefetch_ahead(type, key, d_head);
        scores[j] = dot_key(type, q, key, d_head);
    }
}

static inline void attention_scores(const float *q, const float *k, const int32_t *index, size_t n_keys,
                                    size_t d_head, const float *bias, float *scores) {
    scores_of(F32, q, k, index, n_keys, d_head, scores);
    if (bias) add(scores, bias, n_keys);
}

static inline void attention_scores_f16(const float *q, const uint16_t *k, const int32_t *index,
                                        size_t n_keys, size_t d_head, const float *bias, float *scores) {
    scores_of(F16, q, k, index, n_keys, d_head, scores);
    if (bias) add(scores, bias, n_keys);
}

/* n_blocks * LANES elements of y. n_blocks is a constant, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void sum_values(element type, int n_blocks, const float *p,
                                                             const void *v, const int32_t *index,
                                                             size_t n_keys, size_t d_head, float *y) {
    vec s[VALUE_BLOCKS * N_VECS] = {0};
    for (size_t j = 0; j < n_keys; j++) {
        const void *value = element_at(type, v, row_of(index, j) * d_head);
        prefetch_ahead(type, value, (size_t)n_blocks * LANES);
        for (int i = 0; i < n_blocks * N_VECS; i++)
            s[i] += p[j] * load_from(type, value, (size_t)(i * VEC));
    }
    memcpy(y, s, (size_t)n_blocks * LANES * sizeof *y);
}

static inline __attribute__((always_inline)) void values_of(element type, const float *p, const void *v,
                                                            const int32_t *index, size_t n_keys,
                                                            size_t d_head, float *y) {
    size_t i = 0;
    for (; i + VALUE_BLOCKS * LANES <= d_head; i += VALUE_BLOCKS * LANES)
        sum_values(type, VALUE_BLOCKS, p, element_at(type, v, i), index, n_keys, d_head, y + i);
    for (; i + 2 * LANES <= d_head; i += 2 * LANES)
        sum_values(type, 2, p, element_at(type, v, i), index, n_keys, d_head, y + i);
    for (; i + LANES <= d_head; i += LANES)
        sum_values(type, 1, p, element_at(type, v, i), index, n_keys, d_head, y + i);
    for (; i < d_head; i++) {
        float s = 0.0f;
        for (size_t j = 0; j < n_keys; j++)
            s += p[j] * float_from(type, v, row_of(index, j) * d_head + i);
        y[i] = s;
    }
}

static inline void attention_values(const float *p, const float *v, const int32_t *index, size_t n_keys,
                                    size_t d_head, float *y) {
    values_of(F32, p, v, index, n_keys, d_head, y);
}

static inline void attention_values_f16(const float *p, const uint16_t *v, const int32_t *index,
                                        size_t n_keys, size_t d_head, float *y) {
    values_of(F16, p, v, index, n_keys, d_head, y);
}

/* A tile of n_rows rows and n_vecs * VEC columns of y, both constants, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void matmul_tile(int n_rows, int n_vecs, const float *a,
                                                              size_t a_stride, size_t n_in, const float *b,
                                                              size_t b_stride, float *y, size_t y_stride) {
    vec s[MATMUL_ROWS][MATMUL_VECS];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vecs; v++)
            s[r][v] = (vec){0};
    for (size_t i = 0; i < n_in; i++)
        for (int v = 0; v < n_vecs; v++) {
            const vec b_v = load(b + i * b_stride + v * VEC);
            for (int r = 0; r < n_rows; r++)
                s[r][v] += a[(size_t)r * a_stride + i] * b_v;
        }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vecs; v++)
            memcpy(y + (size_t)r * y_stride + v * VEC, &s[r][v], sizeof s[r][v]);
}

/* All rows of n_vecs * VEC columns. */
static inline __attribute__((always_inline)) void matmul_columns(int n_vecs, const float *a, size_t a_stride,
                                                                 size_t n_rows, size_t n_in, const float *b,
                                                                 size_t b_stride, float *y, size_t y_stride) {
    size_t r = 0;
    for (; r + MATMUL_ROWS <= n_rows; r += MATMUL_ROWS)
        matmul_tile(MATMUL_ROWS, n_vecs, a + r * a_stride, a_stride, n_in, b, b_stride, y + r * y_stride,
                    y_stride);
    for (; r < n_rows; r++)
        matmul_tile(1, n_vecs, a + r * a_stride, a_stride, n_in, b, b_stride, y + r * y_stride, y_stride);
}

static inline void matmul_f32(const float *a, size_t a_stride, size_t n_rows, size_t n_in, const float *b,
                              size_t b_stride, size_t n_out, float *y, size_t y_stride) {
    size_t o = 0;
    for (; o + MATMUL_VECS * VEC <= n_out; o += MATMUL_VECS * VEC)
        matmul_columns(MATMUL_VECS, a, a_stride, n_rows, n_in, b + o, b_stride, y + o, y_stride);
    for (; o + VEC <= n_out; o += VEC)
        matmul_columns(1, a, a_stride, n_rows, n_in, b + o, b_stride, y + o, y_stride);
    for (; o < n_out; o++)
        for (size_t r = 0; r < n_rows; r++) {
            float s = 0.0f;
            for (size_t i = 0; i < n_in; i++)
                s += a[r * a_stride + i] * b[i * b_stride + o];
            y[r * y_stride + o] = s;
        }
}

/* ---------------------------------------------- GEMM ---------------------------------------------- */

/* One weight row at a time for all rows of a: the weights come from memory once. */
static inline void gemm_f32(const float *a, size_t n_rows, size_t n_in, const float *w, size_t n_out,
                            float *y, size_t y_stride) {
    for (size_t o = 0; o < n_out; o++)
        for (size_t r = 0; r < n_rows; r++)
            y[r * y_stride + o] = dot_f32(a + r * n_in, w + o * n_in, n_in);
}

static inline void use_float_ops(es2s_kernels *k) {
    k->quantize_qd8 = quantize_qd8;
    k->gemm_f32 = gemm_f32;
    k->dot_f32_q8 = dot_f32_q8;
    k->dequantize_q8 = dequantize_q8;
    k->rms_norm = rms_norm;
    k->layer_norm = layer_norm;
    k->add = add;
    k->attention_scores = attention_scores;
    k->attention_scores_f16 = attention_scores_f16;
    k->softmax = softmax;
    k->attention_values = attention_values;
    k->attention_values_f16 = attention_values_f16;
    k->narrow_f16 = narrow_f16;
    k->widen_f16 = widen_f16;
    k->matmul_f32 = matmul_f32;
    k->relu = relu;
    k->gelu_tanh = gelu_tanh;
    k->gelu_erf = gelu_erf;
    k->silu = silu;
    k->multiply = multiply;
    k->log_softmax_terms = log_softmax_terms;
    k->max = max_f32;
    k->argmax = argmax;
}

#endif
