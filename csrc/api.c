/* The public functions. Every argument is checked here, once; the modules behind rely on it. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "decoder.h"
#include "edge_s2s.h"
#include "error.h"
#include "model.h"
#include "prompt_lookup.h"
#include "search.h"

enum {
    VERSION = 0x000100,
    MAX_STRUCT_SIZE =
        4096, /* above: not a struct of any version, but memory that no _init function has seen */
    MAX_THREADS = 64,
    MAX_BATCH = 1024,
    MAX_BEAMS = 256
};

static es2s_status check_pointer(const char *name, const void *pointer) {
    return pointer ? ES2S_OK : es2s_fail(ES2S_INVALID_ARGUMENT, "%s: expected a pointer, found NULL", name);
}

static es2s_status check_session(const es2s_session *session) {
    ES2S_TRY(check_pointer("session", session));
    if (session->is_generating)
        return es2s_fail(ES2S_STATE, "session: expected it to be idle, found a call from its callback");
    return ES2S_OK;
}

static es2s_status check_range(const char *name, int64_t value, int64_t min, int64_t max) {
    if (value >= min && value <= max) return ES2S_OK;
    return es2s_fail(ES2S_INVALID_ARGUMENT, "%s: expected %lld..%lld, found %lld", name, (long long)min,
                     (long long)max, (long long)value);
}

/* 1..max, where a session created for more would take more. */
static es2s_status check_capacity(const char *name, int64_t value, int64_t max) {
    if (value <= max) return check_range(name, value, 1, max);
    return es2s_fail(ES2S_CAPACITY, "%s: expected at most %lld, what the session was created for, found %lld",
                     name, (long long)max, (long long)value);
}

static es2s_status check_token(const es2s_model *model, const char *name, int32_t token, int32_t min) {
    return check_range(name, token, min, model->dims.vocab_size - 1);
}

/* int32[n], each in 0..vocab_size-1 */
static es2s_status check_ids(const char *name, const int32_t *ids, size_t n, int32_t vocab_size) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return es2s_fail(ES2S_INVALID_ARGUMENT, "%s[%zu]: expected 0..%d, found %d", name, i,
                             vocab_size - 1, ids[i]);
    return ES2S_OK;
}

static es2s_status check_tokens(const es2s_model *model, const char *name, const int32_t *tokens, size_t n) {
    return check_ids(name, tokens, n, model->dims.vocab_size);
}

/* Replaces the defaults in `complete` by what the caller's version of the struct has. */
static es2s_status read_params(const char *type, const void *params, void *complete, size_t size) {
    uint32_t struct_size;
    memcpy(&struct_size, params, sizeof struct_size);
    if (struct_size < sizeof struct_size || struct_size > MAX_STRUCT_SIZE)
        return es2s_fail(ES2S_INVALID_ARGUMENT, "struct_size: expected %zu, found %u; call %s_init first",
                         size, struct_size, type);
    memcpy(complete, params, struct_size < size ? struct_size : size);
    return ES2S_OK;
}

/* ============================================ Library ============================================ */

unsigned es2s_version(void) {
    return VERSION;
}

const char *es2s_supported_isas(void) {
    return es2s_kernels_supported();
}

/* ============================================= Model ============================================= */

void es2s_model_params_init(es2s_model_params *params) {
    if (!params) return;
    *params = (es2s_model_params){.struct_size = sizeof *params, .n_threads = 1, .verify_data = 1};
}

static es2s_status read_model_params(const es2s_model_params *params, es2s_model_params *complete) {
    es2s_model_params_init(complete);
    if (params) ES2S_TRY(read_params("es2s_model_params", params, complete, sizeof *complete));
    return check_range("n_threads", complete->n_threads, 1, MAX_THREADS);
}

/* What the params name takes the place of what the bundle has. */
static void add_given_files(const es2s_model_params *params, es2s_bundle_file *files) {
    const bool is_mapped = params->is_mapped != 0;
    if (params->encoder) files->encoder = (es2s_span){params->encoder, params->encoder_size, is_mapped};
    if (params->tokenizer)
        files->tokenizer = (es2s_span){params->tokenizer, params->tokenizer_size, is_mapped};
}

