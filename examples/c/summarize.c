/*
 * A file in, a summary out: the whole model in C.
 *
 *     summarize BUNDLE [N_THREADS] < document.txt
 *
 * BUNDLE is a folder or an .es2s that edge-s2s-export convert --encoder native has written.
 */
#include <stdio.h>
#include <stdlib.h>

#include "edge_s2s.h"

enum { MAX_SUMMARY = 1 << 16 };

static char *read_all(FILE *file, size_t *size_out) {
    size_t size = 0, capacity = 1 << 16;
    char *text = malloc(capacity);
    while (text) {
        size += fread(text + size, 1, capacity - size, file);
        if (size < capacity) break;
        char *larger = realloc(text, capacity *= 2);
        if (!larger) free(text);
        text = larger;
    }
    *size_out = size;
    return text;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: summarize BUNDLE [N_THREADS] < document.txt\n");
        return 2;
    }
    static char summary[MAX_SUMMARY];
    size_t n_text = 0, n_summary = 0;
    es2s_model_params params;
    es2s_model *model = NULL;
    char *text = read_all(stdin, &n_text);
    if (!text) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    es2s_model_params_init(&params);
    if (argc == 3) params.n_threads = (int32_t)strtol(argv[2], NULL, 10);
    es2s_status status = es2s_model_load(argv[1], &params, &model);
    if (status == ES2S_OK)
        status = es2s_summarize(model, text, n_text, NULL, summary, MAX_SUMMARY, &n_summary);
    if (status == ES2S_OK)
        printf("%.*s\n", (int)(n_summary < MAX_SUMMARY ? n_summary : MAX_SUMMARY), summary);
    else
        fprintf(stderr, "%s\n", es2s_last_error());
    es2s_model_free(model);
    free(text);
    return status == ES2S_OK ? 0 : 1;
}
