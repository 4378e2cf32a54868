/*
 * Matrix products, quantization, attention and the selection of the kernel table, for every ISA of this CPU:
 *   - bit for bit the same as the scalar set (kernel_cases.h has the shapes and fills);
 *   - the scalar set against what kernels.h defines, computed here by independent plain loops in the defined
 *     order.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernel_cases.h"

/* ----------------------------------------------- Int8 --------------------------------------------- */

static void quantize_qd8_matches(void) {
    select_kernels();
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float *x = fill_float(n, f);
            int8_t *q = check_alloc(n), *expected_q = check_alloc(n);
            float scale, expected_scale;
            scalar.quantize_qd8(x, n, expected_q, &expected_scale);
            kernels.quantize_qd8(x, n, q, &scale);
            compare_float("scale", &scale, &expected_scale, 1);
            compare_int8("q", q, expected_q, n);

            double max = 0.0; /* division of floats in double rounds to the same float: no double rounding */
            for (size_t i = 0; i < n; i++)
                max = isnan(x[i]) || isnan(max) ? NAN : fmax(max, fabs((double)x[i]));
            const float defined_scale = (float)(max / 127.0);
            compare_float("defined scale", &scale, &defined_scale, 1);
            if (defined_scale > 0.0f && defined_scale < INFINITY)
                for (size_t i = 0; i < n; i++) {
                    const double rounded = rint((double)(float)((double)x[i] / (double)defined_scale));
                    CHECK(q[i] == (int)fmax(-127.0, fmin(127.0, rounded)));
                }
            else
                for (size_t i = 0; i < n; i++)
                    CHECK(q[i] == (defined_scale == 0.0f || !isnan(x[i] / scale) ? 0 : 127));
        }
    if (check_wants_bench()) {
        check_case("bench");
        const float *x = fill_float(2048, UNIFORM);
        int8_t *q = check_alloc(2048);
        float scale;
        BENCH("quantize_qd8 n=512", 512 * 5, k->quantize_qd8(x, 512, q, &scale));
        BENCH("quantize_qd8 n=2048", 2048 * 5, k->quantize_qd8(x, 2048, q, &scale));
    }
}

static void quantize_qd8_rounds_half_to_even(void) {
    select_kernels();
    check_case("%s", "x = 127 and halves");
    const float x[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f, -127.0f};
    const int8_t expected[COUNT(x)] = {127, 0, 2, 2, 0, -2, -2, 126, -126, -127};
    int8_t q[COUNT(x)];
    float scale;
    kernels.quantize_qd8(x, COUNT(x), q, &scale);
    CHECK(scale == 1.0f);
    compare_int8("q", q, expected, COUNT(x));
}

static void row_sums_qc8w_matches(void) {
    static const size_t N_INS[] = {0, 1, 15, 16, 17, 61, 64, 509, 512};
    select_kernels();
    for (size_t l = 0; l < COUNT(N_INS); l++)
        for (fill f = 0; f < N_INT8_FILLS; f++) {
            const size_t n_out = 5, n_in = N_INS[l];
            check_case("n_out=%zu n_in=%zu fill=%s", n_out, n_in, FILL_NAMES[f]);
            const int8_t *w = fill_int8(n_out * n_in, f);
            int32_t *sums = check_alloc(n_out * sizeof *sums);
            kernels.row_sums_qc8w(w, n_out, n_in, sums);
            for (size_t o = 0; o < n_out; o++) {
                int64_t expected = 0;
                for (size_t i = 0; i < n_in; i++)
                    expected += w[o * n_in + i];
                CHECK(sums[o] == expected);
            }
        }
}

typedef struct gemm_case {
    size_t m, n, k, y_stride;
    const int8_t *a, *w;
    const float *a_scale, *w_scale;
    int32_t *w_sums;
} gemm_case;

