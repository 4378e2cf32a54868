/* Threads share a matrix by its output channels. */
#include "layers.h"

#include <assert.h>
#include <string.h>

enum {
    MIN_PARALLEL_PRODUCTS = 1 << 17, /* fewer are done before a worker has noticed */
    MIN_ITEM_PRODUCTS = 1 << 16,     /* a microsecond's, of which handing it out takes a twentieth */
    ITEMS_PER_THREAD = 4,            /* even out a slower core */
    OUTPUTS_MULTIPLE = 32            /* keeps the tiles of the kernels and packed blocks whole */
};

static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

es2s_worker es2s_worker_take(const es2s_features *f, uint64_t rows, es2s_arena *arena) {
    const uint64_t d_model = (uint64_t)f->d_model, d_ff = (uint64_t)f->d_ff;
    const uint64_t inner = (uint64_t)f->n_heads * (uint64_t)f->d_head;
    es2s_worker worker = {0};
    worker.h = es2s_arena_take(arena, rows * d_model, sizeof *worker.h);
    worker.wide = es2s_arena_take(arena, rows * (f->ffn_gated ? 2 : 1) * d_ff, sizeof *worker.wide);
    worker.q8 = es2s_arena_take(arena, rows * max_u64(max_u64(d_model, inner), d_ff), sizeof *worker.q8);
    worker.q8_scale = es2s_arena_take(arena, rows, sizeof *worker.q8_scale);
    return worker;
}

typedef struct linear_job {
    const es2s_kernels *kernels;
    const es2s_matrix *w;
    const float *x;        /* [n_rows, n_in] */
    const int8_t *q8;      /* [n_rows, n_in] */
    const float *q8_scale; /* [n_rows] */
    size_t n_rows;
    size_t n_outputs; /* of one item */
    float *y;         /* [n_rows, n_out] */
} linear_job;

static void run_linear(void *arg, int32_t item, int32_t thread) {
    (void)thread;
    const linear_job *job = arg;
    const es2s_matrix *w = job->w;
    const size_t n_in = (size_t)w->n_in, n_out = (size_t)w->n_out, first = (size_t)item * job->n_outputs;
    const size_t n = n_out - first < job->n_outputs ? n_out - first : job->n_outputs;
    if (w->f32)
        job->kernels->gemm_f32(job->x, job->n_rows, n_in, w->f32 + first * n_in, n, job->y + first, n_out);
    else if (w->packed)
        job->kernels->gemm_qd8_packed(job->q8, job->q8_scale, job->n_rows, n_in, w->packed + first * n_in,
                                      w->scale + first, n, job->y + first, n_out);
    else
        job->kernels->gemm_qd8_qc8w(job->q8, job->q8_scale, job->n_rows, n_in, w->q + first * n_in,
                                    w->scale + first, w->sums + first, n, job->y + first, n_out);
    for (size_t r = 0; w->bias && r < job->n_rows; r++)
        job->kernels->add(job->y + r * n_out + first, w->bias + first, n);
}

void es2s_linear(const es2s_worker *worker, const es2s_matrix *w, const float *x, size_t n_rows, float *y) {
    const es2s_kernels *k = worker->kernels;
    const size_t n_in = (size_t)w->n_in, n_out = (size_t)w->n_out;
    if (!w->f32)
        for (size_t r = 0; r < n_rows; r++)
            k->quantize_qd8(x + r * n_in, n_in, worker->q8 + r * n_in, &worker->q8_scale[r]);

    const uint64_t n_products = (uint64_t)n_rows * n_in * n_out;
    es2s_thread_pool *pool = n_products < MIN_PARALLEL_PRODUCTS ? NULL : worker->pool;
    const uint64_t n_threads = (uint64_t)es2s_thread_pool_size(pool);
    const uint64_t per_thread =
        max_u64(1, min_u64(ITEMS_PER_THREAD, n_products / n_threads / MIN_ITEM_PRODUCTS));
    const size_t n_items = pool ? (size_t)(n_threads * per_thread) : 1;
    const size_t n_outputs = ((n_out - 1) / n_items / OUTPUTS_MULTIPLE + 1) * OUTPUTS_MULTIPLE;
    linear_job job = {k, w, x, worker->q8, worker->q8_scale, n_rows, n_outputs, y};
    es2s_thread_pool_run(pool, run_linear, &job, (int32_t)((n_out - 1) / n_outputs + 1));
}

