/*
 * A layer is two jobs of the thread pool. Everything but attention works on rows alone, so the first one takes
 * blocks of rows from one attention to the next: output projection, feed-forward, the norm of the next layer,
 * its queries, keys and values. The second one is attention, a head and a block of queries at a time; keys lie
 * transposed, so that scores are the same sums of vectors as the values' (kernels.h, matmul_f32). A block is
 * small enough for a core's cache to hold what it needs, and weights are read once per block.
 */
#include "encoder.h"

#include <assert.h>
#include <string.h>

#include "error.h"

enum { BLOCK = 64 };

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

static uint64_t n_position_biases(const es2s_features *f) {
    return f->position_is_table ? 0 : f->position_bias_per_layer ? (uint64_t)f->n_layers : 1;
}

void es2s_encoder_scratch_take(es2s_encoder_scratch *s, const es2s_model *m, int32_t max_len,
                               es2s_arena *arena) {
    const es2s_features *f = &m->encoder->features;
    const size_t padded_len = ((size_t)max_len + 15) / 16 * 16;
    const size_t n_heads = (size_t)f->n_heads, inner = n_heads * (size_t)f->d_head;
    const size_t n_threads = (size_t)es2s_thread_pool_size(m->pool);
    const size_t cross_inner = (size_t)(m->dims.n_heads * m->dims.d_head);
    const uint64_t n = (uint64_t)max_len; /* products with it may need more than 32 bits */
    *s = (es2s_encoder_scratch){.max_len = max_len, .padded_len = padded_len};
    s->block_floats = BLOCK * max_size(max_size(3 * inner, 2 * cross_inner), padded_len);

    s->x = es2s_arena_take(arena, n * (uint64_t)f->d_model, sizeof *s->x);
    s->q = es2s_arena_take(arena, n * inner, sizeof *s->q);
    s->k = es2s_arena_take(arena, (uint64_t)inner * padded_len, sizeof *s->k);
    s->v = es2s_arena_take(arena, n * inner, sizeof *s->v);
    s->position_bias =
        es2s_arena_take(arena, n_position_biases(f) * n_heads * (2 * n - 1), sizeof *s->position_bias);
    s->block = es2s_arena_take(arena, (uint64_t)n_threads * s->block_floats, sizeof *s->block);
    s->workers = es2s_arena_take(arena, n_threads, sizeof *s->workers);
    for (size_t i = 0; i < n_threads; i++) {
        es2s_worker worker = es2s_worker_take(f, BLOCK, arena);
        worker.kernels = &m->kernels;
        if (s->workers) s->workers[i] = worker;
    }
    if (!arena->base) return;

    float *spread = s->position_bias;
    for (uint64_t layer = 0; layer < n_position_biases(f); layer++)
        for (size_t head = 0; head < n_heads; head++) {
            const es2s_position_bias *bias = &m->encoder->layers[layer].position_bias;
            const int32_t middle = bias->n_columns / 2;
            const float *values = bias->values + head * (size_t)bias->n_columns + middle;
            for (int32_t distance = 1 - max_len; distance < max_len; distance++)
                *spread++ = values[distance < -middle ? -middle : distance > middle ? middle : distance];
        }
}

typedef struct encoder_job {
    es2s_encoder_scratch *s;
    const es2s_model *model;
    es2s_kv_cache *cache;
    int32_t row;
    int32_t n_tokens;
    int32_t n_blocks;
    int32_t block_len; /* rows of each block but the last */
    int32_t layer;     /* the one whose attention comes next; n_layers: none */
} encoder_job;

static int32_t rows_of_block(const encoder_job *job, int32_t block) {
    const int32_t left = job->n_tokens - block * job->block_len;
    return left < job->block_len ? left : job->block_len;
}

