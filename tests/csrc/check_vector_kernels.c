/*
 * Norms, activations, softmax, argmax and other operations on vectors of the kernel table, for every ISA of
 * this CPU:
 *   - bit for bit the same as the scalar set (kernel_cases.h has the shapes and fills);
 *   - the scalar set against what kernels.h defines, computed here by independent plain loops in the defined
 *     order, or in double precision with a stated
 *     limit where exp or a division is involved.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernel_cases.h"
#include "kernels/float_ops.h" /* for exp_f32, which the table does not hold */

static void rms_norm_matches(void) {
    select_kernels();
    for (size_t l = 1; l < N_LENGTHS; l++)
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
    for (size_t l = 1; l < N_LENGTHS; l++)
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

/* matmul_f32 against the sums of kernels.h in order, with strides that leave gaps. */
static void matmul_matches(void) {
    static const size_t rows[] = {1, 3, 4, 5, 9}, inputs[] = {0, 1, 6, 64}, outputs[] = {1, 15, 16, 33, 64, 97};
    select_kernels();
    for (size_t i = 0; i < COUNT(rows) * COUNT(inputs) * COUNT(outputs); i++)
        for (fill f = 0; f < N_FILLS; f++) {
            const size_t n_rows = rows[i % COUNT(rows)], n_in = inputs[i / COUNT(rows) % COUNT(inputs)];
            const size_t n_out = outputs[i / COUNT(rows) / COUNT(inputs)], gap = i % 3;
            const size_t a_stride = n_in + gap, b_stride = n_out + 2 * gap, y_stride = n_out + 3 * gap;
            check_case("m=%zu n=%zu k=%zu fill=%s", n_rows, n_out, n_in, FILL_NAMES[f]);
            const size_t n_a = (n_rows - 1) * a_stride + n_in, n_b = n_in ? (n_in - 1) * b_stride + n_out : 0;
            const float *a = fill_float(n_a, f), *b = fill_float(n_b, UNIFORM);
            const size_t n_y = (n_rows - 1) * y_stride + n_out;
            float *y = check_alloc(n_y * sizeof *y), *expected = check_alloc(n_y * sizeof *y);
            memcpy(expected, y, n_y * sizeof *y);
            for (size_t r = 0; r < n_rows; r++)
                for (size_t o = 0; o < n_out; o++) {
                    float sum = 0;
                    for (size_t k = 0; k < n_in; k++) {
                        const float product = a[r * a_stride + k] * b[k * b_stride + o];
                        sum += product;
                    }
                    expected[r * y_stride + o] = sum;
                }
            kernels.matmul_f32(a, a_stride, n_rows, n_in, b, b_stride, n_out, y, y_stride);
            compare_float("y", y, expected, n_y);
        }
    if (check_wants_bench()) {
        check_case("bench");
        const float *q = fill_float(64 * 64, UNIFORM), *keys = fill_float(64 * 512, UNIFORM);
        float *scores = check_alloc(64 * 512 * sizeof *scores), *y = check_alloc(64 * 64 * sizeof *y);
        BENCH("matmul_f32 64 queries, 512 keys of 64", 4 * 64 * 512,
              k->matmul_f32(q, 64, 64, 64, keys, 512, 512, scores, 512));
        BENCH("matmul_f32 64 queries, 512 values of 64", 4 * 64 * 512,
              k->matmul_f32(scores, 512, 64, 512, keys, 64, 64, y, 64));
    }
}

static void add_and_multiply_match(void) {
    select_kernels();
    for (size_t l = 0; l < N_LENGTHS; l++)
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
    for (size_t l = first_length; l < N_LENGTHS; l++)
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
    for (size_t l = 1; l < N_LENGTHS; l++) {
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
    for (size_t l = 1; l < N_LENGTHS; l++)
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
            const float largest = kernels.max(x, n);
            compare_float("kernels.max", &largest, &max, 1);
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
        volatile float largest;
        BENCH("max n=256", 256 * 4, largest = k->max(x, 256));
        (void)largest;
    }
}

static void argmax_matches(void) {
    select_kernels();
    for (size_t l = 1; l < N_LENGTHS; l++)
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

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"rms_norm", rms_norm_matches, 1},
        {"layer_norm", layer_norm_matches, 1},
        {"matmul", matmul_matches, 1},
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
    };
    return check_main(argc, argv, tests, COUNT(tests));
}
