/*
 * Summarizes documents and prints what must not depend on the CPU. test_native_program.py runs it, under
 * emulation too, and compares.
 *
 *     summarize_documents BUNDLE ISA N_THREADS < documents
 *
 * Each document ends with a zero byte. One line for each: the FNV-1a hash of the bits of the encoder's keys and
 * values, a tab, the tokens of its greedy summary, a tab and the text, whose line breaks are blanks.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_s2s.h"

enum { MAX_DOCUMENT = 1 << 20, MAX_SUMMARY = 1 << 16 };

static void stop(const char *why) {
    fprintf(stderr, "summarize_documents: %s\n", why);
    exit(1);
}

static int print_tokens(void *user, int32_t row, const int32_t *tokens, int32_t n) {
    (void)user;
    (void)row;
    for (int32_t i = 0; i < n; i++)
        printf("%" PRId32 " ", tokens[i]);
    return 0;
}

static void must(es2s_status status) {
    if (status != ES2S_OK) stop(es2s_last_error());
}

static void print_hash(const es2s_model *model, const char *document, size_t n_bytes) {
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
    uint64_t hash = 0xCBF29CE484222325;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &cross_kv[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001B3;
    }
    printf("%016" PRIx64 "\t", hash);
    free(cross_kv);
    free(ids);
    es2s_session_free(session);
}

int main(int argc, char **argv) {
    static char document[MAX_DOCUMENT], summary[MAX_SUMMARY];
    if (argc != 4) stop("expected BUNDLE ISA N_THREADS");
    es2s_model *model = NULL;
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.isa = argv[2];
    params.n_threads = (int32_t)strtol(argv[3], NULL, 10);
    must(es2s_model_load(argv[1], &params, &model));
    es2s_generate_params generate;
    es2s_generate_params_init(model, &generate);
    generate.num_beams = generate.num_return_sequences = 1;
    generate.on_tokens = print_tokens;

    size_t n = 0, n_summary = 0;
    for (int c; (c = getchar()) != EOF;) {
        if (c != 0) {
            if (n == MAX_DOCUMENT) stop("expected documents of up to 1 MiB");
            document[n++] = (char)c;
            continue;
        }
        print_hash(model, document, n);
        must(es2s_summarize(model, document, n, &generate, summary, sizeof summary, &n_summary));
        for (char *line_break; (line_break = memchr(summary, '\n', n_summary)) != NULL;)
            *line_break = ' ';
        printf("\t%.*s\n", (int)n_summary, summary);
        n = 0;
    }
    es2s_model_free(model);
    return 0;
}
