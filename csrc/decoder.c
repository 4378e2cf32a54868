/*
 * The decoder of a Transformer (Vaswani et al. 2017), one position per call, in the variants that layers.h
 * names: RMS or layer norm, before a block (Raffel et al. 2020) or after it (Lewis et al. 2020), positions as
 * a bias of the scores or as a table of embeddings.
 *
 * Every number of a row is computed from that row alone in one fixed order, so neither the other rows nor the
 * number of threads change a bit of it. Threads share attention by row and head.
 */
#include "decoder.h"

#include <assert.h>
#include <string.h>

#include "error.h"

enum {
    MIN_PARALLEL_PRODUCTS = 1 << 17 /* fewer are done before a worker has noticed */
};

/* ============================================ Session ============================================ */

static int32_t n_position_biases(const es2s_model *m) {
    return m->features.position_is_table ? 0 : m->features.position_bias_per_layer ? m->dims.n_layers : 1;
}

/* Reversed, the biases of the keys at positions 0..t are the last t+1 of a head: contiguous for every t. */
static void reverse_position_biases(const es2s_model *m, int32_t max_target_len, float *reversed) {
    for (int32_t i = 0; i < n_position_biases(m); i++) {
        const es2s_position_bias *bias = &m->layers[i].position_bias;
        for (int32_t head = 0; head < m->dims.n_heads; head++) {
            const float *values = bias->values + (size_t)head * (size_t)bias->n_columns;
            for (int32_t distance = max_target_len - 1; distance >= 0; distance--)
                *reversed++ = values[distance < bias->n_columns ? distance : bias->n_columns - 1];
        }
    }
}

/* Takes all arrays of the session from the arena, the session itself first. */
static es2s_session *take_arrays(es2s_session *s, size_t search_scratch_bytes, es2s_arena *arena) {
    const es2s_model *m = s->model;
    const uint64_t rows = (uint64_t)s->max_rows;
    const uint64_t d_model = (uint64_t)m->dims.d_model, n_heads = (uint64_t)m->dims.n_heads;
    const uint64_t inner = n_heads * (uint64_t)m->dims.d_head;
    es2s_session *block = es2s_arena_take(arena, 1, sizeof *s);

    es2s_kv_cache_take(&s->cache, arena);
    s->source_ids =
        es2s_arena_take(arena, (uint64_t)s->max_batch * (uint64_t)s->max_source_len, sizeof *s->source_ids);
    s->n_source_ids = es2s_arena_take(arena, (uint64_t)s->max_batch, sizeof *s->n_source_ids);
    s->position_bias =
        es2s_arena_take(arena, (uint64_t)n_position_biases(m) * n_heads * (uint64_t)s->max_target_len,
                        sizeof *s->position_bias);

    s->x = es2s_arena_take(arena, rows * d_model, sizeof *s->x);
    s->qkv = es2s_arena_take(arena, rows * 3 * inner, sizeof *s->qkv);
    s->attention = es2s_arena_take(arena, rows * inner, sizeof *s->attention);
    s->worker = es2s_worker_take(&m->features, rows, arena);
    s->worker.kernels = &m->kernels;
    s->scores = es2s_arena_take(arena, (uint64_t)es2s_thread_pool_size(m->pool) * (uint64_t)s->scores_stride,
                                sizeof *s->scores);
    s->row_sources = es2s_arena_take(arena, rows, sizeof *s->row_sources);
    if (s->keep_cross_attention)
        s->cross_attention =
            es2s_arena_take(arena, rows * (uint64_t)m->dims.n_layers * n_heads * (uint64_t)s->max_source_len,
                            sizeof *s->cross_attention);

    if (m->encoder) es2s_encoder_scratch_take(&s->encoder_scratch, m, s->max_source_len, arena);
    s->logits = es2s_arena_take(arena, rows * (uint64_t)m->dims.vocab_size, sizeof *s->logits);
    s->search_scratch = es2s_arena_take(arena, search_scratch_bytes, 1);
    return block;
}

enum { HOT_SESSION = 8 << 20 }; /* from which on huge pages are worth the rest of the last one */

