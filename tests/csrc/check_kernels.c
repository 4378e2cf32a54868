/*
 * Every operation of the kernel table, for every ISA of this CPU:
 *   - bit for bit the same as the scalar set, on shapes around each tile and on fills that overflow, cancel,
 *     underflow or carry NaN and infinity;
 *   - the scalar set against what kernels.h defines, computed here by independent plain loops in the defined
 * order, or in double precision with a stated limit where exp or a division is involved. A NaN equals any
 * NaN: its sign and payload are the one thing that kernels.h leaves open.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "kernels/float_ops.h" /* for exp_f32, which the table does not hold */

static es2s_kernels scalar, kernels; /* kernels: the ISA under test */

static void select_kernels(void) {
    if (es2s_kernels_select(&scalar, "scalar") != 0 || es2s_kernels_select(&kernels, check_isa()) != 0)
        check_fail("es2s_kernels_select");
    if (strcmp(kernels.isa, check_isa()) != 0) check_fail("selected %s", kernels.isa);
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* 0, 1, the float tile of 16 and the chunks of 128 and 512, each -1 and +1, primes, a real size. */
static const size_t LENGTHS[] = {0, 1, 7, 15, 16, 17, 31, 61, 127, 128, 129, 509, 511, 512, 513, 2048};

/* ---------------------------------------------- Fills --------------------------------------------- */

typedef enum fill {
    UNIFORM,
    POSITIVE_EXTREME, /* all 127; floats: all 1e4 */
    NEGATIVE_EXTREME,
    ALTERNATING,
    ZEROS,
    SPIKE,
    N_INT8_FILLS,
    DENORMALS = N_INT8_FILLS,
    HUGE_VALUES, /* up to the largest float */
    SPECIALS,    /* NaN, infinities and zeros of both signs among ordinary values */
    ALL_NAN,
    N_FILLS
} fill;

static const char *const FILL_NAMES[N_FILLS] = {"uniform", "extreme+",  "extreme-", "alternating", "zeros",
                                                "spike",   "denormals", "huge",     "specials",    "nan"};

static float random_float(float low, float high) {
    return low + (high - low) * ((float)(check_random() >> 8) / (float)(1 << 24));
}

static int8_t *fill_int8(size_t n, fill f) {
    int8_t *x = check_alloc(n);
    const size_t spike = n ? check_random() % n : 0;
    for (size_t i = 0; i < n; i++) {
        switch (f) {
        case POSITIVE_EXTREME:
            x[i] = 127;
            break;
        case NEGATIVE_EXTREME:
            x[i] = -127;
            break;
        case ALTERNATING:
            x[i] = i % 2 ? 127 : -127;
            break;
        case ZEROS:
            x[i] = 0;
            break;
        case SPIKE:
            x[i] = i == spike ? -127 : 0;
            break;
        default:
            x[i] = (int8_t)((int)(check_random() % 255) - 127);
        }
    }
    return x;
}

static float *fill_float(size_t n, fill f) {
    static const float SPECIAL[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f};
    float *x = check_alloc(n * sizeof *x);
    const size_t spike = n ? check_random() % n : 0;
    for (size_t i = 0; i < n; i++) {
        const float u = random_float(-1.0f, 1.0f);
        switch (f) {
        case POSITIVE_EXTREME:
            x[i] = 1e4f;
            break;
        case NEGATIVE_EXTREME:
            x[i] = -1e4f;
            break;
        case ALTERNATING:
            x[i] = i % 2 ? 1e4f : -1e4f;
            break;
        case ZEROS:
            x[i] = 0.0f;
            break;
        case SPIKE:
            x[i] = i == spike ? -1e4f : 0.0f;
            break;
        case DENORMALS:
            x[i] = u * 1e-38f;
            break;
        case HUGE_VALUES:
            x[i] = u * 3.4e38f;
            break;
        case SPECIALS:
            x[i] = check_random() % 4 ? 4.0f * u : SPECIAL[check_random() % COUNT(SPECIAL)];
            break;
        case ALL_NAN:
            x[i] = NAN;
            break;
        default:
            x[i] = 4.0f * u;
        }
    }
    return x;
}

static float *copy_float(const float *x, size_t n) {
    float *copy = check_alloc(n * sizeof *x);
    if (n) memcpy(copy, x, n * sizeof *x);
    return copy;
}

/* -------------------------------------------- Comparison ------------------------------------------ */

static int same_bits(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void compare_float(const char *what, const float *got, const float *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!same_bits(got[i], expected[i])) {
            check_fail("%s[%zu] = %a, expected %a", what, i, (double)got[i], (double)expected[i]);
            return;
        }
}

static void compare_int8(const char *what, const int8_t *got, const int8_t *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (got[i] != expected[i]) {
            check_fail("%s[%zu] = %d, expected %d", what, i, got[i], expected[i]);
            return;
        }
}

/* |got - expected| <= limit * |expected|, for finite expected values. */
static void compare_double(const char *what, double got, double expected, double limit) {
    if (!(fabs(got - expected) <= limit * fabs(expected)))
        check_fail("%s = %.9g, expected %.9g within %.3g of it", what, got, expected, limit);
}

/* The sum that kernels.h defines, element by element. */
static float defined_dot(const float *x, const float *y, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i % 16] += x[i] * y[i];
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

static const double EPS = 0x1p-24; /* half a unit in the last place, relative: one rounding */

/* -------------------------------------------- Benchmarks ------------------------------------------ */

/* Times a call of the ISA under test and of the scalar set; `k` names the table in the call. */
#define BENCH(label, bytes, call)                                                                            \
    do {                                                                                                     \
        double bench_ns[2];                                                                                  \
        for (int bench_i = 0; bench_i < 2; bench_i++) {                                                      \
            const es2s_kernels *k = bench_i ? &kernels : &scalar;                                            \
            CHECK_NS(&bench_ns[bench_i], call);                                                              \
        }                                                                                                    \
        print_bench(label, (double)(bytes), bench_ns[1], bench_ns[0]);                                       \
    } while (0)

static void print_bench(const char *label, double n_bytes, double ns, double scalar_ns) {
    printf("%-12s %-36s %10.0f ns %7.1f GB/s %6.1fx scalar\n", kernels.isa, label, ns, n_bytes / ns,
           scalar_ns / ns);
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

/* ----------------------------------------------- Int8 --------------------------------------------- */

static void quantize_qd8_matches(void) {
    select_kernels();
    for (size_t l = 0; l < COUNT(LENGTHS); l++)
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

static void check_gemm_qd8(const gemm_case *g) {
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
    for (size_t l = 0; l < COUNT(LENGTHS); l++)
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
    for (size_t l = 0; l < COUNT(LENGTHS); l++)
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

static void rms_norm_matches(void) {
    select_kernels();
    for (size_t l = 1; l < COUNT(LENGTHS); l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float *x = fill_float(n, f), *gamma = fill_float(n, UNIFORM);
            float *y = check_alloc(n * sizeof *y), *expected = check_alloc(n * sizeof *y),
                  *in_place = copy_float(x, n);
            scalar.rms_norm(x, gamma, 1e-6f, n, expected);
            kernels.rms_norm(x, gamma, 1e-6f, n, y);
            kernels.rms_norm(in_place, gamma, 1e-6f, n, in_place);
            compare_float("y", y, expected, n);
            compare_float("y in place", in_place, expected, n);
            if (f != UNIFORM && f != SPIKE) continue;
            double sum = 0.0;
            for (size_t i = 0; i < n; i++)
                sum += (double)x[i] * (double)x[i];
            /* n / 16 additions a lane, the tree, and 8 more operations */
            for (size_t i = 0; i < n; i++)
                compare_double("y", (double)y[i],
                               (double)x[i] / sqrt(sum / (double)n + (double)1e-6f) * (double)gamma[i],
                               ((double)n / 16 + 12) * EPS);
        }
    if (check_wants_bench()) {
        check_case("bench");
        const float *x = fill_float(512, UNIFORM), *gamma = fill_float(512, UNIFORM);
        float *y = check_alloc(512 * sizeof *y);
        BENCH("rms_norm n=512", 512 * 12, k->rms_norm(x, gamma, 1e-6f, 512, y));
    }
}

static void layer_norm_matches(void) {
    select_kernels();
    for (size_t l = 1; l < COUNT(LENGTHS); l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float eps = 1e-5f, *x = fill_float(n, f), *gamma = fill_float(n, UNIFORM),
                        *beta = fill_float(n, UNIFORM);
            float *y = check_alloc(n * sizeof *y), *centred = copy_float(x, n),
                  *ones = check_alloc(n * sizeof *ones);
            for (size_t i = 0; i < n; i++)
                ones[i] = 1.0f;
            kernels.layer_norm(x, gamma, beta, eps, n, y);
            const float mean = defined_dot(x, ones, n) / (float)n;
            for (size_t i = 0; i < n; i++)
                centred[i] = x[i] - mean;
            const float deviation = sqrtf(defined_dot(centred, centred, n) / (float)n + eps);
            for (size_t i = 0; i < n; i++)
                CHECK(same_bits(y[i], (centred[i] / deviation) * gamma[i] + beta[i]));
            float *in_place = copy_float(x, n);
            kernels.layer_norm(in_place, gamma, beta, eps, n, in_place);
            compare_float("in place", in_place, y, n);
        }
    if (check_wants_bench()) {
        check_case("bench");
        const float *x = fill_float(512, UNIFORM), *gamma = fill_float(512, UNIFORM);
        float *y = check_alloc(512 * sizeof *y);
        BENCH("layer_norm n=512", 512 * 12, k->layer_norm(x, gamma, gamma, 1e-5f, 512, y));
    }
}

static void add_and_multiply_match(void) {
    select_kernels();
    for (size_t l = 0; l < COUNT(LENGTHS); l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float *x = fill_float(n, f), *y = fill_float(n, UNIFORM);
            float *sum = copy_float(x, n), *product = copy_float(x, n);
            kernels.add(sum, y, n);
            kernels.multiply(product, y, n);
            for (size_t i = 0; i < n; i++) {
                CHECK(same_bits(sum[i], x[i] + y[i]));
                CHECK(same_bits(product[i], x[i] * y[i]));
            }
        }
}

/* The activations and softmax, which work in place: the same bits as scalar. */
static void check_in_place(size_t first_length, void (*op)(float *, size_t),
                           void (*defined)(float *, size_t)) {
    for (size_t l = first_length; l < COUNT(LENGTHS); l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float *x = fill_float(n, f);
            float *y = copy_float(x, n), *expected = copy_float(x, n);
            op(y, n);
            defined(expected, n);
            compare_float("y", y, expected, n);
        }
}

static void defined_relu(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (x[i] < 0.0f) x[i] = 0.0f;
}

static void relu_matches(void) {
    select_kernels();
    check_in_place(0, kernels.relu, defined_relu);
}

/* Distance from the exact value in units of the last place of a float of its size. */
static double ulp_error(float got, double exact) {
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1.0, exponent - 24);
}

static double silu_double(double x) {
    return x / (1.0 + exp(-x));
}

static double gelu_tanh_double(double x) {
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* The largest error over a dense sweep of [low, high]. */
static void check_ulp(void (*op)(float *, size_t), double (*exact)(double), float low, float high,
                      double limit) {
    enum { N = 1 << 12 };
    static float x[N], y[N];
    double worst = 0.0, worst_x = 0.0;
    check_case("[%g, %g]", (double)low, (double)high);
    for (int sweep = 0; sweep < 64; sweep++) {
        for (int i = 0; i < N; i++)
            x[i] = y[i] = random_float(low, high);
        op(y, N);
        for (int i = 0; i < N; i++) {
            const double error = ulp_error(y[i], exact((double)x[i]));
            if (error > worst) {
                worst = error;
                worst_x = (double)x[i];
            }
        }
    }
    if (!(worst <= limit)) check_fail("%.2f ulp at x = %a, limit %.2f", worst, worst_x, limit);
    if (check_wants_bench())
        printf("%-12s error in [%g, %g]: %.2f ulp\n", kernels.isa, (double)low, (double)high, worst);
}

static void bench_in_place(const char *label, size_t n, size_t table_offset) {
    if (!check_wants_bench()) return;
    check_case("bench");
    const float *x = fill_float(n, UNIFORM);
    float *y = check_alloc(n * sizeof *y);
    BENCH(label, n * 8, {
        void (*op)(float *, size_t);
        memcpy(&op, (const char *)k + table_offset, sizeof op);
        memcpy(y, x, n * sizeof *x);
        op(y, n);
    });
}

static void gelu_tanh_matches(void) {
    select_kernels();
    check_in_place(0, kernels.gelu_tanh, scalar.gelu_tanh);
    check_ulp(kernels.gelu_tanh, gelu_tanh_double, 0.0f, 10.0f, 2.0); /* exp, the sum and the division */
    /* besides, three roundings of an exponent of up to 11 are as many relative errors of exp */
    check_ulp(kernels.gelu_tanh, gelu_tanh_double, -4.0f, 0.0f, 25.0);
    bench_in_place("gelu_tanh n=2048", 2048, offsetof(es2s_kernels, gelu_tanh));
}

static double gelu_erf_double(double x) {
    return 0.5 * x * erfc(-x / sqrt(2.0));
}

static void gelu_erf_matches(void) {
    select_kernels();
    check_in_place(0, kernels.gelu_erf, scalar.gelu_erf);
    check_ulp(kernels.gelu_erf, gelu_erf_double, 0.0f, 10.0f, 7.0);
    /* besides, the roundings of a^2 / 2, which is up to 8 and up to 80, become relative errors of exp */
    check_ulp(kernels.gelu_erf, gelu_erf_double, -4.0f, 0.0f, 12.0);
    check_ulp(kernels.gelu_erf, gelu_erf_double, -12.5f, -4.0f, 80.0);
    check_case("%s", "zeros, denormals, huge values, infinities and NaN");
    float x[] = {0.0f,   -0.0f,   1e-45f,   -1e-45f,  1e-39f,    20.0f,
                 -20.0f, FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN};
    const float expected[] = {0, 0, 0, 0, 5e-40f, 20, 0, FLT_MAX, 0, INFINITY, 0, NAN};
    kernels.gelu_erf(x, COUNT(x));
    for (size_t i = 0; i < COUNT(x); i++)
        if (!(isnan(expected[i]) ? isnan(x[i])
                                 : x[i] == expected[i] || fabsf(x[i] - expected[i]) <= 1.5e-45f))
            check_fail("[%zu] = %g, expected %g", i, (double)x[i], (double)expected[i]);
    bench_in_place("gelu_erf n=2048", 2048, offsetof(es2s_kernels, gelu_erf));
}

static void silu_matches(void) {
    select_kernels();
    check_in_place(0, kernels.silu, scalar.silu);
    check_ulp(kernels.silu, silu_double, -80.0f, 80.0f, 2.5); /* exp, the sum and the division */
    bench_in_place("silu n=2048", 2048, offsetof(es2s_kernels, silu));
}

static void exp_is_within_its_limit(void) {
    double worst = 0.0;
    check_case("%s", "every 1021st float of [-87.3, 88.3]");
    for (uint32_t bits = 0; bits < 0x42B0999A; bits += 1021) /* 88.3 */
        for (int sign = 0; sign < 2; sign++) {
            const float x = sign ? -float_of(bits) : float_of(bits);
            if (x < -87.3f) continue;
            const double error = ulp_error(exp_f32(x), exp((double)x));
            if (error > worst) worst = error;
        }
    if (!(worst <= 1.0)) check_fail("%.3f ulp", worst);
    if (check_wants_bench()) printf("exp: %.3f ulp\n", worst);
    CHECK(exp_f32(0.0f) == 1.0f);
    CHECK(exp_f32(-0.0f) == 1.0f);
    CHECK(exp_f32(-INFINITY) == 0.0f && !signbit(exp_f32(-INFINITY)));
    CHECK(exp_f32(-88.0f) == 0.0f);
    CHECK(exp_f32(INFINITY) == INFINITY);
    CHECK(exp_f32(89.0f) == INFINITY);
    CHECK(isnan(exp_f32(NAN)));
}

static void softmax_matches(void) {
    select_kernels();
    check_in_place(1, kernels.softmax, scalar.softmax);
    for (size_t l = 1; l < COUNT(LENGTHS); l++) {
        const size_t n = LENGTHS[l];
        check_case("n=%zu fill=uniform, against double", n);
        const float *x = fill_float(n, UNIFORM);
        float *y = copy_float(x, n);
        kernels.softmax(y, n);
        double sum = 0.0;
        for (size_t i = 0; i < n; i++)
            sum += exp((double)x[i]);
        /* the sum's n / 16 + 4 additions, exp twice (1.5 ulp and, for |x - max| < 8, 8 roundings), one
         * division */
        for (size_t i = 0; i < n; i++)
            compare_double("y", (double)y[i], exp((double)x[i]) / sum,
                           ((double)n / 16 + 4 + 2 * 11 + 1) * EPS);
    }
    bench_in_place("softmax n=200", 200, offsetof(es2s_kernels, softmax));
}

static void log_softmax_terms_match(void) {
    select_kernels();
    for (size_t l = 1; l < COUNT(LENGTHS); l++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n = LENGTHS[l];
            check_case("n=%zu fill=%s", n, FILL_NAMES[f]);
            const float *x = fill_float(n, f);
            float max, sum, expected_max, expected_sum;
            kernels.log_softmax_terms(x, n, &max, &sum);
            scalar.log_softmax_terms(x, n, &expected_max, &expected_sum);
            compare_float("max", &max, &expected_max, 1);
            compare_float("sum", &sum, &expected_sum, 1);
            double defined_max = -INFINITY, defined_sum = 0.0;
            for (size_t i = 0; i < n; i++)
                if ((double)x[i] > defined_max) defined_max = (double)x[i]; /* NaN never is */
            for (size_t i = 0; i < n; i++)
                defined_sum += exp((double)x[i] - defined_max);
            CHECK((double)max == defined_max);
            if (isnan(defined_sum))
                CHECK(isnan(sum));
            else
                compare_double("sum", (double)sum, defined_sum, ((double)n / 16 + 4 + 11) * EPS);
        }
    if (check_wants_bench()) {
        check_case("bench");
        const float *x = fill_float(32128, UNIFORM);
        float max, sum;
        BENCH("log_softmax_terms n=32128", 32128 * 4, k->log_softmax_terms(x, 32128, &max, &sum));
    }
}

static void argmax_matches(void) {
    select_kernels();
    for (size_t l = 1; l < COUNT(LENGTHS); l++)
        for (fill f = 0; f < N_FILLS; f++)
            for (int ties = 0; ties < 2; ties++) {
                const size_t n = LENGTHS[l];
                check_case("n=%zu fill=%s ties=%d", n, FILL_NAMES[f], ties);
                float *x = fill_float(n, f);
                for (size_t i = 0; ties && i < n; i++)
                    x[i] = truncf(x[i]);
                size_t expected = n; /* none yet */
                for (size_t i = 0; i < n; i++)
                    if (!isnan(x[i]) && (expected == n || x[i] > x[expected])) expected = i;
                const size_t got = kernels.argmax(x, n);
                if (got != expected % n) check_fail("%zu, expected %zu", got, expected % n);
            }
    check_case("%s", "only -infinity, after a chunk of NaN");
    float *x = fill_float(600, ALL_NAN);
    x[555] = x[570] = -INFINITY;
    CHECK(kernels.argmax(x, 600) == 555);
    if (check_wants_bench()) {
        check_case("bench");
        const float *logits = fill_float(32128, UNIFORM);
        volatile size_t best;
        BENCH("argmax n=32128", 32128 * 4, best = k->argmax(logits, 32128));
        (void)best;
    }
}

static uint64_t hash_floats(uint64_t hash, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bits_of(x[i])) * 0x100000001B3; /* FNV-1a, a word at a time */
    return hash;
}

/* The other tests compare ISAs within one program. This one compares programs: whatever the compiler, its
 * options and the architecture, these results have these bits. */
static void float_results_are_the_same_on_every_machine(void) {
    enum { N = 4099 };
    static float x[N], y[N];
    float terms[2];
    uint64_t hash = 0xCBF29CE484222325;
    select_kernels();
    for (uint32_t i = 0; i < N; i++)
        x[i] = (float)(i * 2654435761u >> 8) / (float)(1 << 24) * 40.0f - 20.0f;
    void (*const in_place[])(float *, size_t) = {kernels.gelu_tanh, kernels.gelu_erf, kernels.silu,
                                                 kernels.softmax};
    for (size_t op = 0; op < COUNT(in_place); op++) {
        memcpy(y, x, sizeof x);
        in_place[op](y, N);
        hash = hash_floats(hash, y, N);
    }
    kernels.rms_norm(x, x, 1e-6f, N, y);
    hash = hash_floats(hash, y, N);
    kernels.layer_norm(x, x, x, 1e-5f, N, y);
    hash = hash_floats(hash, y, N);
    kernels.log_softmax_terms(x, N, &terms[0], &terms[1]);
    hash = hash_floats(hash, terms, 2);
    if (hash != 0x2D6F7048B3EA7514) check_fail("the bits hash to %#llx", (unsigned long long)hash);
}

/* ---------------------------------------------- Attention ----------------------------------------- */

static void attention_matches(void) {
    static const size_t D_HEADS[] = {1, 15, 16, 17, 31, 32, 33, 47, 48, 61, 64, 128},
                        N_KEYS[] = {0, 1, 2, 17, 61, 200};
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
        {"rms_norm", rms_norm_matches, 1},
        {"layer_norm", layer_norm_matches, 1},
        {"add_multiply", add_and_multiply_match, 1},
        {"relu", relu_matches, 1},
        {"gelu_tanh", gelu_tanh_matches, 1},
        {"gelu_erf", gelu_erf_matches, 1},
        {"silu", silu_matches, 1},
        {"exp", exp_is_within_its_limit, 0},
        {"softmax", softmax_matches, 1},
        {"log_softmax_terms", log_softmax_terms_match, 1},
        {"float_bits", float_results_are_the_same_on_every_machine, 1},
        {"argmax", argmax_matches, 1},
        {"attention", attention_matches, 1},
        {"select_fills_the_table", select_fills_the_whole_table, 1},
        {"select", select_takes_the_widest_or_what_is_asked, 0},
    };
    return check_main(argc, argv, tests, COUNT(tests));
}
