#include "tiny_session.h"

#include <stdlib.h>
#include <string.h>

fixture load(tiny_options options, int32_t n_threads, const char *isa) {
    fixture f = {.options = options};
    size_t size;
    f.file = tiny_weights(&options, &size);
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = n_threads;
    params.isa = isa;
    SUCCEEDS(es2s_model_load_memory(f.file, size, &params, &f.model));
    return f;
}

void unload(fixture *f) {
    es2s_model_free(f->model);
    free(f->file);
}

es2s_session *create(const fixture *f, int32_t max_batch, int32_t max_beams) {
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_batch = max_batch;
    params.max_beams = max_beams;
    es2s_session *session;
    SUCCEEDS(es2s_session_create(f->model, &params, &session));
    return session;
}

static int32_t source_len(int32_t id) {
    return 1 + (id * 17 + 40) % 48;
}

void set_source(const fixture *f, es2s_session *session, int32_t row, int32_t id) {
    const size_t n =
        (size_t)(f->options.n_layers * 2 * f->options.n_heads * source_len(id) * f->options.d_head);
    float *cross_kv = malloc(n * sizeof *cross_kv);
    uint64_t seed = (uint64_t)id + 100;
    tiny_fill(&seed, 1, n, cross_kv);
    SUCCEEDS(es2s_session_set_source(session, row, cross_kv, source_len(id)));
    free(cross_kv);
}

void decode_alone(const fixture *f, int32_t id, const int32_t *tokens, int32_t n, float *logits) {
    es2s_session *session = create(f, 1, 1);
    set_source(f, session, 0, id);
    for (int32_t t = 0; t < n; t++)
        SUCCEEDS(es2s_session_step(session, &tokens[t], 1, logits));
    es2s_session_free(session);
}

bool same_bits(const fixture *f, const float *a, const float *b) {
    return memcmp(a, b, (size_t)f->options.vocab_size * sizeof *a) == 0;
}