es2s_status es2s_model_load(const char *path, const es2s_model_params *params, es2s_model **model_out) {
    ES2S_TRY(check_pointer("model_out", model_out));
    *model_out = NULL;
    ES2S_TRY(check_pointer("path", path));
    es2s_model_params complete;
    ES2S_TRY(read_model_params(params, &complete));

    es2s_bundle_file files;
    ES2S_TRY(es2s_bundle_file_open(path, &files));
    add_given_files(&complete, &files);
    es2s_status status =
        es2s_check_memory("model", (uint64_t)files.decoder.size + files.encoder.size + files.tokenizer.size);
    if (status == ES2S_OK) status = es2s_model_create(&files, &complete, model_out);
    if (status == ES2S_OK)
        (*model_out)->files = files;
    else
        es2s_bundle_file_close(&files);
    return status;
}

es2s_status es2s_model_load_memory(const void *data, size_t size, const es2s_model_params *params,
                                   es2s_model **model_out) {
    ES2S_TRY(check_pointer("model_out", model_out));
    *model_out = NULL;
    ES2S_TRY(check_pointer("data", data));
    es2s_model_params complete;
    ES2S_TRY(read_model_params(params, &complete));
    es2s_bundle_file files;
    ES2S_TRY(es2s_bundle_file_read(data, size, &files));
    files.decoder.is_mapped = files.encoder.is_mapped = complete.is_mapped != 0;
    add_given_files(&complete, &files);
    return es2s_model_create(&files, &complete, model_out);
}

es2s_status es2s_model_get_dims(const es2s_model *model, es2s_model_dims *dims_out) {
    ES2S_TRY(check_pointer("model", model));
    ES2S_TRY(check_pointer("dims_out", dims_out));
    const uint32_t struct_size = dims_out->struct_size;
    if (struct_size < sizeof struct_size || struct_size > MAX_STRUCT_SIZE)
        return es2s_fail(ES2S_INVALID_ARGUMENT, "dims_out->struct_size: expected %zu, found %u",
                         sizeof *dims_out, struct_size);
    memcpy(dims_out, &model->dims, struct_size < sizeof *dims_out ? struct_size : sizeof *dims_out);
    dims_out->struct_size = struct_size;
    return ES2S_OK;
}

const char *es2s_model_isa(const es2s_model *model) {
    return model ? model->kernels.isa : "";
}

es2s_status es2s_model_embed(const es2s_model *model, const int32_t *token_ids, size_t n, float *embeds_out) {
    ES2S_TRY(check_pointer("model", model));
    if (n == 0) return ES2S_OK;
    ES2S_TRY(check_pointer("token_ids", token_ids));
    ES2S_TRY(check_pointer("embeds_out", embeds_out));
    ES2S_TRY(check_ids("token_ids", token_ids, n, model->dims.source_vocab_size));
    es2s_look_up(&model->kernels, &model->encoder_embedding, 1, token_ids, n, embeds_out);
    return ES2S_OK;
}

static es2s_status check_tokenizer(const es2s_model *model) {
    ES2S_TRY(check_pointer("model", model));
    if (model->tokenizer) return ES2S_OK;
    return es2s_fail(ES2S_STATE, "tokenizer: expected a model with one, found none in its params");
}

es2s_status es2s_model_tokenize(const es2s_model *model, const char *text, size_t n_bytes, int32_t *ids_out,
                                size_t capacity, size_t *n_out) {
    ES2S_TRY(check_tokenizer(model));
    if (n_bytes > 0) ES2S_TRY(check_pointer("text", text));
    if (capacity > 0) ES2S_TRY(check_pointer("ids_out", ids_out));
    ES2S_TRY(check_pointer("n_out", n_out));
    return es2s_tokenizer_encode(model->tokenizer, text, n_bytes, ids_out, capacity, n_out);
}

es2s_status es2s_model_detokenize(const es2s_model *model, const int32_t *ids, size_t n, char *text_out,
                                  size_t capacity, size_t *n_bytes_out) {
    ES2S_TRY(check_tokenizer(model));
    if (n > 0) ES2S_TRY(check_pointer("ids", ids));
    if (capacity > 0) ES2S_TRY(check_pointer("text_out", text_out));
    ES2S_TRY(check_pointer("n_bytes_out", n_bytes_out));
    return es2s_tokenizer_decode(model->tokenizer, ids, n, text_out, capacity, n_bytes_out);
}

