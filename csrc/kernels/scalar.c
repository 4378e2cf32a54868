/*
 * The portable kernels: the definition that every ISA is compared with, and the fallback of a CPU without a
 * faster set. Plain C; the build's baseline instructions (SSE2 on x86-64) are whatever the compiler makes of
 * it.
 */
#include "float_ops.h"

static void row_sums_qc8w_scalar(const int8_t *w, size_t n_out, size_t n_in, int32_t *sums) {
    for (size_t o = 0; o < n_out; o++) {
        int32_t sum = 0;
        for (size_t i = 0; i < n_in; i++)
            sum += w[o * n_in + i];
        sums[o] = sum;
    }
}

static void gemm_qd8_qc8w_scalar(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                 const int8_t *w, const float *w_scale, const int32_t *w_sums, size_t n_out,
                                 float *y, size_t y_stride) {
    (void)w_sums;
    for (size_t o = 0; o < n_out; o++)
        for (size_t r = 0; r < n_rows; r++) {
            int32_t sum = 0;
            for (size_t i = 0; i < n_in; i++)
                sum += a[r * n_in + i] * w[o * n_in + i];
            y[r * y_stride + o] = ((float)sum * a_scale[r]) * w_scale[o];
        }
}

static size_t packed_size_scalar(size_t n_out, size_t n_in) {
    (void)n_out;
    (void)n_in;
    return 0;
}

/* Where element i of output o lies. */
static size_t packed_index(size_t o, size_t i, size_t n_in) {
    return o / 32 * 32 * n_in + i / 4 * 128 + o % 32 * 4 + i % 4;
}

static void pack_qc8w_scalar(const int8_t *w, size_t n_out, size_t n_in, uint8_t *packed) {
    for (size_t o = 0; o < (n_out + 31) / 32 * 32; o++)
        for (size_t i = 0; i < n_in; i++)
            packed[packed_index(o, i, n_in)] = (uint8_t)(w[(o < n_out ? o : n_out - 1) * n_in + i] + 128);
}

static void gemm_qd8_packed_scalar(const int8_t *a, const float *a_scale, size_t n_rows, size_t n_in,
                                   const uint8_t *packed, const float *w_scale, size_t n_out, float *y,
                                   size_t y_stride) {
    for (size_t o = 0; o < n_out; o++)
        for (size_t r = 0; r < n_rows; r++) {
            int32_t sum = 0;
            for (size_t i = 0; i < n_in; i++)
                sum += a[r * n_in + i] * (packed[packed_index(o, i, n_in)] - 128);
            y[r * y_stride + o] = ((float)sum * a_scale[r]) * w_scale[o];
        }
}

void es2s_kernels_init_scalar(es2s_kernels *k) {
    use_float_ops(k);
    k->isa = "scalar";
    k->row_sums_qc8w = row_sums_qc8w_scalar;
    k->gemm_qd8_qc8w = gemm_qd8_qc8w_scalar;
    k->packed_size = packed_size_scalar;
    k->pack_qc8w = pack_qc8w_scalar;
    k->gemm_qd8_packed = gemm_qd8_packed_scalar;
}