static gemm_case make_gemm(size_t m, size_t n, size_t k, fill a_fill, fill w_fill) {
    gemm_case g = {.m = m, .n = n, .k = k, .y_stride = n + check_random() % 4};
    check_case("m=%zu n=%zu k=%zu y_stride=%zu fill=%s fill_w=%s", m, n, k, g.y_stride, FILL_NAMES[a_fill],
               FILL_NAMES[w_fill]);
    g.a = fill_int8(m * k, a_fill);
    g.w = fill_int8(n * k, w_fill);
    g.a_scale = fill_float(m, UNIFORM);
    g.w_scale = fill_float(n, UNIFORM);
    g.w_sums = check_alloc(n * sizeof *g.w_sums);
    scalar.row_sums_qc8w(g.w, n, k, g.w_sums);
    return g;
}

/* [m, y_stride] but for the end of the last row, so that the last write allowed is the last one possible. */
static size_t y_size(const gemm_case *g) {
    return g->m && g->n ? (g->m - 1) * g->y_stride + g->n : 0;
}

static float *run_gemm_qd8(const es2s_kernels *k, const gemm_case *g) {
    float *y = check_alloc(y_size(g) * sizeof *y);
    k->gemm_qd8_qc8w(g->a, g->a_scale, g->m, g->k, g->w, g->w_scale, g->w_sums, g->n, y, g->y_stride);
    return y;
}

/* Split as threads split it. */
static void check_gemm_qd8_packed(const gemm_case *g) {
    if (g->k % 4 != 0) return;
    const size_t n_bytes = (g->n + 31) / 32 * 32 * g->k, first = g->n / 2 / 32 * 32;
    CHECK(kernels.packed_size(g->n, g->k) == 0 || kernels.packed_size(g->n, g->k) == n_bytes);
    uint8_t *packed = check_alloc(n_bytes), *expected = check_alloc(n_bytes);
    kernels.pack_qc8w(g->w, g->n, g->k, packed);
    scalar.pack_qc8w(g->w, g->n, g->k, expected);
    CHECK(n_bytes == 0 || memcmp(packed, expected, n_bytes) == 0);
    float *y = check_alloc(y_size(g) * sizeof *y);
    if (first > 0)
        kernels.gemm_qd8_packed(g->a, g->a_scale, g->m, g->k, packed, g->w_scale, first, y, g->y_stride);
    kernels.gemm_qd8_packed(g->a, g->a_scale, g->m, g->k, packed + first * g->k, g->w_scale + first,
                            g->n - first, y + first, g->y_stride);
    compare_float("y of packed weights", y, run_gemm_qd8(&scalar, g), y_size(g));
}

static void check_gemm_qd8(const gemm_case *g) {
    check_gemm_qd8_packed(g);
    const float *y = run_gemm_qd8(&kernels, g);
    compare_float("y", y, run_gemm_qd8(&scalar, g), y_size(g)); /* the gaps between rows keep their filling */
    for (size_t r = 0; r < g->m; r++)
        for (size_t o = 0; o < g->n; o++) {
            int64_t sum = 0;
            for (size_t i = 0; i < g->k; i++)
                sum += g->a[r * g->k + i] * g->w[o * g->k + i];
            /* three roundings: the sum to float and two products */
            compare_double("y", (double)y[r * g->y_stride + o],
                           (double)sum * (double)g->a_scale[r] * (double)g->w_scale[o], 3.01 * EPS);
        }
}

/* Sum of the words of w: what reading the weights costs. */
static uint64_t read_all(const int8_t *w, size_t n) {
    typedef uint64_t words __attribute__((vector_size(16)));
    words sums[8] = {0};
    for (size_t i = 0; i + sizeof sums <= n; i += sizeof sums)
        for (size_t s = 0; s < COUNT(sums); s++) {
            words x;
            memcpy(&x, w + i + s * sizeof x, sizeof x);
            sums[s] += x;
        }
    uint64_t sum = 0;
    for (size_t s = 0; s < COUNT(sums); s++)
        sum += sums[s][0] + sums[s][1];
    return sum;
}