/* qkv: float[n_rows, 3 * inner] of the rows from `first` on goes where attention reads it. */
static void store_qkv(es2s_encoder_scratch *s, const es2s_features *f, const float *qkv, size_t first,
                      size_t n_rows) {
    const size_t d_head = (size_t)f->d_head, inner = (size_t)f->n_heads * d_head;
    for (size_t r = 0; r < n_rows; r++)
        memcpy(s->q + (first + r) * inner, qkv + r * 3 * inner, inner * sizeof *qkv);
    for (size_t i = 0; i < inner; i++)
        for (size_t r = 0; r < n_rows; r++)
            s->k[i * s->padded_len + first + r] = qkv[r * 3 * inner + inner + i];
    for (size_t head = 0; head < (size_t)f->n_heads; head++)
        for (size_t r = 0; r < n_rows; r++)
            memcpy(s->v + (head * (size_t)s->max_len + first + r) * d_head,
                   qkv + r * 3 * inner + 2 * inner + head * d_head, d_head * sizeof *qkv);
}

/* Keys and values of all decoder layers for the hidden states x: float[n_rows, d_model]. */
static void store_cross_kv(const encoder_job *job, const es2s_worker *worker, const float *x, size_t first,
                           size_t n_rows, float *kv) {
    es2s_kv_cache *c = job->cache;
    const size_t d_head = (size_t)c->d_head, inner = (size_t)c->n_heads * d_head;
    for (int32_t layer = 0; layer < c->n_layers; layer++) {
        es2s_linear(worker, &job->model->encoder->cross_kv[layer], x, n_rows, kv);
        for (int which = ES2S_KEYS; which <= ES2S_VALUES; which++)
            for (int32_t head = 0; head < c->n_heads; head++)
                es2s_kv_cache_write_cross(c, job->row, layer, which, head, first, n_rows,
                                          kv + (size_t)which * inner + (size_t)head * d_head, 2 * inner);
    }
}

/* A block of rows from the attention of layer - 1, if there is one, to that of `layer`, or to the end. */
static void run_rows(void *arg, int32_t block, int32_t thread) {
    const encoder_job *job = arg;
    es2s_encoder_scratch *s = job->s;
    const es2s_encoder *encoder = job->model->encoder;
    const es2s_features *f = &encoder->features;
    const es2s_worker *worker = &s->workers[thread];
    const size_t first = (size_t)block * (size_t)job->block_len, n_rows = (size_t)rows_of_block(job, block);
    const size_t inner = (size_t)f->n_heads * (size_t)f->d_head;
    float *x = s->x + first * (size_t)f->d_model, *wide = s->block + (size_t)thread * s->block_floats;

    if (job->layer > 0) {
        const es2s_encoder_layer *last = &encoder->layers[job->layer - 1];
        es2s_linear(worker, &last->self_attn.o, s->q + first * inner, n_rows, worker->h);
        es2s_add_residual(worker, f, &last->self_attn.norm, x, n_rows);
        es2s_feed_forward_rows(worker, f, &last->ffn, x, n_rows);
    }
    if (job->layer < f->n_layers) {
        const es2s_self_attention *next = &encoder->layers[job->layer].self_attn;
        es2s_linear(worker, &next->qkv, es2s_block_input(worker, f, &next->norm, x, n_rows), n_rows, wide);
        store_qkv(s, f, wide, first, n_rows);
    } else {
        if (f->has_final_norm) es2s_normalize(worker->kernels, f, &encoder->final_norm, x, n_rows, x);
        store_cross_kv(job, worker, x, first, n_rows, wide);
    }
}

/* softmax(q k^T + bias) v of a head and a block of queries, in their place. q is not scaled here: d_head^-0.5
 * is part of its weights. */
static void run_attention(void *arg, int32_t item, int32_t thread) {
    const encoder_job *job = arg;
    es2s_encoder_scratch *s = job->s;
    const es2s_features *f = &job->model->encoder->features;
    const es2s_kernels *kernels = &job->model->kernels;
    const int32_t head = item / job->n_blocks, block = item % job->n_blocks;
    const size_t first = (size_t)block * (size_t)job->block_len, n_rows = (size_t)rows_of_block(job, block);
    const size_t n = (size_t)job->n_tokens, n_padded = (n + 15) / 16 * 16, max_len = (size_t)s->max_len;
    const size_t d_head = (size_t)f->d_head, inner = (size_t)f->n_heads * d_head;
    float *q = s->q + first * inner + (size_t)head * d_head;
    float *scores = s->block + (size_t)thread * s->block_floats; /* [n_rows, n_padded] */
    const size_t table = f->position_bias_per_layer ? (size_t)job->layer : 0;
    const float *bias = s->position_bias + (table * (size_t)f->n_heads + (size_t)head) * (2 * max_len - 1);

    kernels->matmul_f32(q, inner, n_rows, d_head, s->k + (size_t)head * d_head * s->padded_len, s->padded_len,
                        n_padded, scores, n_padded);
    for (size_t r = 0; r < n_rows; r++) {
        float *row = scores + r * n_padded;
        if (!f->position_is_table) kernels->add(row, bias + (max_len - 1) - (first + r), n);
        kernels->softmax(row, n);
    }
    kernels->matmul_f32(scores, n_padded, n_rows, n, s->v + (size_t)head * max_len * d_head, d_head, d_head,
                        q, inner);
}

