/*
 * Which kernel sets this CPU can run, and filling the table with one of them.
 */
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define CPUID_1_ECX_OSXSAVE     (1u << 27)
#define CPUID_7_EBX_AVX2        (1u << 5)
#define CPUID_7_EBX_AVX512      (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */
#define CPUID_7_ECX_AVX512_VNNI (1u << 11)
#define XCR0_AVX                0x06u /* the operating system saves xmm and ymm registers, */
#define XCR0_AVX512             0xE6u /* and mask and zmm registers */

static int has_all(unsigned bits, unsigned wanted) {
    return (bits & wanted) == wanted;
}

/* Index in LEVELS. Asks CPUID itself: __builtin_cpu_supports needs a symbol of the compiler's runtime
 * library, which is not there on every system that embeds the core. */
static size_t best_level(void) {
    unsigned eax, ebx, ecx, edx, xcr0, xcr0_high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has_all(ecx, CPUID_1_ECX_OSXSAVE)) return 0;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
    if (!has_all(xcr0, XCR0_AVX) || !has_all(ebx, CPUID_7_EBX_AVX2)) return 0;
    if (!has_all(xcr0, XCR0_AVX512) || !has_all(ebx, CPUID_7_EBX_AVX512) ||
        !has_all(ecx, CPUID_7_ECX_AVX512_VNNI))
        return 1;
    return 2;
}
#else
static size_t best_level(void) {
    return 0;
}
#endif

/* Narrowest first; a CPU that runs one runs all before it. */
static const struct {
    const char *name;
    void (*init)(es2s_kernels *k);
    const char *up_to_here;
} LEVELS[] = {
    {"scalar", es2s_kernels_init_scalar, "scalar"},
#if defined(__x86_64__)
    {"avx2", es2s_kernels_init_avx2, "scalar avx2"},
    {"avx512_vnni", es2s_kernels_init_avx512_vnni, "scalar avx2 avx512_vnni"},
#endif
};

int es2s_kernels_select(es2s_kernels *k, const char *isa) {
    size_t level = best_level();
    if (isa) {
        while (level > 0 && strcmp(isa, LEVELS[level].name) != 0)
            level--;
        if (strcmp(isa, LEVELS[level].name) != 0) return -1;
    }
    for (size_t i = 0; i <= level; i++)
        LEVELS[i].init(k);
    return 0;
}

const char *es2s_kernels_supported(void) {
    return LEVELS[best_level()].up_to_here;
}