static void gemm_qd8_qc8w_matches(void) {
    static const size_t MS[] = {0, 1, 2, 3, 4, 5, 7, 16}, NS[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31};
    static const size_t KS[] = {0, 1, 31, 32, 33, 63, 64, 65, 127};
    select_kernels();
    for (size_t m = 0; m < COUNT(MS); m++)
        for (size_t n = 0; n < COUNT(NS); n++)
            for (size_t k = 0; k < COUNT(KS); k++) {
                const fill a_fill = check_random() % N_INT8_FILLS, w_fill = check_random() % N_INT8_FILLS;
                const gemm_case g = make_gemm(MS[m], NS[n], KS[k], a_fill, w_fill);
                check_gemm_qd8(&g);
            }
    for (fill a_fill = 0; a_fill < N_INT8_FILLS; a_fill++)
        for (fill w_fill = 0; w_fill < N_INT8_FILLS; w_fill++) {
            const gemm_case g = make_gemm(5, 19, 509, a_fill, w_fill);
            check_gemm_qd8(&g);
        }
    static const size_t MANY[] = {1, 2, 3, 6, 8, 12, 13, 39, 133}, WIDE_NS[] = {1, 15, 16, 33, 80},
                        WIDE_KS[] = {4, 60, 64, 68, 256, 516, 3072, 3076, 4100, 8228};
    for (size_t m = 0; m < COUNT(MANY); m++)
        for (size_t n = 0; n < COUNT(WIDE_NS); n++)
            for (size_t k = 0; k < COUNT(WIDE_KS); k++) {
                const fill a_fill = check_random() % N_INT8_FILLS, w_fill = check_random() % N_INT8_FILLS;
                const gemm_case g = make_gemm(MANY[m], WIDE_NS[n], WIDE_KS[k], a_fill, w_fill);
                check_gemm_qd8(&g);
            }
    for (fill w_fill = UNIFORM; w_fill <= NEGATIVE_EXTREME; w_fill++) { /* as far as int32 goes */
        const gemm_case g = make_gemm(3, 2, 131072, POSITIVE_EXTREME, w_fill);
        check_gemm_qd8(&g);
    }
    const gemm_case real = make_gemm(4, 768, 256, UNIFORM, UNIFORM);
    check_gemm_qd8(&real);

    if (!check_wants_bench()) return;
    static const size_t SHAPES[][2] = {{8192, 256}, {768, 256}, {2048, 512}, {32128, 512}};
    for (size_t s = 0; s < COUNT(SHAPES); s++) {
        const size_t n_bytes = SHAPES[s][0] * SHAPES[s][1];
        gemm_case g = make_gemm(16, SHAPES[s][0], SHAPES[s][1], UNIFORM, UNIFORM);
        float *y = check_alloc(y_size(&g) * sizeof *y);
        char label[64];
        volatile uint64_t sum;
        double ns;
        CHECK_NS(&ns, sum = read_all(g.w, n_bytes));
        (void)sum;
        printf("plain read   [%zu, %zu] %.0f ns %.1f GB/s\n", g.n, g.k, ns, (double)n_bytes / ns);
        static const size_t ROWS[] = {1, 2, 4, 16};
        for (size_t r = 0; r < COUNT(ROWS); r++) {
            snprintf(label, sizeof label, "gemm_qd8_qc8w [%zu, %zu] rows=%zu", g.n, g.k, ROWS[r]);
            BENCH(label, n_bytes,
                  k->gemm_qd8_qc8w(g.a, g.a_scale, ROWS[r], g.k, g.w, g.w_scale, g.w_sums, g.n, y, g.n));
            if (kernels.packed_size(g.n, g.k) == 0) continue;
            uint8_t *packed = check_alloc(kernels.packed_size(g.n, g.k));
            kernels.pack_qc8w(g.w, g.n, g.k, packed);
            snprintf(label, sizeof label, "gemm_qd8_packed [%zu, %zu] rows=%zu", g.n, g.k, ROWS[r]);
            BENCH(label, n_bytes,
                  k->gemm_qd8_packed(g.a, g.a_scale, ROWS[r], g.k, packed, g.w_scale, g.n, y, g.n));
        }
    }
}