/* ============================================ Session ============================================ */

void es2s_session_params_init(es2s_session_params *params) {
    if (!params) return;
    *params = (es2s_session_params){.struct_size = sizeof *params,
                                    .max_batch = 1,
                                    .max_beams = 1,
                                    .max_source_len = 512,
                                    .max_target_len = 256};
}

es2s_status es2s_session_create(const es2s_model *model, const es2s_session_params *params,
                                es2s_session **session_out) {
    ES2S_TRY(check_pointer("session_out", session_out));
    *session_out = NULL;
    ES2S_TRY(check_pointer("model", model));
    es2s_session_params p;
    es2s_session_params_init(&p);
    if (params) ES2S_TRY(read_params("es2s_session_params", params, &p, sizeof p));
    ES2S_TRY(check_range("max_batch", p.max_batch, 1, MAX_BATCH));
    ES2S_TRY(check_range("max_beams", p.max_beams, 1, MAX_BEAMS));
    ES2S_TRY(check_range("max_source_len", p.max_source_len, 1, INT32_MAX));
    ES2S_TRY(check_range("max_target_len", p.max_target_len, 1, INT32_MAX));
    /* The defaults, too, may exceed a small model: nothing is gained by room that no call can use. */
    if (p.max_source_len > model->dims.max_source_len) p.max_source_len = model->dims.max_source_len;
    if (p.max_target_len > model->dims.max_target_len) p.max_target_len = model->dims.max_target_len;
    ES2S_TRY(check_range("max_draft_tokens", p.max_draft_tokens, 0, ES2S_MAX_DRAFT_TOKENS));
    ES2S_TRY(check_range("max_batch * max_beams * max_target_len",
                         (int64_t)p.max_batch * p.max_beams * p.max_target_len, 1, INT32_MAX));
    return es2s_decoder_create(model, &p,
                               es2s_search_scratch_bytes(model->dims.vocab_size, p.max_batch, p.max_beams,
                                                         p.max_draft_tokens, p.max_source_len,
                                                         p.max_target_len),
                               session_out);
}

size_t es2s_session_memory(const es2s_session *session) {
    return session ? session->memory : 0;
}

/* Before a row gets another source. */
static void empty_row(es2s_session *s, int32_t row) {
    s->n_stepped_rows = 0;
    s->n_source_ids[row] = 0;
    es2s_kv_cache_empty_rows(&s->cache, row * s->rows_per_source, s->rows_per_source);
}

es2s_status es2s_session_set_source(es2s_session *s, int32_t row, const float *cross_kv, int32_t source_len) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("cross_kv", cross_kv));
    ES2S_TRY(check_capacity("row + 1", (int64_t)row + 1, s->max_batch));
    ES2S_TRY(check_capacity("source_len", source_len, s->max_source_len));
    empty_row(s, row);
    es2s_kv_cache_set_source(&s->cache, row, cross_kv, source_len);
    return ES2S_OK;
}

es2s_status es2s_session_encode(es2s_session *s, int32_t row, const int32_t *token_ids, int32_t n,
                                int64_t deadline_ms, const volatile int32_t *cancel, float *mean_hidden_out) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("token_ids", token_ids));
    if (!s->model->encoder)
        return es2s_fail(ES2S_STATE, "encode: expected a model with an encoder, found none in its params");
    ES2S_TRY(check_capacity("row + 1", (int64_t)row + 1, s->max_batch));
    ES2S_TRY(check_capacity("n", n, s->max_source_len));
    ES2S_TRY(check_ids("token_ids", token_ids, (size_t)n, s->model->dims.source_vocab_size));
    const bool waits = deadline_ms >= 0 && deadline_ms < INT64_MAX / 2000000;
    const es2s_patience patience = {waits ? es2s_clock_ns() + deadline_ms * 1000000 : INT64_MAX, cancel};
    empty_row(s, row);
    return es2s_encoder_run(&s->encoder_scratch, s->model, token_ids, n, &patience, &s->cache, row,
                            mean_hidden_out);
}

