/*
 * Loading: the keys, then the exact set of tensors that they call for, of the decoder and, if there is one,
 * of the encoder. loader.h says how.
 */
#include "model.h"

#include <assert.h>
#include <float.h>
#include <stdio.h>

#include "arena.h"
#include "error.h"
#include "manifest.h"

/* Bytes of weights that are copied into the order of the kernels although the original stays in memory. */
enum { MAX_SECOND_COPY = 8 << 20 };

/* What decoder.weights says beyond features and sizes. */
typedef struct contents {
    bool has_final_logits_bias, is_lm_head_tied;
    int32_t source_vocab_size; /* 0: the encoder reads the decoder's embedding */
    const char *prefix;        /* of every text, for the tokenizer */
    size_t prefix_len;
} contents;

static void read_generation_keys(es2s_loader *l, es2s_model *m) {
    const es2s_model_dims *d = &m->dims;
    const int32_t last_id = d->vocab_size - 1;
    es2s_generate_params *g = &m->generation;
    es2s_generate_params_init(NULL, g); // what the file does not name
    g->num_beams = es2s_load_int(l, "generation.num_beams", 1, 64);
    g->num_return_sequences = es2s_load_int(l, "generation.num_return_sequences", 1, g->num_beams);
    g->max_new_tokens = es2s_load_int(l, "generation.max_new_tokens", 1, d->max_target_len);
    g->min_new_tokens = es2s_load_int(l, "generation.min_new_tokens", 0, g->max_new_tokens);
    g->early_stopping = es2s_load_int(l, "generation.early_stopping", 0, 2);
    g->no_repeat_ngram_size = es2s_load_int(l, "generation.no_repeat_ngram_size", 0, 65536);
    g->repetition_penalty = (float)es2s_load_float(l, "generation.repetition_penalty", 1e-3, 1e3);
    g->length_penalty = es2s_load_float(l, "generation.length_penalty", -100, 100);
    g->encoder_repetition_penalty = g->exponential_decay_factor = 1; /* a file has no key for these */
    g->forced_bos_token_id = es2s_load_int(l, "generation.forced_bos_token_id", -1, last_id);
    g->forced_eos_token_id = es2s_load_int(l, "generation.forced_eos_token_id", -1, last_id);
    g->decoder_start_token_id = d->decoder_start_token_id;
    g->eos_token_id = d->eos_token_id;
    g->pad_token_id = d->pad_token_id;
}

static contents read_keys(es2s_loader *l, es2s_model *m) {
    es2s_model_dims *d = &m->dims;
    contents c = {0};
    d->struct_size = sizeof *d;
    d->vocab_size = es2s_load_int(l, "vocab_size", 1, 1 << 21);
    const es2s_features f = m->features = es2s_load_features(l);
    d->d_model = f.d_model;
    d->d_ff = f.d_ff;
    d->n_layers = f.n_layers;
    d->n_heads = f.n_heads;
    d->d_head = f.d_head;
    d->max_source_len = es2s_load_int(l, "max_source_len", 1, 65536);
    d->max_target_len = es2s_load_int(l, "max_target_len", 1, 65536);
    const int32_t last_id = d->vocab_size - 1;
    d->decoder_start_token_id = es2s_load_int(l, "decoder_start_token_id", 0, last_id);
    d->eos_token_id = es2s_load_int(l, "eos_token_id", -1, last_id);
    d->pad_token_id = es2s_load_int(l, "pad_token_id", -1, last_id);
    c.has_final_logits_bias = es2s_load_int(l, "final_logits_bias", 0, 1);
    c.is_lm_head_tied = es2s_load_int(l, "tied_lm_head", 0, 1);
    c.source_vocab_size = es2s_load_optional_int(l, "source_vocab_size", 0, 1 << 21, 0);
    m->kv_cache_is_f16 = es2s_load_kv_cache_is_f16(l);
    d->source_vocab_size = c.source_vocab_size > 0 ? c.source_vocab_size : d->vocab_size;
    const int32_t max_rescore = d->vocab_size < ES2S_MAX_HEAD_RESCORE ? d->vocab_size : ES2S_MAX_HEAD_RESCORE;
    m->head_rescore = es2s_load_int(l, "head_rescore", 0, l->is_int8 ? max_rescore : 0);
    read_generation_keys(l, m);
    if (l->status == ES2S_OK)
        l->status = es2s_weights_file_get_string(&l->file, "prefix", &c.prefix, &c.prefix_len);
    return c;
}

static void read_layer(es2s_loader *l, const es2s_features *f, es2s_layer *layer) {
    const int32_t inner = f->n_heads * f->d_head;
    layer->self_attn = es2s_load_self_attention(l, f);
    layer->cross_attn_norm = es2s_load_norm(l, "cross_attn_norm", f->d_model);
    layer->cross_attn_q = es2s_load_linear(l, "cross_attn.q", inner, f->d_model);
    layer->cross_attn_o = es2s_load_linear(l, "cross_attn.o", f->d_model, inner);
    layer->ffn = es2s_load_feed_forward(l, f);
    if (f->position_bias_per_layer) layer->position_bias = es2s_load_position_bias(l, f->n_heads);
}