/* What makes a row's logits independent of the other beams. */
static void gemm_qd8_qc8w_of_many_rows_equals_each_alone(void) {
    select_kernels();
    for (size_t m = 2; m <= 16; m++) {
        gemm_case g = make_gemm(m, 37, 96, UNIFORM, UNIFORM);
        const float *y = run_gemm_qd8(&kernels, &g);
        float alone[37];
        for (size_t r = 0; r < m; r++) {
            kernels.gemm_qd8_qc8w(g.a + r * g.k, g.a_scale + r, 1, g.k, g.w, g.w_scale, g.w_sums, g.n, alone,
                                  g.n);
            compare_float("row", y + r * g.y_stride, alone, g.n);
        }
    }
}

static void dequantize_q8_matches(void) {
    select_kernels();
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (fill f = 0; f < N_INT8_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const int8_t *q = fill_int8(n, f);
            float *y = check_alloc(n * sizeof *y);
            kernels.dequantize_q8(q, 0.37f, n, y);
            for (size_t i = 0; i < n; i++)
                CHECK(y[i] == (float)((double)q[i] * (double)0.37f));
        }
}

static void dot_f32_q8_matches(void) {
    select_kernels();
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float *x = fill_float(n, f);
            const int8_t *w = fill_int8(n, UNIFORM);
            float *w_float = check_alloc(n * sizeof *w_float);
            for (size_t i = 0; i < n; i++)
                w_float[i] = w[i];
            const float y = kernels.dot_f32_q8(x, w, n), expected = defined_dot(x, w_float, n);
            compare_float("y", &y, &expected, 1);
        }
    if (check_wants_bench()) {
        check_case("bench");
        const float *x = fill_float(512, UNIFORM);
        const int8_t *w = fill_int8(512, UNIFORM);
        volatile float y;
        BENCH("dot_f32_q8 n=512", 512 * 5, y = k->dot_f32_q8(x, w, 512));
        (void)y;
    }
}

/* ----------------------------------------------- Floats ------------------------------------------- */

static void gemm_f32_matches(void) {
    static const size_t MS[] = {0, 1, 2, 5}, NS[] = {0, 1, 3, 16}, KS[] = {0, 1, 15, 16, 17, 61, 128};
    select_kernels();
    for (size_t m = 0; m < COUNT(MS); m++)
        for (size_t n = 0; n < COUNT(NS); n++)
            for (size_t k = 0; k < COUNT(KS); k++)
                for (fill f = 0; f < N_FILLS; f++) {
                    const gemm_case g = {
                        .m = MS[m], .n = NS[n], .k = KS[k], .y_stride = NS[n] + check_random() % 4};
                    check_case("m=%zu n=%zu k=%zu y_stride=%zu fill=%s", g.m, g.n, g.k, g.y_stride,
                               FILL_NAMES[f]);
                    const float *a = fill_float(g.m * g.k, f), *w = fill_float(g.n * g.k, UNIFORM);
                    float *y = check_alloc(y_size(&g) * sizeof *y),
                          *expected = check_alloc(y_size(&g) * sizeof *y);
                    kernels.gemm_f32(a, g.m, g.k, w, g.n, y, g.y_stride);
                    for (size_t r = 0; r < g.m; r++)
                        for (size_t o = 0; o < g.n; o++)
                            expected[r * g.y_stride + o] = defined_dot(a + r * g.k, w + o * g.k, g.k);
                    compare_float("y", y, expected, y_size(&g));
                }
    if (check_wants_bench()) {
        check_case("bench");
        const float *a = fill_float(512, UNIFORM), *w = fill_float(2048 * 512, UNIFORM);
        float *y = check_alloc(2048 * sizeof *y);
        BENCH("gemm_f32 [2048, 512] rows=1", 2048 * 512 * 4, k->gemm_f32(a, 1, 512, w, 2048, y, 2048));
    }
}