/* The layout is in kernels.h: groups of 4 elements, 128 bytes apart. */
static const uint8_t *packed_row(const es2s_matrix *w, size_t row) {
    return w->packed + row / 32 * 32 * (size_t)w->n_in + row % 32 * 4;
}

const int8_t *es2s_matrix_row(const es2s_matrix *w, size_t row, int8_t *q) {
    const size_t n_in = (size_t)w->n_in;
    if (!w->packed) return w->q + row * n_in;
    const uint8_t *packed = packed_row(w, row);
    for (size_t i = 0; i < n_in; i += 4, packed += 128) {
        uint32_t group;
        memcpy(&group, packed, sizeof group);
        group ^= 0x80808080; /* of each byte - 128 */
        memcpy(q + i, &group, sizeof group);
    }
    return q;
}

/* The same floats as dequantize_q8 gives. */
static void dequantize_packed(const uint8_t *packed, float scale, size_t n_in, float *y) {
    for (size_t i = 0; i < n_in; i += 4, packed += 128)
        for (size_t j = 0; j < 4; j++)
            y[i + j] = (float)(packed[j] - 128) * scale;
}

void es2s_look_up(const es2s_kernels *kernels, const es2s_matrix *table, float scale,
                  const int32_t *token_ids, size_t n, float *embeds) {
    const size_t n_in = (size_t)table->n_in;
    for (size_t i = 0; i < n; i++) {
        assert(token_ids[i] >= 0 && token_ids[i] < table->n_out);
        const size_t id = (size_t)token_ids[i];
        float *embed = embeds + i * n_in;
        if (table->f32)
            for (size_t j = 0; j < n_in; j++)
                embed[j] = table->f32[id * n_in + j] * scale;
        else if (table->packed)
            dequantize_packed(packed_row(table, id), table->scale[id] * scale, n_in, embed);
        else
            kernels->dequantize_q8(table->q + id * n_in, table->scale[id] * scale, n_in, embed);
    }
}

void es2s_normalize(const es2s_kernels *kernels, const es2s_features *f, const es2s_norm *norm,
                    const float *x, size_t n_rows, float *y) {
    const size_t d_model = (size_t)f->d_model;
    for (size_t r = 0; r < n_rows; r++, x += d_model, y += d_model)
        if (f->norm_is_layer)
            kernels->layer_norm(x, norm->weight, norm->bias, f->norm_eps, d_model, y);
        else
            kernels->rms_norm(x, norm->weight, f->norm_eps, d_model, y);
}

const float *es2s_block_input(const es2s_worker *worker, const es2s_features *f, const es2s_norm *norm,
                              const float *x, size_t n_rows) {
    if (f->norm_is_post) return x;
    es2s_normalize(worker->kernels, f, norm, x, n_rows, worker->h);
    return worker->h;
}

void es2s_add_residual(const es2s_worker *worker, const es2s_features *f, const es2s_norm *norm, float *x,
                       size_t n_rows) {
    worker->kernels->add(x, worker->h, n_rows * (size_t)f->d_model);
    if (f->norm_is_post) es2s_normalize(worker->kernels, f, norm, x, n_rows, x);
}

/* In place: act(up), or act(gate) * up and then the rows moved together: float[n_rows, d_ff]. */
static void activate(const es2s_kernels *kernels, const es2s_features *f, float *wide, size_t n_rows) {
    const size_t d_ff = (size_t)f->d_ff;
    if (!f->ffn_gated) {
        f->ffn_activation(wide, n_rows * d_ff);
        return;
    }
    for (size_t r = 0; r < n_rows; r++) {
        float *gate = wide + r * 2 * d_ff;
        f->ffn_activation(gate, d_ff);
        kernels->multiply(gate, gate + d_ff, d_ff);
        if (r > 0) memcpy(wide + r * d_ff, gate, d_ff * sizeof *gate);
    }
}

void es2s_feed_forward_rows(const es2s_worker *worker, const es2s_features *f, const es2s_feed_forward *ffn,
                            float *x, size_t n_rows) {
    const float *input = es2s_block_input(worker, f, &ffn->norm, x, n_rows);
    es2s_linear(worker, &ffn->up, input, n_rows, worker->wide);
    activate(worker->kernels, f, worker->wide, n_rows);
    es2s_linear(worker, &ffn->down, worker->wide, n_rows, worker->h);
    es2s_add_residual(worker, f, &ffn->norm, x, n_rows);
}