es2s_status es2s_session_get_source(const es2s_session *s, int32_t row, float *cross_kv_out) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("cross_kv_out", cross_kv_out));
    ES2S_TRY(check_range("row", row, 0, s->max_batch - 1));
    if (s->cache.source_lens[row] == 0)
        return es2s_fail(ES2S_STATE, "row %d: expected a source, found none", row);
    es2s_kv_cache_get_source(&s->cache, row, cross_kv_out);
    return ES2S_OK;
}

es2s_status es2s_session_set_source_ids(es2s_session *s, int32_t row, const int32_t *source_ids,
                                        int32_t source_len) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("source_ids", source_ids));
    ES2S_TRY(check_range("row", row, 0, s->max_batch - 1));
    const int32_t expected = s->cache.source_lens[row];
    if (expected == 0)
        return es2s_fail(ES2S_STATE, "row %d: expected a source, call es2s_session_set_source first", row);
    ES2S_TRY(check_range("source_len", source_len, expected, expected));
    ES2S_TRY(check_tokens(s->model, "source_ids", source_ids, (size_t)source_len));
    memcpy(s->source_ids + (size_t)row * (size_t)s->max_source_len, source_ids,
           (size_t)source_len * sizeof *source_ids);
    s->n_source_ids[row] = source_len;
    return ES2S_OK;
}

void es2s_session_clear(es2s_session *session) {
    if (!session || session->is_generating) return;
    session->n_stepped_rows = 0;
    es2s_kv_cache_clear(&session->cache);
}

void es2s_session_free(es2s_session *session) {
    es2s_free(session);
}

/* ============================================ Decoding =========================================== */

/* Sets n_sources. The sources must lie in rows 0..n_sources-1. */
static es2s_status count_sources(es2s_session *s) {
    const int32_t *lens = s->cache.source_lens;
    int32_t n = 0;
    while (n < s->max_batch && lens[n] > 0)
        n++;
    for (int32_t row = n; row < s->max_batch; row++)
        if (lens[row] > 0)
            return es2s_fail(ES2S_STATE,
                             "sources: expected rows without a gap, found row %d set but not row %d", row, n);
    if (n == 0)
        return es2s_fail(ES2S_STATE, "sources: expected at least one, call es2s_session_set_source first");
    s->n_sources = n;
    return ES2S_OK;
}

static bool is_decoding(const es2s_session *s) {
    for (int32_t row = 0; row < s->max_rows; row++)
        if (s->cache.lens[row] > 0) return true;
    return false;
}

/* n_rows is n_sources * k with k <= max_beams; *k_out = k. */
static es2s_status check_rows(const es2s_session *s, int32_t n_rows, int32_t *k_out) {
    if (n_rows < 1 || n_rows % s->n_sources != 0)
        return es2s_fail(ES2S_INVALID_ARGUMENT, "n_rows: expected a multiple of the %d sources set, found %d",
                         s->n_sources, n_rows);
    ES2S_TRY(check_capacity("n_rows / sources", n_rows / s->n_sources, s->max_beams));
    *k_out = n_rows / s->n_sources;
    return ES2S_OK;
}

es2s_status es2s_session_step(es2s_session *s, const int32_t *tokens, int32_t n_rows, float *logits_out) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("tokens", tokens));
    ES2S_TRY(check_pointer("logits_out", logits_out));
    ES2S_TRY(count_sources(s));
    int32_t k = 1;
    ES2S_TRY(check_rows(s, n_rows, &k));
    ES2S_TRY(check_tokens(s->model, "tokens", tokens, (size_t)n_rows));
    if (is_decoding(s) && k != s->rows_per_source)
        return es2s_fail(
            ES2S_STATE,
            "n_rows: expected %d as before, found %d; es2s_session_reorder_cache changes their number",
            s->n_sources * s->rows_per_source, n_rows);
    for (int32_t row = 0; row < n_rows; row++) {
        ES2S_TRY(check_capacity("position + 1", s->cache.lens[row] + 1, s->max_target_len));
        s->row_sources[row] = row / k;
    }
    s->rows_per_source = k;
    es2s_decoder_step(s, tokens, s->row_sources, n_rows, logits_out);
    s->n_stepped_rows = n_rows;
    return ES2S_OK;
}