/* ---------------------------------------------- Attention ----------------------------------------- */

static void attention_matches(void) {
    static const size_t D_HEADS[] = {1, 15, 16, 17, 31, 32, 33, 47, 48, 61, 64, 80, 112, 128},
                        N_KEYS[] = {0, 1, 2, 16, 17, 22, 61, 200};
    select_kernels();
    for (size_t d = 0; d < COUNT(D_HEADS); d++)
        for (size_t j = 0; j < COUNT(N_KEYS); j++)
            for (fill f = 0; f < N_FILLS; f++)
                for (int indexed = 0; indexed < 2; indexed++) {
                    const size_t d_head = D_HEADS[d], n_keys = N_KEYS[j];
                    check_case("d_head=%zu n_keys=%zu indexed=%d fill=%s", d_head, n_keys, indexed,
                               FILL_NAMES[f]);
                    const float *q = fill_float(d_head, UNIFORM), *kv = fill_float(n_keys * d_head, f);
                    const float *bias = check_random() % 2 ? fill_float(n_keys, UNIFORM) : NULL;
                    int32_t *index = indexed ? check_alloc(n_keys * sizeof *index) : NULL;
                    for (size_t i = 0; indexed && i < n_keys; i++)
                        index[i] = (int32_t)(check_random() % n_keys);

                    float *scores = check_alloc(n_keys * sizeof *scores);
                    kernels.attention_scores(q, kv, index, n_keys, d_head, bias, scores);
                    for (size_t i = 0; i < n_keys; i++) {
                        const float *key = kv + (indexed ? (size_t)index[i] : i) * d_head;
                        const float dot = defined_dot(q, key, d_head);
                        CHECK(same_bits(scores[i], bias ? dot + bias[i] : dot));
                    }

                    const float *p = fill_float(n_keys, UNIFORM);
                    float *y = check_alloc(d_head * sizeof *y), *expected = check_alloc(d_head * sizeof *y);
                    kernels.attention_values(p, kv, index, n_keys, d_head, y);
                    for (size_t i = 0; i < d_head; i++) {
                        expected[i] = 0.0f;
                        for (size_t t = 0; t < n_keys; t++)
                            expected[i] += p[t] * kv[(indexed ? (size_t)index[t] : t) * d_head + i];
                    }
                    compare_float("y", y, expected, d_head);
                }
    if (check_wants_bench()) {
        check_case("bench");
        const float *q = fill_float(64, UNIFORM), *kv = fill_float(200 * 64, UNIFORM),
                    *p = fill_float(200, UNIFORM);
        float *scores = check_alloc(200 * sizeof *scores), *y = check_alloc(64 * sizeof *y);
        BENCH("attention_scores 200 x 64", 200 * 64 * 4,
              k->attention_scores(q, kv, NULL, 200, 64, NULL, scores));
        BENCH("attention_values 200 x 64", 200 * 64 * 4, k->attention_values(p, kv, NULL, 200, 64, y));
    }
}

/* ---------------------------------------------- Float16 ------------------------------------------- */

/* What 1 sign, 5 exponent and 10 fraction bits mean (IEEE 754, 3.4). */
static double defined_half(unsigned bits) {
    const int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
    double size = ldexp(exponent ? 1024 + fraction : fraction, (exponent ? exponent : 1) - 25);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    return bits >> 15 ? -size : size;
}