es2s_status es2s_decoder_create(const es2s_model *model, const es2s_session_params *params,
                                size_t search_scratch_bytes, es2s_session **session_out) {
    const es2s_model_dims *dims = &model->dims;
    const int32_t n_slots = params->max_batch * params->max_beams;
    const int32_t max_rows = n_slots > params->max_draft_tokens ? n_slots : params->max_draft_tokens + 1;
    const int32_t max_len =
        params->max_source_len > params->max_target_len ? params->max_source_len : params->max_target_len;
    es2s_session s = {
        .model = model,
        .max_batch = params->max_batch,
        .max_beams = params->max_beams,
        .max_rows = max_rows,
        .max_source_len = params->max_source_len,
        .max_target_len = params->max_target_len,
        .max_draft_tokens = params->max_draft_tokens,
        .keep_cross_attention = params->keep_cross_attention != 0,
        .cache = {.n_layers = dims->n_layers,
                  .n_heads = dims->n_heads,
                  .d_head = dims->d_head,
                  .max_batch = params->max_batch,
                  .max_beams = params->max_beams,
                  .n_slots = n_slots,
                  .max_rows = max_rows,
                  .max_source_len = params->max_source_len,
                  .max_target_len = params->max_target_len,
                  .kernels = &model->kernels,
                  .is_f16 = model->kv_cache_is_f16},
        .scores_stride = (max_len + 15) / 16 * 16, /* whole cache lines, so that threads do not share one */
    };

    es2s_arena arena = {0};
    take_arrays(&s, search_scratch_bytes, &arena);
    s.memory = arena.used;
    ES2S_TRY(es2s_check_memory("session", s.memory));
    arena.base = s.memory < HOT_SESSION ? es2s_alloc(s.memory) : es2s_alloc_hot(s.memory);
    arena.used = 0;
    if (!arena.base) return es2s_fail(ES2S_OUT_OF_MEMORY, "session: cannot allocate %zu bytes", s.memory);
    es2s_session *session = take_arrays(&s, search_scratch_bytes, &arena);
    assert(arena.used == s.memory);
    *session = s;

    es2s_kv_cache_clear(&session->cache);
    memset(s.n_source_ids, 0, (size_t)s.max_batch * sizeof *s.n_source_ids);
    reverse_position_biases(model, s.max_target_len, s.position_bias);
    memset(s.search_scratch, 0, search_scratch_bytes);
    *session_out = session;
    return ES2S_OK;
}

/* ============================================= Layers ============================================ */

typedef struct attention_job {
    es2s_session *s;
    int32_t layer;
    const int32_t *sources; /* [n_rows] of cross-attention, NULL: self-attention */
} attention_job;

float *es2s_decoder_cross_attention(const es2s_session *s, int32_t row, int32_t layer, int32_t head) {
    const es2s_kv_cache *const c = &s->cache;
    const size_t i = ((size_t)row * (size_t)c->n_layers + (size_t)layer) * (size_t)c->n_heads + (size_t)head;
    return s->cross_attention + i * (size_t)s->max_source_len;
}

/* y = softmax(q k^T + bias) v, k and v as the cache has them; the weights remain in scores. */
static void attend_to(const es2s_session *s, const float *q, const void *k, const void *v,
                      const int32_t *index, size_t n_keys, const float *bias, float *scores, float *y) {
    const es2s_kernels *kernels = &s->model->kernels;
    const size_t d_head = (size_t)s->cache.d_head;
    if (s->cache.is_f16)
        kernels->attention_scores_f16(q, k, index, n_keys, d_head, bias, scores);
    else
        kernels->attention_scores(q, k, index, n_keys, d_head, bias, scores);
    kernels->softmax(scores, n_keys);
    if (s->cache.is_f16)
        kernels->attention_values_f16(scores, v, index, n_keys, d_head, y);
    else
        kernels->attention_values(scores, v, index, n_keys, d_head, y);
}