/* x of all tokens; the keys beyond them, which scores are computed of and not used, are 0. */
static void embed(es2s_encoder_scratch *s, const es2s_model *m, const int32_t *token_ids, size_t n) {
    const es2s_encoder *encoder = m->encoder;
    const es2s_features *f = &encoder->features;
    const size_t d_model = (size_t)f->d_model, inner = (size_t)f->n_heads * (size_t)f->d_head;
    es2s_look_up(&m->kernels, &m->encoder_embedding, f->embedding_scale, token_ids, n, s->x);
    if (f->position_is_table) m->kernels.add(s->x, encoder->position_embedding, n * d_model);
    if (f->has_embedding_norm)
        es2s_normalize(&m->kernels, f, &encoder->embedding_norm, s->x, n, s->x);
    for (size_t i = 0; i < inner; i++)
        for (size_t j = n; j % 16 != 0; j++)
            s->k[i * s->padded_len + j] = 0;
}

/* The mean of x: float[n, d_model], rows added in order. */
static void write_mean(const es2s_kernels *kernels, const float *x, size_t n, size_t d_model, float *mean) {
    memset(mean, 0, d_model * sizeof *mean);
    for (size_t r = 0; r < n; r++)
        kernels->add(mean, x + r * d_model, d_model);
    for (size_t i = 0; i < d_model; i++)
        mean[i] /= (float)n;
}

static es2s_status check_patience(const es2s_patience *p) {
    if (p->cancel && *p->cancel) return es2s_fail(ES2S_CANCELLED, "encode: cancelled by the caller");
    if (es2s_clock_ns() >= p->deadline_ns) return es2s_fail(ES2S_CANCELLED, "encode: the deadline has passed");
    return ES2S_OK;
}

es2s_status es2s_encoder_run(es2s_encoder_scratch *s, const es2s_model *m, const int32_t *token_ids, int32_t n,
                             const es2s_patience *patience, es2s_kv_cache *cache, int32_t row,
                             float *mean_hidden) {
    assert(n >= 1 && n <= s->max_len);
    const es2s_features *f = &m->encoder->features;
    es2s_thread_pool *pool = es2s_thread_pool_try_acquire(m->pool);
    const int32_t n_threads = es2s_thread_pool_size(pool), per_thread = (n + n_threads - 1) / n_threads;
    encoder_job job = {.s = s, .model = m, .cache = cache, .row = row, .n_tokens = n};
    job.block_len = per_thread < BLOCK ? per_thread : BLOCK;
    job.n_blocks = (n + job.block_len - 1) / job.block_len;

    es2s_kv_cache_open_source(cache, row, n);
    embed(s, m, token_ids, (size_t)n);
    es2s_status status = ES2S_OK;
    for (job.layer = 0; job.layer <= f->n_layers; job.layer++) {
        if ((status = check_patience(patience)) != ES2S_OK) break;
        es2s_thread_pool_run(pool, run_rows, &job, job.n_blocks);
        if (job.layer < f->n_layers)
            es2s_thread_pool_run(pool, run_attention, &job, job.n_blocks * f->n_heads);
    }
    es2s_thread_pool_release(pool);
    if (status != ES2S_OK) es2s_kv_cache_forget_source(cache, row);
    if (status == ES2S_OK && mean_hidden)
        write_mean(&m->kernels, s->x, (size_t)n, (size_t)f->d_model, mean_hidden);
    return status;
}