static void widen_f16_gives_the_value_of_every_float16(void) {
    select_kernels();
    for (size_t n = 65536; n > 65536 - 20; n--) { /* ends of every length behind a register */
        check_case("n=%zu", n);
        uint16_t *x = check_alloc(n * sizeof *x);
        for (unsigned i = 0; i < n; i++)
            x[i] = (uint16_t)i;
        float *y = check_alloc(n * sizeof *y);
        kernels.widen_f16(x, n, y);
        for (unsigned i = 0; i < n; i++)
            CHECK(same_bits(y[i], (float)defined_half(i)));
    }
}

/* To the nearest, of two the one whose last bit is 0. */
static uint16_t defined_nearest(float x) {
    const unsigned sign = signbit(x) ? 0x8000 : 0;
    const double size = fabs((double)x);
    if (isnan(x)) return 0x7E00;
    unsigned low = 0, high = 0x7BFF; /* the largest float16 not above size */
    while (low < high) {
        const unsigned middle = (low + high + 1) / 2;
        if (defined_half(middle) <= size)
            low = middle;
        else
            high = middle - 1;
    }
    if (low < 0x7BFF) {
        const double below = size - defined_half(low), above = defined_half(low + 1) - size;
        if (above < below || (above == below && low % 2 == 1)) low++;
    }
    return (uint16_t)(sign | low);
}

static void check_narrow(const float *x, size_t n) {
    uint16_t *y = check_alloc(n * sizeof *y);
    kernels.narrow_f16(x, n, y);
    for (size_t i = 0; i < n; i++)
        CHECK(isnan(x[i]) ? (y[i] & 0x7FFF) == 0x7E00 : y[i] == defined_nearest(x[i]));
}

static void narrow_f16_rounds_to_the_nearest(void) {
    select_kernels();
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (fill f = 0; f < N_FILLS; f++) {
            check_case("n=%zu fill=%s", LENGTHS[l], FILL_NAMES[f]);
            check_narrow(fill_float(LENGTHS[l], f), LENGTHS[l]);
        }
    /* Each float16, what lies half-way to the next one, and the floats beside both. */
    for (unsigned bits = 0; bits < 0x7C00; bits++) {
        check_case("bits=%x", bits);
        const float value = (float)defined_half(bits), next = (float)defined_half(bits + 1);
        const float middle = isinf(next) ? 65520.0f : value / 2 + next / 2;
        float x[12] = {value,  nextafterf(value, INFINITY),  nextafterf(value, -INFINITY),
                       middle, nextafterf(middle, INFINITY), nextafterf(middle, -INFINITY)};
        for (size_t i = 0; i < 6; i++)
            x[6 + i] = -x[i];
        check_narrow(x, COUNT(x));
    }
}

