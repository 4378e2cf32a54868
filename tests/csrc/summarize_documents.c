/*
 * Summarizes documents and prints what must not depend on the CPU. test_native_program.py runs it, under
 * emulation too, and compares.
 *
 *     summarize_documents BUNDLE ISA N_THREADS EVERY < documents
 *
 * Each document ends with a zero byte. One line for each: the FNV-1a hash of the bits of the encoder's keys
 * and values (of every EVERY-th document from the first on, as it costs a second encoding, else 0), a tab,
 * that of the scores of all steps of its greedy summary, a tab, the tokens, a tab and the text, whose line
 * breaks are blanks.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_s2s.h"

enum { MAX_DOCUMENT = 1 << 20, MAX_SUMMARY = 1 << 16, MAX_TOKENS = 1024 };

static void stop(const char *why) {
    fprintf(stderr, "summarize_documents: %s\n", why);
    exit(1);
}

static const uint64_t FNV_START = 0xCBF29CE484222325;

static uint64_t hash_floats(uint64_t hash, const float *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001B3;
    }
    return hash;
}

/* What es2s_summarize tells of one document on its way. */
typedef struct {
    uint64_t hash_of_scores;
    int32_t tokens[MAX_TOKENS];
    int32_t n_tokens;
} progress;

static int take_tokens(void *user, int32_t row, const int32_t *tokens, int32_t n) {
    progress *p = user;
    (void)row;
    if (n > MAX_TOKENS - p->n_tokens) stop("too many tokens");
    memcpy(p->tokens + p->n_tokens, tokens, (size_t)n * sizeof *tokens);
    p->n_tokens += n;
    return 0;
}

static int hash_scores(void *user, int32_t row, const int32_t *tokens, int32_t n, float *scores,
                       int32_t vocab_size) {
    progress *p = user;
    (void)row, (void)tokens, (void)n;
    p->hash_of_scores = hash_floats(p->hash_of_scores, scores, (size_t)vocab_size);
    return 0;
}

static void must(es2s_status status) {
    if (status != ES2S_OK) stop(es2s_last_error());
}

static uint64_t hash_of_cross_kv(const es2s_model *model, const char *document, size_t n_bytes) {
    es2s_model_dims dims = {.struct_size = sizeof dims};
    must(es2s_model_get_dims(model, &dims));
    int32_t *ids = calloc((size_t)dims.max_source_len, sizeof *ids);
    size_t n_ids = 0;
    must(es2s_model_tokenize(model, document, n_bytes, ids, (size_t)dims.max_source_len, &n_ids));
    es2s_session *session = NULL;
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_source_len = dims.max_source_len;
    must(es2s_session_create(model, &params, &session));
    must(es2s_session_encode(session, 0, ids, (int32_t)n_ids, -1, NULL, NULL));
    const size_t n = n_ids * 2 * (size_t)(dims.n_layers * dims.n_heads * dims.d_head);
    float *cross_kv = calloc(n, sizeof *cross_kv);
    must(es2s_session_get_source(session, 0, cross_kv));
    const uint64_t hash = hash_floats(FNV_START, cross_kv, n);
    free(cross_kv);
    free(ids);
    es2s_session_free(session);
    return hash;
}

int main(int argc, char **argv) {
    static char document[MAX_DOCUMENT], summary[MAX_SUMMARY];
    static progress p;
    if (argc != 5) stop("expected BUNDLE ISA N_THREADS EVERY");
    const long every = strtol(argv[4], NULL, 10);
    es2s_model *model = NULL;
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.isa = argv[2];
    params.n_threads = (int32_t)strtol(argv[3], NULL, 10);
    must(es2s_model_load(argv[1], &params, &model));
    es2s_generate_params generate;
    es2s_generate_params_init(model, &generate);
    generate.num_beams = generate.num_return_sequences = 1;
    generate.on_tokens = take_tokens;
    generate.logits_processor = hash_scores;
    generate.user = &p;

    size_t n = 0, n_summary = 0;
    long i = 0;
    for (int c; (c = getchar()) != EOF;) {
        if (c != 0) {
            if (n == MAX_DOCUMENT) stop("expected documents of up to 1 MiB");
            document[n++] = (char)c;
            continue;
        }
        const uint64_t hash = i++ % every == 0 ? hash_of_cross_kv(model, document, n) : 0;
        p.hash_of_scores = FNV_START;
        p.n_tokens = 0;
        must(es2s_summarize(model, document, n, &generate, summary, sizeof summary, &n_summary));
        for (char *line_break; (line_break = memchr(summary, '\n', n_summary)) != NULL;)
            *line_break = ' ';
        printf("%016" PRIx64 "\t%016" PRIx64 "\t", hash, p.hash_of_scores);
        for (int32_t t = 0; t < p.n_tokens; t++)
            printf("%" PRId32 " ", p.tokens[t]);
        printf("\t%.*s\n", (int)n_summary, summary);
        fflush(stdout);
        n = 0;
    }
    es2s_model_free(model);
    return 0;
}
