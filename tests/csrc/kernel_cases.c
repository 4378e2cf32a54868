#include "kernel_cases.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

es2s_kernels scalar, kernels;

void select_kernels(void) {
    if (es2s_kernels_select(&scalar, "scalar") != 0 || es2s_kernels_select(&kernels, check_isa()) != 0)
        check_fail("es2s_kernels_select");
    if (strcmp(kernels.isa, check_isa()) != 0) check_fail("selected %s", kernels.isa);
}

/* 0, 1, the float tile of 16 and the chunks of 128 and 512, each -1 and +1, primes, a real size. */
const size_t LENGTHS[N_LENGTHS] = {0, 1, 7, 15, 16, 17, 31, 61, 127, 128, 129, 509, 511, 512, 513, 2048};

/* ---------------------------------------------- Fills --------------------------------------------- */

const char *const FILL_NAMES[N_FILLS] = {"uniform", "extreme+",  "extreme-", "alternating", "zeros",
                                         "spike",   "denormals", "huge",     "specials",    "nan"};

float random_float(float low, float high) {
    return low + (high - low) * ((float)(check_random() >> 8) / (float)(1 << 24));
}

int8_t *fill_int8(size_t n, fill f) {
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

float *fill_float(size_t n, fill f) {
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

float *copy_float(const float *x, size_t n) {
    float *copy = check_alloc(n * sizeof *x);
    if (n) memcpy(copy, x, n * sizeof *x);
    return copy;
}

/* -------------------------------------------- Comparison ------------------------------------------ */

int same_bits(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

void compare_float(const char *what, const float *got, const float *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!same_bits(got[i], expected[i])) {
            check_fail("%s[%zu] = %a, expected %a", what, i, (double)got[i], (double)expected[i]);
            return;
        }
}

void compare_int8(const char *what, const int8_t *got, const int8_t *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (got[i] != expected[i]) {
            check_fail("%s[%zu] = %d, expected %d", what, i, got[i], expected[i]);
            return;
        }
}

void compare_double(const char *what, double got, double expected, double limit) {
    if (!(fabs(got - expected) <= limit * fabs(expected)))
        check_fail("%s = %.9g, expected %.9g within %.3g of it", what, got, expected, limit);
}

float defined_dot(const float *x, const float *y, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i % 16] += x[i] * y[i];
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

/* -------------------------------------------- Benchmarks ------------------------------------------ */

void print_bench(const char *label, double n_bytes, double ns, double scalar_ns) {
    printf("%-12s %-36s %10.0f ns %7.1f GB/s %6.1fx scalar\n", kernels.isa, label, ns, n_bytes / ns,
           scalar_ns / ns);
}