static void attention_f16_equals_that_of_the_widened(void) {
    static const size_t D_HEADS[] = {1, 15, 16, 17, 31, 32, 33, 48, 61, 64, 80, 128},
                        N_KEYS[] = {0, 1, 2, 16, 17, 22, 61, 200};
    select_kernels();
    for (size_t d = 0; d < COUNT(D_HEADS); d++)
        for (size_t j = 0; j < COUNT(N_KEYS); j++)
            for (fill f = 0; f < N_FILLS; f++) {
                const size_t d_head = D_HEADS[d], n_keys = N_KEYS[j], n = n_keys * d_head;
                check_case("d_head=%zu n_keys=%zu fill=%s", d_head, n_keys, FILL_NAMES[f]);
                uint16_t *kv = check_alloc(n * sizeof *kv);
                float *wide = check_alloc(n * sizeof *wide);
                scalar.narrow_f16(fill_float(n, f), n, kv);
                scalar.widen_f16(kv, n, wide);
                const float *q = fill_float(d_head, UNIFORM), *p = fill_float(n_keys, UNIFORM);

                float *scores = check_alloc(n_keys * sizeof *scores),
                      *expected_scores = check_alloc(n_keys * sizeof *scores);
                const float *bias = check_random() % 2 ? fill_float(n_keys, UNIFORM) : NULL;
                int32_t *index = check_random() % 2 ? check_alloc(n_keys * sizeof *index) : NULL;
                for (size_t i = 0; index && i < n_keys; i++)
                    index[i] = (int32_t)(check_random() % n_keys);
                kernels.attention_scores_f16(q, kv, index, n_keys, d_head, bias, scores);
                scalar.attention_scores(q, wide, index, n_keys, d_head, bias, expected_scores);
                compare_float("scores", scores, expected_scores, n_keys);

                float *y = check_alloc(d_head * sizeof *y), *expected = check_alloc(d_head * sizeof *y);
                kernels.attention_values_f16(p, kv, index, n_keys, d_head, y);
                scalar.attention_values(p, wide, index, n_keys, d_head, expected);
                compare_float("y", y, expected, d_head);
            }
    if (check_wants_bench()) {
        check_case("bench");
        const float *q = fill_float(64, UNIFORM), *p = fill_float(200, UNIFORM),
                    *x = fill_float(200 * 64, UNIFORM);
        uint16_t *kv = check_alloc(200 * 64 * sizeof *kv);
        float *scores = check_alloc(200 * sizeof *scores), *y = check_alloc(64 * sizeof *y);
        BENCH("narrow_f16 n=12800", 200 * 64 * 6, k->narrow_f16(x, 200 * 64, kv));
        BENCH("attention_scores_f16 200 x 64", 200 * 64 * 2,
              k->attention_scores_f16(q, kv, NULL, 200, 64, NULL, scores));
        BENCH("attention_values_f16 200 x 64", 200 * 64 * 2,
              k->attention_values_f16(p, kv, NULL, 200, 64, y));
    }
}

/* --------------------------------------------- Selection ------------------------------------------ */

static void select_fills_the_whole_table(void) {
    select_kernels();
    es2s_kernels k;
    memset(&k, 0, sizeof k);
    CHECK(es2s_kernels_select(&k, check_isa()) == 0);
    void (*members[sizeof k / sizeof(void (*)(void))])(void);
    memcpy(members, &k, sizeof k);
    for (size_t i = 0; i < COUNT(members); i++)
        CHECK(members[i] != NULL);
}

static void select_takes_the_widest_or_what_is_asked(void) {
    es2s_kernels k = {.isa = "untouched"};
    CHECK(es2s_kernels_select(&k, "sse9") == -1);
    CHECK(es2s_kernels_select(&k, "") == -1);
    CHECK(es2s_kernels_select(&k, "scalar avx2") == -1);
    CHECK(strcmp(k.isa, "untouched") == 0);
    CHECK(es2s_kernels_select(&k, NULL) == 0);
    const char *supported = es2s_kernels_supported(), *last = strrchr(supported, ' ');
    CHECK(strcmp(k.isa, last ? last + 1 : supported) == 0);
    CHECK(strncmp(supported, "scalar", 6) == 0);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"quantize_qd8", quantize_qd8_matches, 1},
        {"quantize_qd8_rounds_half_to_even", quantize_qd8_rounds_half_to_even, 1},
        {"row_sums_qc8w", row_sums_qc8w_matches, 1},
        {"gemm_qd8_qc8w", gemm_qd8_qc8w_matches, 1},
        {"gemm_qd8_qc8w_rows_alone", gemm_qd8_qc8w_of_many_rows_equals_each_alone, 1},
        {"dequantize_q8", dequantize_q8_matches, 1},
        {"dot_f32_q8", dot_f32_q8_matches, 1},
        {"gemm_f32", gemm_f32_matches, 1},
        {"attention", attention_matches, 1},
        {"widen_f16", widen_f16_gives_the_value_of_every_float16, 1},
        {"narrow_f16", narrow_f16_rounds_to_the_nearest, 1},
        {"attention_f16", attention_f16_equals_that_of_the_widened, 1},
        {"select_fills_the_table", select_fills_the_whole_table, 1},
        {"select", select_takes_the_widest_or_what_is_asked, 0},
    };
    return check_main(argc, argv, tests, COUNT(tests));
}