es2s_status es2s_session_reorder_cache(es2s_session *s, const int32_t *beam_idx, int32_t n_rows) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("beam_idx", beam_idx));
    ES2S_TRY(count_sources(s));
    int32_t k = 1;
    ES2S_TRY(check_rows(s, n_rows, &k));
    if (!is_decoding(s)) return es2s_fail(ES2S_STATE, "reorder: expected a step before, found empty caches");
    for (int32_t row = 0; row < n_rows; row++) {
        const int32_t first = row / k * s->rows_per_source, last = first + s->rows_per_source - 1;
        if (beam_idx[row] < first || beam_idx[row] > last)
            return es2s_fail(ES2S_INVALID_ARGUMENT,
                             "beam_idx[%d]: expected %d..%d, the rows of its source, found %d", row, first,
                             last, beam_idx[row]);
    }
    s->rows_per_source = k;
    s->n_stepped_rows = 0;
    es2s_decoder_reorder(s, beam_idx, n_rows);
    return ES2S_OK;
}

es2s_status es2s_session_cross_attention(const es2s_session *s, int32_t row, float *weights_out) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("weights_out", weights_out));
    if (!s->cross_attention)
        return es2s_fail(ES2S_STATE, "keep_cross_attention: expected non-zero for this session, found 0");
    if (s->n_stepped_rows == 0)
        return es2s_fail(ES2S_STATE, "cross_attention: expected es2s_session_step right before");
    ES2S_TRY(check_range("row", row, 0, s->n_stepped_rows - 1));
    const es2s_kv_cache *const c = &s->cache;
    const int32_t source_len = c->source_lens[row / s->rows_per_source];
    for (int32_t layer = 0; layer < c->n_layers; layer++)
        for (int32_t head = 0; head < c->n_heads; head++) {
            memcpy(weights_out, es2s_decoder_cross_attention(s, row, layer, head),
                   (size_t)source_len * sizeof *weights_out);
            weights_out += source_len;
        }
    return ES2S_OK;
}

/* ============================================= Search ============================================ */

void es2s_generate_params_init(const es2s_model *model, es2s_generate_params *params) {
    if (!params) return;
    if (model) {
        *params = model->generation;
        return;
    }
    *params = (es2s_generate_params){.struct_size = sizeof *params,
                                     .num_beams = 1,
                                     .num_return_sequences = 1,
                                     .max_new_tokens = 128,
                                     .early_stopping = ES2S_EARLY_STOPPING_FALSE,
                                     .repetition_penalty = 1,
                                     .encoder_repetition_penalty = 1,
                                     .exponential_decay_factor = 1,
                                     .length_penalty = 1,
                                     .decoder_start_token_id = -1,
                                     .eos_token_id = -1,
                                     .pad_token_id = -1,
                                     .forced_bos_token_id = -1,
                                     .forced_eos_token_id = -1,
                                     .deadline_ms = -1,
                                     .top_k = 50,
                                     .temperature = 1,
                                     .top_p = 1,
                                     .typical_p = 1,
                                     .num_beam_groups = 1};
}

/* Sequences of lens, one after the other in ids, each of at least one token. */
static es2s_status check_sequences(const es2s_model *model, const char *ids_name, const int32_t *ids,
                                   const char *lens_name, const int32_t *lens, int32_t n) {
    if (n == 0) return ES2S_OK;
    ES2S_TRY(check_pointer(ids_name, ids));
    ES2S_TRY(check_pointer(lens_name, lens));
    for (int32_t i = 0; i < n; i++) {
        ES2S_TRY(check_range(lens_name, lens[i], 1, INT32_MAX));
        ES2S_TRY(check_tokens(model, ids_name, ids, (size_t)lens[i]));
        ids += lens[i];
    }
    return ES2S_OK;
}

/* A factor of scores. */
static es2s_status check_factor(const char *name, double factor) {
    if (isfinite(factor) && factor > 0) return ES2S_OK;
    return es2s_fail(ES2S_INVALID_ARGUMENT, "%s: expected a finite number > 0, found %g", name, factor);
}

