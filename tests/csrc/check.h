/*
 * A small test harness for the C core.
 *
 *     static void parses_an_empty_table(void) {
 *         CHECK(parse(...) == ES2S_OK);
 *     }
 *
 *     int main(int argc, char **argv) {
 *         static const check_test tests[] = {{"parses_an_empty_table", parses_an_empty_table, 0}};
 *         return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
 *     }
 *
 * A failure is one line with the test, the ISA, the case and the seed; the same --test, --isa and --seed
 * repeat it:
 *
 *     gemm_qd8_qc8w avx2: FAILED m=3 n=17 k=65 fill=spike seed=91: y[40] = 0x1.8p+3, expected 0x1p+3
 *
 * Options: --list  --test=NAME  --isa=NAME  --seed=N  --bench
 */
#ifndef ES2S_CHECK_H
#define ES2S_CHECK_H

#include <stddef.h>
#include <stdint.h>

typedef struct check_test {
    const char *name;
    void (*run)(void);
    int every_isa; /* non-zero: run once for each kernel set of this CPU, named by check_isa() */
} check_test;

/* Runs the tests that the options select. Returns the exit status of the program. */
int check_main(int argc, char **argv, const check_test *tests, size_t n_tests);

#define CHECK(condition) ((condition) ? (void)0 : check_fail("%s:%d: %s", __FILE__, __LINE__, #condition))

/* Records a failure of the case at hand; the test goes on. */
void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Starts a case: describes it for failure lines (crashes included) and frees the buffers of the case before.
 */
void check_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Size bytes of the case at hand, filled with 0xA5, that end right before an unreadable page: a read or write
 * past the end crashes in its case. Before them lies a band that check_case finds changed if anything wrote
 * there. */
void *check_alloc(size_t size);

/* Uniform over all 32-bit values; each test starts from the seed. */
uint32_t check_random(void);

/* The kernel set a test with every_isa runs for. */
const char *check_isa(void);

/* Whether --bench was given. */
int check_wants_bench(void);

/* Median nanoseconds of one execution of a statement. */
#define CHECK_NS(ns_out, statement)                                                                          \
    do {                                                                                                     \
        check_timer timer = check_timer_start();                                                             \
        while (check_timer_next(&timer)) {                                                                   \
            for (long call = 0; call < timer.n_calls; call++) {                                              \
                statement;                                                                                   \
            }                                                                                                \
        }                                                                                                    \
        *(ns_out) = check_timer_ns(&timer);                                                                  \
    } while (0)

typedef struct check_timer {
    long n_calls; /* in each sample */
    int n_samples;
    double started, ns[15];
} check_timer;

check_timer check_timer_start(void);
int check_timer_next(check_timer *t);
double check_timer_ns(check_timer *t);

#endif