/* One row and head. q is not scaled here: d_head^-0.5 is part of its weights. */
static void run_attention(void *arg, int32_t item, int32_t thread) {
    const attention_job *job = arg;
    const es2s_session *s = job->s;
    const es2s_kv_cache *c = &s->cache;
    const int32_t row = item / c->n_heads, head = item % c->n_heads;
    const size_t d_head = (size_t)c->d_head, inner = (size_t)c->n_heads * d_head;
    float *scores = s->scores + (size_t)thread * (size_t)s->scores_stride;
    float *y = s->attention + (size_t)item * d_head;

    if (job->sources) {
        const int32_t source = job->sources[row];
        const float *q = s->qkv + (size_t)row * inner + (size_t)head * d_head;
        const void *k = es2s_kv_cache_cross(c, source, job->layer, ES2S_KEYS, head);
        const void *v = es2s_kv_cache_cross(c, source, job->layer, ES2S_VALUES, head);
        const size_t n_keys = (size_t)c->source_lens[source];
        attend_to(s, q, k, v, NULL, n_keys, NULL, scores, y);
        if (s->cross_attention)
            memcpy(es2s_decoder_cross_attention(s, row, job->layer, head), scores, n_keys * sizeof *scores);
    } else {
        const float *q = s->qkv + (size_t)row * 3 * inner + (size_t)head * d_head;
        const void *k = es2s_kv_cache_self(c, job->layer, ES2S_KEYS, head);
        const void *v = es2s_kv_cache_self(c, job->layer, ES2S_VALUES, head);
        const size_t n_keys = (size_t)c->lens[row], max_keys = (size_t)c->max_target_len;
        const size_t table = s->model->features.position_bias_per_layer ? (size_t)job->layer : 0;
        const size_t bias_end = (table * (size_t)c->n_heads + (size_t)head + 1) * max_keys;
        const float *bias =
            s->model->features.position_is_table ? NULL : s->position_bias + bias_end - n_keys;
        attend_to(s, q, k, v, es2s_kv_cache_index(c, row), n_keys, bias, scores, y);
    }
}

/* s->attention from the queries in s->qkv. sources: int32[n_rows] of cross-attention, NULL: self-attention.
 */
static void attend(es2s_session *s, int32_t layer, const int32_t *sources, size_t n_rows) {
    const es2s_kv_cache *c = &s->cache;
    size_t n_keys = 0;
    for (size_t r = 0; r < n_rows; r++)
        n_keys += (size_t)(sources ? c->source_lens[sources[r]] : c->lens[r]);
    const bool is_small = 2 * n_keys * (size_t)c->n_heads * (size_t)c->d_head < MIN_PARALLEL_PRODUCTS;
    attention_job job = {s, layer, sources};
    es2s_thread_pool_run(is_small ? NULL : s->worker.pool, run_attention, &job, (int32_t)n_rows * c->n_heads);
}

/* Writes k and v of the new position, s->qkv: float[n_rows, 3 * inner], into the cache. */
static void store_keys_and_values(es2s_session *s, int32_t layer, size_t n_rows) {
    const size_t d_head = (size_t)s->cache.d_head, n_heads = (size_t)s->cache.n_heads,
                 inner = n_heads * d_head;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t head = 0; head < n_heads; head++) {
            const float *k = s->qkv + r * 3 * inner + inner + head * d_head, *v = k + inner;
            es2s_kv_cache_write_self(&s->cache, (int32_t)r, layer, ES2S_KEYS, (int32_t)head, k);
            es2s_kv_cache_write_self(&s->cache, (int32_t)r, layer, ES2S_VALUES, (int32_t)head, v);
        }
}

/* Without a branch inside, so that it is vectorized: nearly all blocks of a row end here. */
static bool any_above(const float *x, size_t n, float limit) {
    int found = 0;
    for (size_t i = 0; i < n; i++)
        found |= x[i] > limit;
    return found != 0;
}

/* Recomputes the head_rescore best logits of a row, of equals the lowest ids, from h itself instead of its
 * int8. h: float[d_model], logits: float[vocab_size], scratch: int8[d_model]. */
static void rescore_head(const es2s_model *m, const float *h, float *logits, int8_t *scratch) {
    struct {
        float logit;
        size_t id;
    } best[ES2S_MAX_HEAD_RESCORE];
    size_t n_best = 0;
    const size_t n = (size_t)m->head_rescore, block = 64;
    const size_t vocab_size = (size_t)m->dims.vocab_size, d_model = (size_t)m->dims.d_model;
    for (size_t first = 0; first < vocab_size; first += block) {
        const size_t end = vocab_size - first < block ? vocab_size : first + block;
        if (n_best == n && !any_above(logits + first, end - first, best[n - 1].logit)) continue;
        for (size_t id = first; id < end; id++) {
            const float logit = logits[id];
            if (n_best == n && !(logit > best[n - 1].logit)) continue;
            size_t at = n_best < n ? n_best++ : n - 1;
            for (; at > 0 && logit > best[at - 1].logit; at--)
                best[at] = best[at - 1];
            best[at].logit = logit;
            best[at].id = id;
        }
    }
    for (size_t i = 0; i < n_best; i++) {
        const size_t id = best[i].id;
        const int8_t *const weights = es2s_matrix_row(&m->lm_head, id, scratch);
        logits[id] = m->kernels.dot_f32_q8(h, weights, d_model) * m->lm_head.scale[id];
        if (m->lm_head.bias) logits[id] += m->lm_head.bias[id];
    }
}

