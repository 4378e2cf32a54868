/*
 * The avx_vnni kernels on any CPU with AVX2: kernels/avx_vnni.c with its one new instruction spelled out in
 * AVX2, so that all but the hardware's vpdpbusd is compared with the scalar set. Where the CPU has AVX-VNNI,
 * check_kernels runs the real thing.
 */
#include <immintrin.h>

#include "check.h"
#include "kernels/kernels.h"

/* vpdpbusd: each int32 lane plus four products of an unsigned and a signed byte. */
static inline __m256i spelled_out_dpbusd(__m256i sum, __m256i a, __m256i b) {
    for (int byte = 0; byte < 4; byte++) {
        const __m128i left = _mm_cvtsi32_si128(24 - 8 * byte), down = _mm_cvtsi32_si128(24);
        const __m256i a_byte = _mm256_srl_epi32(_mm256_sll_epi32(a, left), down);
        const __m256i b_byte = _mm256_sra_epi32(_mm256_sll_epi32(b, left), down);
        sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(a_byte, b_byte));
    }
    return sum;
}

#define _mm256_dpbusd_avx_epi32    spelled_out_dpbusd
#define es2s_kernels_init_avx_vnni init_spelled_out
#include "kernels/avx_vnni.c"

static void gemm_equals_scalar(void) {
    static const size_t N_ROWS[] = {0, 1, 2, 3, 4, 5, 7, 16}, N_OUTS[] = {0, 1, 2, 7, 8, 9, 17, 33, 65};
    static const size_t N_INS[] = {0, 1, 31, 32, 33, 36, 65, 509, 4100};
    es2s_kernels scalar, kernels;
    check_case("select");
    CHECK(es2s_kernels_select(&scalar, "scalar") == 0);
    kernels = scalar;
    init_spelled_out(&kernels);
    for (size_t r = 0; r < sizeof N_ROWS / sizeof *N_ROWS; r++)
        for (size_t o = 0; o < sizeof N_OUTS / sizeof *N_OUTS; o++)
            for (size_t i = 0; i < sizeof N_INS / sizeof *N_INS; i++)
                for (int extreme = 0; extreme < 2; extreme++) {
                    const size_t n_rows = N_ROWS[r], n_out = N_OUTS[o], n_in = N_INS[i];
                    check_case("n_rows=%zu n_out=%zu n_in=%zu extreme=%d", n_rows, n_out, n_in, extreme);
                    int8_t *a = check_alloc(n_rows * n_in), *w = check_alloc(n_out * n_in);
                    for (size_t j = 0; j < n_rows * n_in; j++)
                        a[j] = extreme ? 127 : (int8_t)((int)(check_random() % 255) - 127);
                    for (size_t j = 0; j < n_out * n_in; j++)
                        w[j] = extreme ? (j % 3 ? 127 : -127) : (int8_t)((int)(check_random() % 255) - 127);
                    float *a_scale = check_alloc(n_rows * sizeof *a_scale);
                    float *w_scale = check_alloc(n_out * sizeof *w_scale);
                    for (size_t j = 0; j < n_rows; j++)
                        a_scale[j] = (float)(check_random() % 1000) / 997.0f;
                    for (size_t j = 0; j < n_out; j++)
                        w_scale[j] = (float)(check_random() % 1000) / 997.0f;
                    int32_t *w_sums = check_alloc(n_out * sizeof *w_sums);
                    scalar.row_sums_qc8w(w, n_out, n_in, w_sums);
                    float *y = check_alloc(n_rows * n_out * sizeof *y);
                    float *expected = check_alloc(n_rows * n_out * sizeof *y);
                    kernels.gemm_qd8_qc8w(a, a_scale, n_rows, n_in, w, w_scale, w_sums, n_out, y, n_out);
                    scalar.gemm_qd8_qc8w(a, a_scale, n_rows, n_in, w, w_scale, w_sums, n_out, expected,
                                         n_out);
                    for (size_t j = 0; j < n_rows * n_out; j++)
                        CHECK(bits_of(y[j]) == bits_of(expected[j]));
                    if (n_in % 4 != 0) continue;
                    uint8_t *packed = check_alloc((n_out + 31) / 32 * 32 * n_in);
                    kernels.pack_qc8w(w, n_out, n_in, packed);
                    float *from_packed = check_alloc(n_rows * n_out * sizeof *y);
                    kernels.gemm_qd8_packed(a, a_scale, n_rows, n_in, packed, w_scale, n_out, from_packed,
                                            n_out);
                    for (size_t j = 0; j < n_rows * n_out; j++)
                        CHECK(bits_of(from_packed[j]) == bits_of(expected[j]));
                }
}

int main(int argc, char **argv) {
    static const check_test tests[] = {{"avx_vnni_gemm", gemm_equals_scalar, 0}};
    return check_main(argc, argv, tests, 1);
}