static es2s_status check_rules(const es2s_model *model, const es2s_generate_params *p) {
    ES2S_TRY(check_range("min_new_tokens", p->min_new_tokens, 0, INT32_MAX));
    ES2S_TRY(check_range("no_repeat_ngram_size", p->no_repeat_ngram_size, 0, INT32_MAX));
    ES2S_TRY(check_range("encoder_no_repeat_ngram_size", p->encoder_no_repeat_ngram_size, 0, INT32_MAX));
    ES2S_TRY(check_range("exponential_decay_start", p->exponential_decay_start, 0, INT32_MAX));
    ES2S_TRY(check_factor("repetition_penalty", (double)p->repetition_penalty));
    ES2S_TRY(check_factor("encoder_repetition_penalty", p->encoder_repetition_penalty));
    ES2S_TRY(check_factor("exponential_decay_factor", p->exponential_decay_factor));
    ES2S_TRY(check_token(model, "decoder_start_token_id", p->decoder_start_token_id, 0));
    ES2S_TRY(check_token(model, "eos_token_id", p->eos_token_id, -1));
    ES2S_TRY(check_token(model, "pad_token_id", p->pad_token_id, -1));
    ES2S_TRY(check_token(model, "forced_bos_token_id", p->forced_bos_token_id, -1));
    ES2S_TRY(check_token(model, "forced_eos_token_id", p->forced_eos_token_id, -1));

    ES2S_TRY(check_range("n_suppress_tokens", p->n_suppress_tokens, 0, INT32_MAX));
    if (p->n_suppress_tokens > 0) ES2S_TRY(check_pointer("suppress_tokens", p->suppress_tokens));
    ES2S_TRY(check_tokens(model, "suppress_tokens", p->suppress_tokens, (size_t)p->n_suppress_tokens));

    ES2S_TRY(check_range("n_bad_words", p->n_bad_words, 0, INT32_MAX));
    ES2S_TRY(check_sequences(model, "bad_words_ids", p->bad_words_ids, "bad_words_lens", p->bad_words_lens,
                             p->n_bad_words));

    ES2S_TRY(check_range("n_begin_suppress_tokens", p->n_begin_suppress_tokens, 0, INT32_MAX));
    if (p->n_begin_suppress_tokens > 0)
        ES2S_TRY(check_pointer("begin_suppress_tokens", p->begin_suppress_tokens));
    ES2S_TRY(check_tokens(model, "begin_suppress_tokens", p->begin_suppress_tokens,
                          (size_t)p->n_begin_suppress_tokens));

    ES2S_TRY(check_range("n_sequence_bias", p->n_sequence_bias, 0, INT32_MAX));
    ES2S_TRY(check_sequences(model, "sequence_bias_ids", p->sequence_bias_ids, "sequence_bias_lens",
                             p->sequence_bias_lens, p->n_sequence_bias));
    if (p->n_sequence_bias > 0) ES2S_TRY(check_pointer("sequence_bias", p->sequence_bias));
    for (int32_t i = 0; i < p->n_sequence_bias; i++)
        if (!isfinite(p->sequence_bias[i]))
            return es2s_fail(ES2S_INVALID_ARGUMENT, "sequence_bias[%d]: expected a finite number, found %g",
                             i, (double)p->sequence_bias[i]);
    return ES2S_OK;
}

/* The rules encoder_* read source ids. */
static es2s_status check_source_ids(const es2s_session *s, const es2s_generate_params *p) {
    if (p->encoder_repetition_penalty == 1 && p->encoder_no_repeat_ngram_size == 0) return ES2S_OK;
    for (int32_t row = 0; row < s->n_sources; row++)
        if (s->n_source_ids[row] == 0)
            return es2s_fail(ES2S_STATE,
                             "encoder_*: expected the ids of source %d, call es2s_session_set_source_ids",
                             row);
    return ES2S_OK;
}

/* Prefixes of the sources set, one after the other in prefix_ids. */
static es2s_status check_prefixes(const es2s_session *s, const es2s_generate_params *p) {
    if (!p->prefix_lens) return ES2S_OK;
    const int32_t *ids = p->prefix_ids;
    for (int32_t row = 0; row < s->n_sources; row++) {
        const int32_t len = p->prefix_lens[row];
        ES2S_TRY(check_range("prefix_lens", len, 0, INT32_MAX));
        if (len == 0) continue;
        ES2S_TRY(check_pointer("prefix_ids", ids));
        ES2S_TRY(check_capacity("prefix_lens + max_new_tokens", (int64_t)len + p->max_new_tokens,
                                s->max_target_len));
        ES2S_TRY(check_tokens(s->model, "prefix_ids", ids, (size_t)len));
        ids += len;
    }
    return ES2S_OK;
}

