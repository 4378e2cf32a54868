/*
 * What this machine can do at most. Reads "stream BYTES THREADS" or "dot 0 THREADS" from standard input, one
 * a line, and answers with a number: 1e9 bytes a second, or 1e9 products of 8-bit integers a second.
 *
 * stream: each thread sums up its own part of BYTES, again and again, as a decoder reads its weights. They
 *         lie in huge pages where the system has them: through small ones a thread waits for addresses,
 *         and a decoder whose weights lie better passes the bound. Twice, with loads of a line and of half
 *         a line of the cache, of which now these are faster and now those; the answer is the better one.
 * dot:    products of unsigned and signed bytes added up in 32 bits, from registers and the first cache.
 */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

enum { MAX_THREADS = 64, LINE = 64, DOT_BYTES = 4096, HUGE_PAGE = 2 << 20 };
static const double SECONDS = 0.1;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Wide enough for every vector unit: the compiler splits them as it needs. */
typedef uint64_t line __attribute__((vector_size(LINE)));
typedef uint64_t half_line __attribute__((vector_size(LINE / 2)));

static uint64_t stream_lines(const uint8_t *data, size_t size) {
    line sums[4] = {{0}};
    for (size_t i = 0; i + 4 * LINE <= size; i += 4 * LINE)
        for (int k = 0; k < 4; k++)
            sums[k] += *(const line *)(const void *)(data + i + (size_t)k * LINE);
    const line sum = sums[0] + sums[1] + sums[2] + sums[3];
    uint64_t total = 0;
    for (int k = 0; k < 8; k++)
        total += sum[k];
    return total;
}

static uint64_t stream_halves(const uint8_t *data, size_t size) {
    half_line sums[8] = {{0}};
    for (size_t i = 0; i + 4 * LINE <= size; i += 4 * LINE)
#pragma GCC unroll 8 /* so that the sums stay in registers */
        for (int k = 0; k < 8; k++)
            sums[k] += *(const half_line *)(const void *)(data + i + (size_t)k * LINE / 2);
    uint64_t total = 0;
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < 4; i++)
            total += sums[k][i];
    return total;
}

/* Sums in twelve registers hide the latency of the instruction. A byte of a vector is a product. On x86 a
 * vector is one of int32: gcc 12 copies an accumulator twice for each instruction where it has to convert. */
enum { SUMS = 12 };
#if defined(__AVX512VNNI__)
typedef int32_t vector __attribute__((vector_size(64)));
#define DOT(sum, a, b) (vector) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b))
#elif defined(__AVXVNNI__)
typedef int32_t vector __attribute__((vector_size(32)));
#define DOT(sum, a, b) (vector) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(a), (__m256i)(b))
#elif defined(__AVX2__)
typedef int32_t vector __attribute__((vector_size(32)));
#define DOT(sum, a, b)                                                                                       \
    ((sum) +                                                                                                 \
     (vector)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)(a), (__m256i)(b)), _mm256_set1_epi16(1)))
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t vector;
#define DOT(sum, a, b) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#else
typedef uint8_t vector;
#define DOT(sum, a, b) (vector)((sum) + (a) * (b)) /* one product at a time: no bound, but a number */
#endif

static uint64_t dot(const uint8_t *data) {
    vector sums[SUMS], x;
    memcpy(&x, data, sizeof x);
#pragma GCC unroll 12 /* before gcc gives the sums a place in memory */
    for (int k = 0; k < SUMS; k++)
        sums[k] = x - x;
    for (int repeat = 0; repeat < 1000; repeat++) {
#pragma GCC unroll 12
        for (int k = 0; k < SUMS; k++) {
            vector y;
            memcpy(&y, data + (size_t)k * sizeof y, sizeof y);
            sums[k] = DOT(sums[k], x, y);
        }
        __asm__ volatile("" : "+m"(x)); /* another x for the compiler, while the sums stay in registers */
    }
    vector all = sums[0];
#pragma GCC unroll 12
    for (int k = 1; k < SUMS; k++)
        all += sums[k];
    uint8_t bytes[sizeof all];
    memcpy(bytes, &all, sizeof all);
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof all; i++)
        total += bytes[i];
    return total;
}

typedef struct {
    const uint8_t *data;
    size_t size; /* 0: dot */
    uint64_t (*stream)(const uint8_t *data, size_t size);
    double work, seconds;
} job;

static atomic_int waiting;
static atomic_uint_fast64_t sink;

static void *run(void *argument) {
    job *own = argument;
    atomic_fetch_sub(&waiting, 1);
    while (atomic_load(&waiting) > 0)
        ;
    const double start = now();
    uint64_t total = 0;
    do {
        total += own->size ? own->stream(own->data, own->size) : dot(own->data);
        own->work += own->size ? (double)own->size : 1000.0 * SUMS * (double)sizeof(vector);
        own->seconds = now() - start;
    } while (own->seconds < SECONDS);
    atomic_fetch_add(&sink, total);
    return NULL;
}

static double measure(const uint8_t *data, size_t size, int n_threads,
                      uint64_t (*stream)(const uint8_t *data, size_t size)) {
    job jobs[MAX_THREADS] = {{0}};
    pthread_t threads[MAX_THREADS];
    const size_t part = size / (size_t)n_threads / (4 * LINE) * (4 * LINE);
    atomic_store(&waiting, n_threads);
    for (int i = 0; i < n_threads; i++)
        jobs[i] = (job){.data = data + (size_t)i * part, .size = part, .stream = stream};
    for (int i = 1; i < n_threads; i++)
        if (pthread_create(&threads[i], NULL, run, &jobs[i])) exit(1);
    run(&jobs[0]);
    for (int i = 1; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    double rate = 0.0;
    for (int i = 0; i < n_threads; i++)
        rate += jobs[i].work / jobs[i].seconds;
    return rate / 1e9;
}

/* Memory of `size` bytes or more, all of them ones. */
static uint8_t *ones(size_t size) {
    const size_t whole = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uint8_t *data = aligned_alloc(HUGE_PAGE, whole);
    if (!data) exit(1);
#ifdef MADV_HUGEPAGE
    madvise(data, whole, MADV_HUGEPAGE);
#endif
    memset(data, 1, whole);
    return data;
}

int main(void) {
    char what[16];
    unsigned long long bytes;
    int n_threads;
    uint8_t *data = NULL;
    size_t room = 0;
    while (scanf("%15s %llu %d", what, &bytes, &n_threads) == 3) {
        if (n_threads < 1 || n_threads > MAX_THREADS) return 2;
        const int is_dot = !strcmp(what, "dot");
        const size_t unit = (size_t)n_threads * 4 * LINE;
        size_t size = is_dot ? DOT_BYTES : ((size_t)bytes + unit - 1) / unit * unit;
        if (size > room) {
            free(data);
            data = ones(size);
            room = size;
        }
        double rate = measure(data, is_dot ? 0 : size, n_threads, stream_lines);
        if (!is_dot) {
            const double of_halves = measure(data, size, n_threads, stream_halves);
            rate = of_halves > rate ? of_halves : rate;
        }
        printf("%.3f\n", rate);
        fflush(stdout);
    }
    free(data);
    return atomic_load(&sink) == 1; /* so that the sums are needed */
}
