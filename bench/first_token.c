/*
 * What an app does that starts, asks for one token and ends, without Python: our side of the cold starts.
 *
 *     first_token BUNDLE N_THREADS ISA ID ...        ISA: a kernel set, or - for the widest
 *
 * Reads the source from its token ids with the bundle's native encoder and writes the first token, and the
 * memory in KiB that the process had when main began and the most that it had (Linux; elsewhere 0).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_s2s.h"

static long kilobytes(const char *name) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long found = 0;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0) found = strtol(line + strlen(name), NULL, 10);
    if (file) fclose(file);
    return found;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: first_token BUNDLE N_THREADS ISA ID ...\n");
        return 2;
    }
    const long before = kilobytes("VmRSS:");
    const int32_t n_ids = argc - 4;
    int32_t *ids = malloc((size_t)n_ids * sizeof *ids);
    if (!ids) return 1;
    for (int32_t i = 0; i < n_ids; i++)
        ids[i] = (int32_t)strtol(argv[4 + i], NULL, 10);

    int32_t token = -1, n_tokens = 0;
    float score = 0.0f;
    es2s_model *model = NULL;
    es2s_session *session = NULL;
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = (int32_t)strtol(argv[2], NULL, 10);
    if (strcmp(argv[3], "-") != 0) params.isa = argv[3];
    es2s_status status = es2s_model_load(argv[1], &params, &model);
    if (status == ES2S_OK) {
        es2s_session_params sizes;
        es2s_session_params_init(&sizes);
        sizes.max_source_len = n_ids;
        sizes.max_target_len = 1;
        status = es2s_session_create(model, &sizes, &session);
    }
    if (status == ES2S_OK) status = es2s_session_encode(session, 0, ids, n_ids, -1, NULL, NULL);
    if (status == ES2S_OK) {
        es2s_generate_params generate;
        es2s_generate_params_init(model, &generate);
        generate.num_beams = 1;
        generate.num_return_sequences = 1;
        generate.min_new_tokens = 1;
        generate.max_new_tokens = 1;
        generate.no_repeat_ngram_size = 0;
        status = es2s_session_generate(session, &generate, &token, &n_tokens, &score, NULL, NULL);
    }
    if (status == ES2S_OK)
        printf("%d %ld %ld\n", token, before, kilobytes("VmHWM:"));
    else
        fprintf(stderr, "%s\n", es2s_last_error());
    es2s_session_free(session);
    es2s_model_free(model);
    free(ids);
    return status == ES2S_OK ? 0 : 1;
}