/* Bounds of a number that may not be NaN. */
static es2s_status check_number(const char *name, double value, double min, double max) {
    if (value >= min && value <= max) return ES2S_OK;
    return es2s_fail(ES2S_INVALID_ARGUMENT, "%s: expected a number in %g..%g, found %g", name, min, max,
                     value);
}

/* How many hypotheses of a source are followed, and how. */
static es2s_status check_search(const es2s_session *s, const es2s_generate_params *p) {
    ES2S_TRY(check_capacity("num_beams", p->num_beams, s->max_beams));
    if (p->do_sample && p->num_beams == 1)
        ES2S_TRY(check_capacity("num_return_sequences", p->num_return_sequences, s->max_beams));
    else
        ES2S_TRY(check_range("num_return_sequences", p->num_return_sequences, 1, p->num_beams));
    ES2S_TRY(check_range("prompt_lookup_num_tokens", p->prompt_lookup_num_tokens, 0, INT32_MAX));
    if (p->prompt_lookup_num_tokens > 0)
        ES2S_TRY(
            check_capacity("prompt_lookup_num_tokens", p->prompt_lookup_num_tokens, s->max_draft_tokens));
    ES2S_TRY(check_range("top_k", p->top_k, 0, INT32_MAX));
    ES2S_TRY(check_number("temperature", p->temperature, 1e-3, 1e3));
    ES2S_TRY(check_number("top_p", p->top_p, 0, 1));
    ES2S_TRY(check_number("min_p", p->min_p, 0, 1));
    ES2S_TRY(check_number("typical_p", p->typical_p, 1e-6, 1));

    ES2S_TRY(check_range("num_beam_groups", p->num_beam_groups, 1, p->num_beams));
    if (p->num_beam_groups == 1) return ES2S_OK;
    if (p->num_beams % p->num_beam_groups != 0)
        return es2s_fail(ES2S_INVALID_ARGUMENT,
                         "num_beam_groups: expected a divisor of num_beams, %d, found %d", p->num_beams,
                         p->num_beam_groups);
    if (p->do_sample)
        return es2s_fail(ES2S_INVALID_ARGUMENT, "num_beam_groups: expected 1 with do_sample, found %d",
                         p->num_beam_groups);
    if (!isfinite(p->diversity_penalty) || p->diversity_penalty <= 0)
        return es2s_fail(ES2S_INVALID_ARGUMENT,
                         "diversity_penalty: expected a finite number > 0 with %d num_beam_groups, found %g",
                         p->num_beam_groups, (double)p->diversity_penalty);
    return ES2S_OK;
}

es2s_status es2s_session_generate(es2s_session *s, const es2s_generate_params *params, int32_t *tokens_out,
                                  int32_t *lens_out, float *scores_out, float *logprobs_out,
                                  int32_t *finish_reasons_out) {
    ES2S_TRY(check_session(s));
    ES2S_TRY(check_pointer("params", params));
    ES2S_TRY(check_pointer("tokens_out", tokens_out));
    ES2S_TRY(check_pointer("lens_out", lens_out));
    ES2S_TRY(check_pointer("scores_out", scores_out));
    es2s_generate_params p;
    es2s_generate_params_init(s->model, &p);
    ES2S_TRY(read_params("es2s_generate_params", params, &p, sizeof p));
    ES2S_TRY(check_search(s, &p));
    ES2S_TRY(check_capacity("max_new_tokens", p.max_new_tokens, s->max_target_len));
    ES2S_TRY(check_range("early_stopping", p.early_stopping, ES2S_EARLY_STOPPING_FALSE,
                         ES2S_EARLY_STOPPING_NEVER));
    if (!isfinite(p.length_penalty))
        return es2s_fail(ES2S_INVALID_ARGUMENT, "length_penalty: expected a finite number, found %g",
                         p.length_penalty);
    ES2S_TRY(check_rules(s->model, &p));
    ES2S_TRY(count_sources(s));
    ES2S_TRY(check_source_ids(s, &p));
    ES2S_TRY(check_prefixes(s, &p));

    s->n_stepped_rows = 0;
    s->is_generating = true;
    const es2s_status status =
        es2s_search_run(s, &p, tokens_out, lens_out, scores_out, logprobs_out, finish_reasons_out);
    s->is_generating = false;
    es2s_decoder_begin(s);
    return status;
}

