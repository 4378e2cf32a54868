/*
 * Cases for checks of the kernel table: shapes around each tile, fills that overflow, cancel, underflow or
 * carry NaN and infinity, and comparisons. A NaN equals any NaN: its sign and payload are the one thing that
 * kernels.h leaves open.
 */
#ifndef ES2S_KERNEL_CASES_H
#define ES2S_KERNEL_CASES_H

#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "kernels/kernels.h"

extern es2s_kernels scalar, kernels; /* kernels: the ISA under test */

/* Call it first in a test. */
void select_kernels(void);

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { N_LENGTHS = 16 };
extern const size_t LENGTHS[N_LENGTHS];

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

extern const char *const FILL_NAMES[N_FILLS];

float random_float(float low, float high);
int8_t *fill_int8(size_t n, fill f);
float *fill_float(size_t n, fill f);
float *copy_float(const float *x, size_t n);

/* -------------------------------------------- Comparison ------------------------------------------ */

int same_bits(float a, float b);
void compare_float(const char *what, const float *got, const float *expected, size_t n);
void compare_int8(const char *what, const int8_t *got, const int8_t *expected, size_t n);

/* |got - expected| <= limit * |expected|, for finite expected values. */
void compare_double(const char *what, double got, double expected, double limit);

/* The sum that kernels.h defines, element by element. */
float defined_dot(const float *x, const float *y, size_t n);

#define EPS 0x1p-24 /* half a unit in the last place, relative: one rounding */

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

void print_bench(const char *label, double n_bytes, double ns, double scalar_ns);

#endif
