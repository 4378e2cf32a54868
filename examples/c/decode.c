/*
 * Decode one source with the C core alone.
 *
 *     decode decoder.weights cross_kv.f32
 *
 * cross_kv.f32 is what the bundle's encoder gives for one source: float32[n_layers, 2, n_heads, source_len,
 * d_head]. Prints the generated token ids and the score.
 */
#include <stdio.h>
#include <stdlib.h>

#include "edge_s2s.h"

static float *read_floats(const char *path, size_t *n_out) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    const long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : 0;
    rewind(file);
    float *values = size > 0 ? malloc((size_t)size) : NULL;
    if (values && fread(values, 1, (size_t)size, file) != (size_t)size) {
        free(values);
        values = NULL;
    }
    fclose(file);
    *n_out = size > 0 ? (size_t)size / sizeof(float) : 0;
    return values;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: decode decoder.weights cross_kv.f32\n");
        return 2;
    }
    int exit_code = 1;
    es2s_model *model = NULL;
    es2s_session *session = NULL;
    int32_t *tokens = NULL;
    size_t n_floats = 0;
    float *cross_kv = read_floats(argv[2], &n_floats);
    if (!cross_kv) {
        fprintf(stderr, "cannot read %s\n", argv[2]);
        goto done;
    }
    if (es2s_model_load(argv[1], NULL, &model) != ES2S_OK) goto fail;

    es2s_model_dims dims = {.struct_size = sizeof dims};
    if (es2s_model_get_dims(model, &dims) != ES2S_OK) goto fail;
    const size_t floats_per_token = 2u * (size_t)dims.n_layers * (size_t)dims.n_heads * (size_t)dims.d_head;
    if (n_floats % floats_per_token != 0 || n_floats / floats_per_token > (size_t)dims.max_source_len) {
        fprintf(stderr, "%s: expected %zu floats for each of up to %d source tokens, found %zu floats\n",
                argv[2], floats_per_token, dims.max_source_len, n_floats);
        goto done;
    }
    const int32_t source_len = (int32_t)(n_floats / floats_per_token);

    es2s_generate_params generate;
    es2s_generate_params_init(model, &generate);
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_beams = generate.num_beams;
    params.max_source_len = source_len;
    params.max_target_len = generate.max_new_tokens;
    if (es2s_session_create(model, &params, &session) != ES2S_OK) goto fail;
    if (es2s_session_set_source(session, 0, cross_kv, source_len) != ES2S_OK) goto fail;

    generate.num_return_sequences = 1;
    tokens = malloc((size_t)generate.max_new_tokens * sizeof *tokens);
    int32_t n_tokens = 0;
    float score = 0.0f;
    if (!tokens) {
        fprintf(stderr, "out of memory\n");
        goto done;
    }
    if (es2s_session_generate(session, &generate, tokens, &n_tokens, &score, NULL, NULL) != ES2S_OK)
        goto fail;
    for (int32_t i = 0; i < n_tokens; i++)
        printf("%d ", tokens[i]);
    printf("\nscore %.4f, kernels %s\n", score, es2s_model_isa(model));
    exit_code = 0;
    goto done;
fail:
    fprintf(stderr, "%s\n", es2s_last_error());
done:
    free(tokens);
    es2s_session_free(session);
    es2s_model_free(model);
    free(cross_kv);
    return exit_code;
}