/* Takes the decoder's arrays from the arena; fills and checks them if it has a block. */
static void read_tensors(es2s_loader *l, const contents *c, es2s_model *m) {
    const es2s_model_dims *d = &m->dims;
    const es2s_features *f = &m->features;
    es2s_layer *layers = es2s_arena_take(l->arena, (uint64_t)d->n_layers, sizeof *layers);
    m->layers = layers;
    m->embedding = c->is_lm_head_tied ? es2s_load_matrix(l, "embedding.weight", d->vocab_size, d->d_model)
                                      : es2s_load_table(l, "embedding.weight", d->vocab_size, d->d_model);
    m->encoder_embedding = m->embedding;
    if (c->source_vocab_size > 0)
        m->encoder_embedding =
            es2s_load_table(l, "encoder_embedding.weight", c->source_vocab_size, d->d_model);
    es2s_position_bias shared = {0};
    if (f->position_is_table)
        m->position_embedding = es2s_load_position_embedding(l, d->max_target_len, d->d_model);
    else if (!f->position_bias_per_layer)
        shared = es2s_load_position_bias(l, d->n_heads);
    if (f->has_embedding_norm) m->embedding_norm = es2s_load_norm(l, "embedding_norm", d->d_model);
    for (int32_t i = 0; i < d->n_layers; i++) {
        es2s_layer layer = {.position_bias = shared};
        snprintf(l->prefix, sizeof l->prefix, "layers.%d.", i);
        read_layer(l, f, &layer);
        if (layers) layers[i] = layer;
    }
    l->prefix[0] = '\0';
    if (f->has_final_norm) m->final_norm = es2s_load_norm(l, "final_norm", d->d_model);
    m->lm_head =
        c->is_lm_head_tied ? m->embedding : es2s_load_matrix(l, "lm_head.weight", d->vocab_size, d->d_model);
    if (c->has_final_logits_bias)
        m->lm_head.bias = es2s_load_vector(l, "final_logits_bias", d->vocab_size, -FLT_MAX);
}

/* ============================================= Model ============================================= */

/* The files of a model, while they are read. */
typedef struct reader {
    es2s_arena arena;
    es2s_loader decoder, encoder;
    contents contents;
    es2s_encoder_fit fit;
    bool has_encoder, has_tokenizer;
} reader;

static void set_packing(es2s_loader *l, const es2s_span *file) {
    l->n_mapped = file->is_mapped ? file->size : 0;
    l->packs = file->is_mapped || file->size <= MAX_SECOND_COPY;
}

static es2s_status parse(es2s_loader *l, const es2s_span *file) {
    set_packing(l, file);
    return l->status = es2s_weights_file_parse(&l->file, file->data, file->size);
}

/* The structure of both weights, and then what they hold. */
static es2s_status parse_weights(reader *r, const es2s_bundle_file *files, bool verify) {
    ES2S_TRY(parse(&r->decoder, &files->decoder));
    if (!r->has_encoder) return verify ? es2s_weights_file_verify(&r->decoder.file) : ES2S_OK;
    const es2s_weights_file *damaged = &r->encoder.file;
    es2s_status status = parse(&r->encoder, &files->encoder);
    if (status == ES2S_OK && verify)
        status = es2s_weights_files_verify(&r->decoder.file, &r->encoder.file, &damaged);
    if (status == ES2S_OK || damaged == &r->decoder.file) return status;
    return es2s_fail_within("encoder.weights", status);
}

static es2s_status read_decoder_keys(reader *r, es2s_model *m) {
    es2s_loader *l = &r->decoder;
    r->contents = read_keys(l, m);
    r->fit = (es2s_encoder_fit){m->dims.d_model, m->dims.max_source_len, m->dims.n_layers,
                                m->dims.n_heads * m->dims.d_head};
    return l->status;
}

static es2s_status read_encoder_keys(reader *r, es2s_encoder *e) {
    es2s_loader *l = &r->encoder;
    es2s_encoder_read_keys(l, e, &r->fit);
    return l->status == ES2S_OK ? ES2S_OK : es2s_fail_within("encoder.weights", l->status);
}