int64_t es2s_session_n_steps(const es2s_session *s) {
    return s ? s->n_steps : 0;
}

/* ============================================ Texts ============================================= */

typedef struct summary_job {
    const es2s_model *model;
    const es2s_generate_params *params; /* complete; one sequence */
    int32_t *source;                    /* [max_source_len] */
    int32_t *tokens;                    /* [max_new_tokens] */
    int32_t n_source, n_tokens;
} summary_job;

static es2s_status read_source(summary_job *job, const char *text, size_t n_bytes) {
    const size_t limit = (size_t)job->model->dims.max_source_len;
    size_t n;
    ES2S_TRY(es2s_model_tokenize(job->model, text, n_bytes, job->source, limit, &n));
    if (n > limit) return es2s_fail(ES2S_CAPACITY, "text: expected at most %zu tokens, found %zu", limit, n);
    job->n_source = (int32_t)n;
    return ES2S_OK;
}

static es2s_status run_session(summary_job *job, es2s_session *session) {
    const int64_t start = es2s_clock_ns();
    es2s_generate_params p = *job->params;
    float score;
    ES2S_TRY(es2s_session_encode(session, 0, job->source, job->n_source, p.deadline_ms, p.cancel, NULL));
    const es2s_model_dims *dims = &job->model->dims;
    const bool may_copy = p.prompt_lookup_num_tokens > 0 && dims->source_vocab_size <= dims->vocab_size;
    if (may_copy || p.encoder_repetition_penalty != 1 || p.encoder_no_repeat_ngram_size > 0)
        ES2S_TRY(es2s_session_set_source_ids(session, 0, job->source, job->n_source));
    if (p.deadline_ms >= 0) {
        const int64_t left = p.deadline_ms - (es2s_clock_ns() - start) / 1000000;
        p.deadline_ms = left > 0 ? left : 0;
    }
    return es2s_session_generate(session, &p, job->tokens, &job->n_tokens, &score, NULL, NULL);
}

es2s_status es2s_summarize(const es2s_model *model, const char *text, size_t n_bytes,
                           const es2s_generate_params *params, char *summary_out, size_t capacity,
                           size_t *n_bytes_out) {
    es2s_generate_params p;
    ES2S_TRY(check_tokenizer(model));
    if (!model->encoder) return es2s_fail(ES2S_STATE, "summarize: expected a model with an encoder");
    es2s_generate_params_init(model, &p);
    if (params) ES2S_TRY(read_params("es2s_generate_params", params, &p, sizeof p));
    p.num_return_sequences = 1;
    ES2S_TRY(check_range("num_beams", p.num_beams, 1, MAX_BEAMS));
    ES2S_TRY(check_range("max_new_tokens", p.max_new_tokens, 1, model->dims.max_target_len));
    const size_t max_source_len = (size_t)model->dims.max_source_len;
    int32_t *ids = es2s_alloc((max_source_len + (size_t)p.max_new_tokens) * sizeof *ids);
    if (!ids) return es2s_fail(ES2S_OUT_OF_MEMORY, "summarize: no memory for token ids");
    summary_job job = {.model = model, .params = &p, .source = ids, .tokens = ids + max_source_len};
    es2s_session *session = NULL;
    es2s_status status = read_source(&job, text, n_bytes);
    if (status == ES2S_OK) {
        es2s_session_params limits;
        es2s_session_params_init(&limits);
        limits.max_beams = p.num_beams;
        limits.max_draft_tokens = p.prompt_lookup_num_tokens;
        limits.max_source_len = job.n_source > 0 ? job.n_source : 1;
        limits.max_target_len = p.prefix_lens ? model->dims.max_target_len : p.max_new_tokens;
        status = es2s_session_create(model, &limits, &session);
    }
    if (status == ES2S_OK) status = run_session(&job, session);
    if (status == ES2S_OK)
        status = es2s_model_detokenize(model, job.tokens, (size_t)job.n_tokens, summary_out, capacity,
                                       n_bytes_out);
    es2s_session_free(session);
    es2s_free(ids);
    return status;
}