/* ============================================== Step ============================================= */

/* s->x of each row's new position. */
static void embed(es2s_session *s, const int32_t *tokens, size_t n_rows) {
    const es2s_model *m = s->model;
    const size_t d_model = (size_t)m->dims.d_model;
    es2s_look_up(&m->kernels, &m->embedding, m->features.embedding_scale, tokens, n_rows, s->x);
    for (size_t r = 0; m->position_embedding && r < n_rows; r++) {
        const size_t position = (size_t)s->cache.lens[r] - 1;
        m->kernels.add(s->x + r * d_model, m->position_embedding + position * d_model, d_model);
    }
    if (m->embedding_norm.weight)
        es2s_normalize(&m->kernels, &m->features, &m->embedding_norm, s->x, n_rows, s->x);
}

typedef struct rescore_job {
    const es2s_session *s;
    float *logits; /* [n_rows, vocab_size] */
} rescore_job;

static void run_rescore(void *arg, int32_t row, int32_t thread) {
    (void)thread;
    const rescore_job *job = arg;
    const es2s_session *s = job->s;
    const size_t d_model = (size_t)s->model->dims.d_model, first = (size_t)row * d_model;
    rescore_head(s->model, s->x + first, job->logits + (size_t)row * (size_t)s->model->dims.vocab_size,
                 s->worker.q8 + first);
}

/* logits: float[n_rows, vocab_size] of the next token, from the residual stream. */
static void predict(es2s_session *s, size_t n_rows, float *logits) {
    const es2s_model *m = s->model;
    if (m->final_norm.weight) es2s_normalize(&m->kernels, &m->features, &m->final_norm, s->x, n_rows, s->x);
    es2s_linear(&s->worker, &m->lm_head, s->x, n_rows, logits);
    rescore_job job = {s, logits};
    if (m->head_rescore > 0) es2s_thread_pool_run(s->worker.pool, run_rescore, &job, (int32_t)n_rows);
}

void es2s_decoder_begin(es2s_session *s) {
    es2s_kv_cache_empty_rows(&s->cache, 0, s->max_rows);
}

void es2s_decoder_reorder(es2s_session *s, const int32_t *beam_idx, int32_t n_rows) {
    es2s_kv_cache_reorder(&s->cache, beam_idx, n_rows);
}

/* From tokens to logits, in the positions that the cache has just opened. */
static void read_tokens(es2s_session *s, const int32_t *tokens, const int32_t *sources, size_t n,
                        float *logits) {
    const es2s_model *m = s->model;
    const es2s_features *f = &m->features;
    const es2s_worker *worker = &s->worker;
    s->worker.pool = es2s_thread_pool_try_acquire(m->pool);

    embed(s, tokens, n);

    for (int32_t i = 0; i < m->dims.n_layers; i++) {
        const es2s_layer *layer = &m->layers[i];

        const float *h = es2s_block_input(worker, f, &layer->self_attn.norm, s->x, n);
        es2s_linear(worker, &layer->self_attn.qkv, h, n, s->qkv);
        store_keys_and_values(s, i, n);
        attend(s, i, NULL, n);
        es2s_linear(worker, &layer->self_attn.o, s->attention, n, worker->h);
        es2s_add_residual(worker, f, &layer->self_attn.norm, s->x, n);

        h = es2s_block_input(worker, f, &layer->cross_attn_norm, s->x, n);
        es2s_linear(worker, &layer->cross_attn_q, h, n, s->qkv);
        attend(s, i, sources, n);
        es2s_linear(worker, &layer->cross_attn_o, s->attention, n, worker->h);
        es2s_add_residual(worker, f, &layer->cross_attn_norm, s->x, n);

        es2s_feed_forward_rows(worker, f, &layer->ffn, s->x, n);
    }

    if (logits) predict(s, n, logits);

    es2s_thread_pool_release(s->worker.pool);
    s->worker.pool = NULL;
}

void es2s_decoder_step(es2s_session *s, const int32_t *tokens, const int32_t *sources, int32_t n_rows,
                       float *logits) {
    es2s_kv_cache_grow(&s->cache, sources, n_rows);
    read_tokens(s, tokens, sources, (size_t)n_rows, logits);
}

void es2s_decoder_step_ahead(es2s_session *s, const int32_t *tokens, const int32_t *sources, int32_t n_rows,
                             float *logits) {
    es2s_kv_cache_grow_ahead(&s->cache, sources[0], n_rows);
    read_tokens(s, tokens, sources, (size_t)n_rows, logits);
}