static es2s_status read_tokenizer(reader *r, const es2s_span *file, bool verify, const es2s_model_dims *dims,
                                  es2s_tokenizer *t) {
    es2s_loader l = {.kernels = r->decoder.kernels, .arena = &r->arena};
    const contents *c = &r->contents;
    l.status = es2s_weights_file_parse(&l.file, file->data, file->size);
    if (l.status == ES2S_OK && verify) l.status = es2s_weights_file_verify(&l.file);
    es2s_tokenizer_read(&l, t, (const uint8_t *)c->prefix, c->prefix_len);
    if (l.status == ES2S_OK) l.status = es2s_weights_file_check_all_asked(&l.file);
    if (l.status == ES2S_OK && t->vocab_size != dims->source_vocab_size)
        l.status = es2s_fail(ES2S_BAD_FORMAT, "key \"vocab_size\": expected %d, as the model has, found %d",
                             dims->source_vocab_size, t->vocab_size);
    return l.status == ES2S_OK ? ES2S_OK : es2s_fail_within("tokenizer.table", l.status);
}

/* Takes the model from the arena; NULL while measuring. */
static es2s_status read_model(reader *r, es2s_model *m, es2s_encoder *e, const es2s_tokenizer *t,
                              es2s_model **model_out) {
    es2s_loader *const d = &r->decoder, *const l = &r->encoder;
    es2s_model *model = es2s_arena_take(&r->arena, 1, sizeof *model);
    read_tensors(d, &r->contents, m);
    if (d->status == ES2S_OK) d->status = es2s_weights_file_check_all_asked(&d->file);
    if (d->status != ES2S_OK) return d->status;
    if (r->has_encoder) {
        es2s_encoder *encoder = es2s_arena_take(&r->arena, 1, sizeof *encoder);
        es2s_encoder_read_tensors(l, e, &r->fit);
        if (l->status == ES2S_OK) l->status = es2s_weights_file_check_all_asked(&l->file);
        if (l->status != ES2S_OK) return es2s_fail_within("encoder.weights", l->status);
        if (encoder) *encoder = *e;
        m->encoder = encoder;
    }
    if (r->has_tokenizer) {
        es2s_tokenizer *tokenizer = es2s_arena_take(&r->arena, 1, sizeof *tokenizer);
        if (tokenizer) *tokenizer = *t;
        m->tokenizer = tokenizer;
    }
    es2s_let_go_of_packed(d);
    es2s_let_go_of_packed(l);
    if (model) *model = *m;
    *model_out = model;
    return ES2S_OK;
}

es2s_status es2s_model_create(const es2s_bundle_file *files, const es2s_model_params *params,
                              es2s_model **model_out) {
    const bool verify = params->verify_data != 0;
    es2s_model m = {0}, *model = NULL;
    es2s_encoder e = {0};
    es2s_tokenizer t = {0};
    if (es2s_kernels_select(&m.kernels, params->isa) != 0)
        return es2s_fail(ES2S_UNSUPPORTED_CPU, "isa: expected one of \"%s\", found \"%s\"",
                         es2s_kernels_supported(), params->isa);
    if (files->is_bundle) ES2S_TRY(es2s_manifest_check(files->manifest.data, files->manifest.size));
    reader r = {.has_encoder = files->encoder.data != NULL, .has_tokenizer = files->tokenizer.data != NULL};
    r.decoder.kernels = r.encoder.kernels = &m.kernels;
    r.decoder.arena = r.encoder.arena = &r.arena;
    ES2S_TRY(parse_weights(&r, files, verify));
    ES2S_TRY(read_decoder_keys(&r, &m));
    if (r.has_encoder) ES2S_TRY(read_encoder_keys(&r, &e));
    if (r.has_tokenizer) ES2S_TRY(read_tokenizer(&r, &files->tokenizer, verify, &m.dims, &t));
    ES2S_TRY(read_model(&r, &m, &e, &t, &model));

    const size_t n_bytes = r.arena.used;
    ES2S_TRY(es2s_check_memory("model", n_bytes));
    r.arena = (es2s_arena){.base = es2s_alloc_hot(n_bytes)};
    if (!r.arena.base) return es2s_fail(ES2S_OUT_OF_MEMORY, "model: cannot allocate %zu bytes", n_bytes);
    es2s_status status = read_model(&r, &m, &e, &t, &model);
    assert(status != ES2S_OK || r.arena.used == n_bytes);
    if (status == ES2S_OK && params->n_threads > 1) {
        es2s_cpus fast;
        const bool pins = params->pin_threads != 0 && es2s_fast_cpus(ES2S_CPU_FOLDER, &fast) > 0;
        model->pool = es2s_thread_pool_create(params->n_threads, pins ? &fast : NULL);
        if (!model->pool)
            status = es2s_fail(ES2S_OUT_OF_MEMORY, "model: cannot start %d threads", params->n_threads - 1);
    }
    if (status != ES2S_OK)
        es2s_free(r.arena.base);
    else
        *model_out = model;
    return status;
}

void es2s_model_free(es2s_model *model) {
    if (!model) return;
    es2s_thread_pool_free(model->pool);
    es2s_bundle_file_close(&model->files);
    es2s_free(model);
}
