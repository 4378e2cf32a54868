/*
 * Summarizes documents and prints what must not depend on the CPU. test_native_program.py runs it, under
 * emulation too, and compares.
 *
 *     summarize_documents BUNDLE ISA N_THREADS < documents
 *
 * Each document ends with a zero byte. One line for each: the tokens of its greedy summary, then a tab and the
 * text, whose line breaks are blanks.
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

int main(int argc, char **argv) {
    static char document[MAX_DOCUMENT], summary[MAX_SUMMARY];
    if (argc != 4) stop("expected BUNDLE ISA N_THREADS");
    es2s_model *model = NULL;
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.isa = argv[2];
    params.n_threads = (int32_t)strtol(argv[3], NULL, 10);
    if (es2s_model_load(argv[1], &params, &model) != ES2S_OK) stop(es2s_last_error());
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
        if (es2s_summarize(model, document, n, &generate, summary, sizeof summary, &n_summary) != ES2S_OK)
            stop(es2s_last_error());
        for (char *line_break; (line_break = memchr(summary, '\n', n_summary)) != NULL;)
            *line_break = ' ';
        printf("\t%.*s\n", (int)n_summary, summary);
        n = 0;
    }
    es2s_model_free(model);
    return 0;
}
