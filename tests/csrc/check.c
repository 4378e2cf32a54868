/* See check.h. POSIX: mmap for the unreadable page, sigaction to name the case that crashed. */
#define _DEFAULT_SOURCE
#include "check.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h"

enum { BAND = 256, FILLING = 0xA5, MAX_BUFFERS = 16, MAX_FAILURE_LINES = 10 };

static struct {
    const char *test, *isa;
    char description[256]; /* of the case */
    unsigned long seed;
    uint64_t random;
    int n_failures, bench;
    struct {
        unsigned char *pages, *band;
        size_t size;
    } buffers[MAX_BUFFERS];
    int n_buffers;
} check;

const char *check_isa(void) {
    return check.isa;
}

int check_wants_bench(void) {
    return check.bench;
}

/* splitmix64 (Steele, Lea and Flood 2014) */
uint32_t check_random(void) {
    uint64_t z = check.random += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return (uint32_t)(z >> 32);
}

static void print_case(const char *verdict) {
    printf("%s%s%s: %s %s seed=%lu", check.test, check.isa ? " " : "", check.isa ? check.isa : "", verdict,
           check.description, check.seed);
}

void check_fail(const char *format, ...) {
    if (++check.n_failures > MAX_FAILURE_LINES) return;
    print_case("FAILED");
    printf(": ");
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

/* stdio is not safe in a signal handler; but the program ends here, and a line that says where is worth the
 * risk. */
static void crash(int signal_number) {
    print_case("CRASHED");
    printf(": signal %d, perhaps an access past the end of a buffer\n", signal_number);
    fflush(stdout);
    _exit(1);
}

static void free_buffers(void) {
    for (int i = 0; i < check.n_buffers; i++) {
        for (int b = 0; b < BAND; b++)
            if (check.buffers[i].band[b] != FILLING) {
                check_fail("byte %d before buffer %d was written", BAND - b, i);
                break;
            }
        munmap(check.buffers[i].pages, check.buffers[i].size);
    }
    check.n_buffers = 0;
}

void check_case(const char *format, ...) {
    free_buffers();
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(check.description, sizeof check.description, format, arguments);
    va_end(arguments);
}

void *check_alloc(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t readable = (size + BAND + page - 1) / page * page;
    unsigned char *pages =
        mmap(NULL, readable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + readable, page, PROT_NONE) != 0 ||
        check.n_buffers == MAX_BUFFERS) {
        printf("check_alloc(%zu): out of memory or buffers\n", size);
        exit(2);
    }
    unsigned char *data = pages + readable - size;
    memset(data - BAND, FILLING, size + BAND);
    check.buffers[check.n_buffers].pages = pages;
    check.buffers[check.n_buffers].size = readable + page;
    check.buffers[check.n_buffers++].band = data - BAND;
    return data;
}

static int run_test(const check_test *test, const char *isa) {
    const int n_failures = check.n_failures;
    check.test = test->name;
    check.isa = isa;
    check.random = check.seed;
    check.n_failures = 0;
    check_case("%s", "");
    test->run();
    free_buffers();
    if (check.n_failures > MAX_FAILURE_LINES)
        printf("%s: %d more failures\n", test->name, check.n_failures - MAX_FAILURE_LINES);
    if (!check.bench)
        printf("%-40s %-12s %s\n", test->name, isa ? isa : "", check.n_failures ? "FAILED" : "ok");
    fflush(stdout);
    const int failed = check.n_failures > 0;
    check.n_failures = n_failures;
    return failed;
}

static const char *option_value(const char *argument, const char *option) {
    const size_t length = strlen(option);
    return strncmp(argument, option, length) == 0 ? argument + length : NULL;
}

int check_main(int argc, char **argv, const check_test *tests, size_t n_tests) {
    const char *only_test = NULL, *only_isa = NULL, *value;
    check.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0) {
            for (size_t t = 0; t < n_tests; t++)
                printf("%s\n", tests[t].name);
            return 0;
        } else if ((value = option_value(argv[i], "--test="))) {
            only_test = value;
        } else if ((value = option_value(argv[i], "--isa="))) {
            only_isa = value;
        } else if ((value = option_value(argv[i], "--seed="))) {
            check.seed = strtoul(value, NULL, 10);
        } else if (strcmp(argv[i], "--bench") == 0) {
            check.bench = 1;
        } else {
            printf("unknown option %s; there are --list --test=NAME --isa=NAME --seed=N --bench\n", argv[i]);
            return 2;
        }
    }
    const struct sigaction action = {.sa_handler = crash};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGILL, &action, NULL);

    int n_run = 0, n_failed = 0;
    for (size_t t = 0; t < n_tests; t++) {
        if (only_test && strcmp(only_test, tests[t].name) != 0) continue;
        if (!tests[t].every_isa) {
            n_failed += run_test(&tests[t], NULL);
            n_run++;
            continue;
        }
        for (const char *name = es2s_kernels_supported(); *name; name += strspn(name, " ")) {
            char isa[32];
            const size_t length = strcspn(name, " ");
            snprintf(isa, sizeof isa, "%.*s", (int)length, name);
            name += length;
            if (only_isa && strcmp(only_isa, isa) != 0) continue;
            n_failed += run_test(&tests[t], isa);
            n_run++;
        }
    }
    if (n_run == 0) printf("nothing matches these options\n");
    return n_run == 0 || n_failed > 0;
}

/* --------------------------------------------- Timing --------------------------------------------- */

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

check_timer check_timer_start(void) {
    return (check_timer){.n_calls = 1, .n_samples = -1};
}

/* Doubles n_calls until a sample lasts 1 ms, then takes 15 samples. */
int check_timer_next(check_timer *t) {
    const double elapsed = now_ns() - t->started;
    if (t->n_samples == -1) {
        t->n_samples = 0; /* nothing has run yet */
    } else if (t->n_samples == 0 && elapsed < 1e6) {
        t->n_calls *= 2;
    } else {
        t->ns[t->n_samples++] = elapsed / (double)t->n_calls;
    }
    t->started = now_ns();
    return t->n_samples < (int)(sizeof t->ns / sizeof *t->ns);
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double check_timer_ns(check_timer *t) {
    qsort(t->ns, (size_t)t->n_samples, sizeof *t->ns, compare_doubles);
    return t->ns[t->n_samples / 2];
}
