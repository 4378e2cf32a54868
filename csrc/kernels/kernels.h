/*
 * The kernel table: every arithmetic loop of the decoder, once per instruction set.
 *
 * es2s_kernels_select() fills the table with the scalar kernels, which are the definition, then lets each
 * wider ISA up to the requested one override the members it improves. All ISAs return the same bits:
 *   - int8 products accumulate in int32, which is exact, so their order does not matter;
 *   - a float sum over a row runs in 16 lanes, lane i adding elements i, i+16, i+32, ... to +0, and ends
 *     in one fixed tree: lanes i and i+8, then i+4, i+2, i+1;
 *   - a sum of vectors (attention over values) adds them in order, each element its own sum;
 *   - no fused multiply-add (-ffp-contract=off), no libm but a correctly rounded sqrt; exp and its kin are
 *     written once, in float_ops.h;
 *   - rounding to integers is half to even.
 *
 * Words (XNNPACK's): qd8 = int8 activations quantized while running, one scale per row; qc8w = int8 weights,
 * one scale per output channel; f32 = float; f16 = IEEE 754 binary16, in a uint16_t. No kernel reads or
 * writes outside its arrays, and none needs alignment.
 */
#ifndef ES2S_KERNELS_H
#define ES2S_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct es2s_kernels {
    const char *isa;

    /* Quantizes one row: scale = max |x| / 127, q = round(x / scale) in [-127, 127].
     * A row of zeros gives scale 0, a row with a NaN scale NaN. */
    void (*quantize_qd8)(const float *x /* [n] */, size_t n, int8_t *q /* [n] */, float *scale);

    /* Sum of each weight row, which kernels with an unsigned activation operand subtract 128 times. */
    void (*row_sums_qc8w)(const int8_t *w /* [n_out, n_in] */, size_t n_out, size_t n_in,
                          int32_t *sums /* [n_out] */);

    /* y[r, o] = ((float)(sum_i a[r, i] * w[o, i]) * a_scale[r]) * w_scale[o].
     * a and w lie in [-127, 127]; n_in <= 131072 cannot overflow. */
    void (*gemm_qd8_qc8w)(const int8_t *a /* [n_rows, n_in] */, const float *a_scale /* [n_rows] */,
                          size_t n_rows, size_t n_in, const int8_t *w /* [n_out, n_in] */,
                          const float *w_scale /* [n_out] */, const int32_t *w_sums /* [n_out] */,
                          size_t n_out, float *y, size_t y_stride);

    /* Packed weights lie in the order in which a GEMM with many lanes reads them: blocks of 32 outputs, in a
     * block 4 elements of each output, then the next 4; as bytes, + 128. They are one stream, which memory
     * likes, and no sum across a register is left. Outputs from a multiple of 32 on begin at
     * packed + output * n_in; the last block is filled up. packed_size: bytes, 0 if this set has no use for
     * it or the shape cannot be packed. */
    size_t (*packed_size)(size_t n_out, size_t n_in);
    void (*pack_qc8w)(const int8_t *w /* [n_out, n_in], n_in a multiple of 4 */, size_t n_out, size_t n_in,
                      uint8_t *packed /* [(n_out + 31) / 32, n_in / 4, 32, 4] */);

    /* The same y as gemm_qd8_qc8w. */
    void (*gemm_qd8_packed)(const int8_t *a /* [n_rows, n_in] */, const float *a_scale /* [n_rows] */,
                            size_t n_rows, size_t n_in, const uint8_t *packed,
                            const float *w_scale /* [n_out] */, size_t n_out, float *y, size_t y_stride);

    /* y[r, o] = 16-lane sum of a[r, i] * w[o, i]. */
    void (*gemm_f32)(const float *a /* [n_rows, n_in] */, size_t n_rows, size_t n_in,
                     const float *w /* [n_out, n_in] */, size_t n_out, float *y, size_t y_stride);

    /* 16-lane sum of x[i] * (float)w[i]: a logit recomputed with float activations. */
    float (*dot_f32_q8)(const float *x, const int8_t *w, size_t n);

    /* y = x * scale, a row of the embedding table. */
    void (*dequantize_q8)(const int8_t *q, float scale, size_t n, float *y);

    /* y = (x / sqrt(mean(x^2) + eps)) * gamma, T5's norm (Zhang and Sennrich 2019). y may be x. */
    void (*rms_norm)(const float *x, const float *gamma, float eps, size_t n, float *y);

    /* y = ((x - mean) / sqrt(mean((x - mean)^2) + eps)) * gamma + beta (Ba et al. 2016). Both means are
     * 16-lane sums divided by n. y may be x. */
    void (*layer_norm)(const float *x, const float *gamma, const float *beta, float eps, size_t n, float *y);

    /* x += y */
    void (*add)(float *x, const float *y, size_t n);

    /* scores[j] = q . key_j (+ bias[j]); key_j = k + (index ? index[j] : j) * d_head. bias may be NULL. */
    void (*attention_scores)(const float *q /* [d_head] */, const float *k, const int32_t *index,
                             size_t n_keys, size_t d_head, const float *bias /* [n_keys] */,
                             float *scores /* [n_keys] */);

    /* The same of keys in float16, which are widened first. */
    void (*attention_scores_f16)(const float *q /* [d_head] */, const uint16_t *k, const int32_t *index,
                                 size_t n_keys, size_t d_head, const float *bias /* [n_keys] */,
                                 float *scores /* [n_keys] */);

    /* In place, with the maximum subtracted. n >= 1. */
    void (*softmax)(float *x, size_t n);

    /* y = sum_j p[j] * value_j, j in order; value_j addressed as key_j above. */
    void (*attention_values)(const float *p /* [n_keys] */, const float *v, const int32_t *index,
                             size_t n_keys, size_t d_head, float *y /* [d_head] */);

    /* The same of values in float16. */
    void (*attention_values_f16)(const float *p /* [n_keys] */, const uint16_t *v, const int32_t *index,
                                 size_t n_keys, size_t d_head, float *y /* [d_head] */);

    /* To the nearest float16, half to even; beyond its range, infinities too, to the last one, +-65504; a NaN
     * stays one. And back, which is exact. */
    void (*narrow_f16)(const float *x, size_t n, uint16_t *y);
    void (*widen_f16)(const uint16_t *x, size_t n, float *y);

    /* y[r, o] = sum_i a[r, i] * b[i, o], i in order from +0: attention of many queries, in which each element
     * is a sum of its own as in attention_values. Strides count floats. */
    void (*matmul_f32)(const float *a, size_t a_stride, size_t n_rows, size_t n_in, const float *b,
                       size_t b_stride, size_t n_out, float *y, size_t y_stride);

    /* Activations, in place.
     * gelu_tanh(x) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3); silu(x) = x / (1 + exp(-x));
     * gelu_erf(x) = x (1 + erf(x / sqrt(2))) / 2, 0 at -infinity. */
    void (*relu)(float *x, size_t n);
    void (*gelu_tanh)(float *x, size_t n);
    void (*gelu_erf)(float *x, size_t n);
    void (*silu)(float *x, size_t n);

    /* x *= y, the gate of a gated feed-forward. */
    void (*multiply)(float *x, const float *y, size_t n);

    /* max and sum(exp(x - max)) of a row: log-softmax(x)[i] = (x[i] - max) - log(sum). n >= 1. */
    void (*log_softmax_terms)(const float *x, size_t n, float *max, float *sum);

    /* The largest element. NaN never wins; -infinity if all are NaN. */
    float (*max)(const float *x, size_t n);

    /* Index of the largest element, the lowest one of equals. NaN never wins; 0 if all are NaN. n >= 1. */
    size_t (*argmax)(const float *x, size_t n);
} es2s_kernels;

/* Each overrides what its ISA improves; only called on a CPU that has the ISA. */
void es2s_kernels_init_scalar(es2s_kernels *k);
void es2s_kernels_init_avx2(es2s_kernels *k);
void es2s_kernels_init_avx_vnni(es2s_kernels *k);
void es2s_kernels_init_avx512_vnni(es2s_kernels *k);
void es2s_kernels_init_neon(es2s_kernels *k);
void es2s_kernels_init_neon_dotprod(es2s_kernels *k);
void es2s_kernels_init_neon_i8mm(es2s_kernels *k);

/* Fills k for the named ISA, or for the widest supported one if isa is NULL.
 * Returns 0, or -1 if the name is unknown or this CPU lacks it (k is then untouched). */
int es2s_kernels_select(es2s_kernels *k, const char *isa);

/* "scalar avx2 ...": what es2s_kernels_select accepts on this CPU. */
const char *es2s_kernels_supported(void);

#endif
