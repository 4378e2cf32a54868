/*
 * Which kernel sets this CPU can run, and filling the table with one of them.
 */
#include <string.h>

#include "kernels.h"

typedef struct kernel_set {
    const char *name;
    unsigned needs; /* what the CPU must have, or 0 */
    void (*init)(es2s_kernels *k);
} kernel_set;

/* Per architecture: SETS, narrowest first; SUPPORTED, their names by what the CPU has; cpu_has(). */
#if defined(__x86_64__)
#include <cpuid.h>

enum { AVX2 = 1, AVX_VNNI = 2, AVX512_VNNI = 4 };

static const kernel_set SETS[] = {
    {"scalar", 0, es2s_kernels_init_scalar},
    {"avx2", AVX2, es2s_kernels_init_avx2},
    {"avx_vnni", AVX_VNNI, es2s_kernels_init_avx_vnni},
    {"avx512_vnni", AVX512_VNNI, es2s_kernels_init_avx512_vnni},
};

static const char *const SUPPORTED[] = {
    [0] = "scalar",
    [AVX2] = "scalar avx2",
    [AVX2 | AVX_VNNI] = "scalar avx2 avx_vnni",
    [AVX2 | AVX512_VNNI] = "scalar avx2 avx512_vnni",
    [AVX2 | AVX_VNNI | AVX512_VNNI] = "scalar avx2 avx_vnni avx512_vnni",
};

#define CPUID_1_ECX_OSXSAVE     (1u << 27)
#define CPUID_1_ECX_F16C        (1u << 29) /* every CPU with AVX2 has it */
#define CPUID_7_EBX_AVX2        (1u << 5)
#define CPUID_7_EBX_AVX512      (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */
#define CPUID_7_ECX_AVX512_VNNI (1u << 11)
#define CPUID_7_1_EAX_AVX_VNNI  (1u << 4)
#define XCR0_AVX                0x06u /* the operating system saves xmm and ymm registers, */
#define XCR0_AVX512             0xE6u /* and mask and zmm registers */

static int has_all(unsigned bits, unsigned wanted) {
    return (bits & wanted) == wanted;
}

/* Asks CPUID itself: __builtin_cpu_supports needs a symbol of the compiler's runtime library, which is not
 * there on every system that embeds the core. */
static unsigned cpu_has(void) {
    unsigned eax, ebx, ecx, edx, xcr0, xcr0_high, has = AVX2;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has_all(ecx, CPUID_1_ECX_OSXSAVE | CPUID_1_ECX_F16C))
        return 0;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
    if (!has_all(xcr0, XCR0_AVX) || !has_all(ebx, CPUID_7_EBX_AVX2)) return 0;
    if (has_all(xcr0, XCR0_AVX512) && has_all(ebx, CPUID_7_EBX_AVX512) &&
        has_all(ecx, CPUID_7_ECX_AVX512_VNNI))
        has |= AVX512_VNNI;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && has_all(eax, CPUID_7_1_EAX_AVX_VNNI))
        has |= AVX_VNNI;
    return has;
}

#elif defined(__aarch64__)
#include "platform.h"

enum { NEON = 1, DOTPROD = 2, I8MM = 4 }; /* a CPU that has one has those before it */

static const kernel_set SETS[] = {
    {"scalar", 0, es2s_kernels_init_scalar},
    {"neon", NEON, es2s_kernels_init_neon},
    {"neon_dotprod", DOTPROD, es2s_kernels_init_neon_dotprod},
    {"neon_i8mm", I8MM, es2s_kernels_init_neon_i8mm},
};

static const char *const SUPPORTED[] = {
    [NEON] = "scalar neon",
    [NEON | DOTPROD] = "scalar neon neon_dotprod",
    [NEON | DOTPROD | I8MM] = "scalar neon neon_dotprod neon_i8mm",
};

static unsigned cpu_has(void) {
    const es2s_arm_features cpu = es2s_cpu_arm_features();
    if (!cpu.dotprod) return NEON;
    return cpu.i8mm ? NEON | DOTPROD | I8MM : NEON | DOTPROD;
}

#elif defined(__arm__)
#include "platform.h"

enum { NEON = 1 };

static const kernel_set SETS[] = {
    {"scalar", 0, es2s_kernels_init_scalar},
    {"neon", NEON, es2s_kernels_init_neon},
};

static const char *const SUPPORTED[] = {[0] = "scalar", [NEON] = "scalar neon"};

static unsigned cpu_has(void) {
    return es2s_cpu_arm_features().neon ? NEON : 0;
}

#else
static const kernel_set SETS[] = {{"scalar", 0, es2s_kernels_init_scalar}};

static const char *const SUPPORTED[] = {"scalar"};

static unsigned cpu_has(void) {
    return 0;
}
#endif

int es2s_kernels_select(es2s_kernels *k, const char *isa) {
    const unsigned has = cpu_has();
    size_t n = sizeof SETS / sizeof *SETS; /* sets up to the one to use */
    while (n > 0 && ((SETS[n - 1].needs & ~has) || (isa && strcmp(isa, SETS[n - 1].name) != 0)))
        n--;
    if (n == 0) return -1;
    for (size_t i = 0; i < n; i++)
        if (!(SETS[i].needs & ~has)) SETS[i].init(k);
    return 0;
}

const char *es2s_kernels_supported(void) {
    return SUPPORTED[cpu_has()];
}
