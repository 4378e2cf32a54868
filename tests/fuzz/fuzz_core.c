/*
 * Three libFuzzer targets in one file, as the weights' bytes reach more and more of the core:
 * FUZZ_WEIGHTS loads them, FUZZ_DECODE also generates, FUZZ_OUT_OF_MEMORY refuses one request of the system's
 * on the way, chosen by the input. An input is a decoder.weights file, then 8 bytes of choices.
 *
 * The mutator knows the format: it sets fields to tempting numbers, then puts the tensors where the changed
 * entries say, and sometimes begins anew with a random decoder. All that is left to chance is what matters.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "edge_s2s.h"
#include "mutate_weights.h"
#include "tiny_weights.h"
#include "wrapped_functions.h"

enum { N_CHOICES = 8, MAX_SIZE = 1 << 16 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A decoder that is valid but for a few numbers; the same one for the same seed. */
static uint8_t *random_decoder(uint64_t seed, size_t *size_out) {
    static const char *const ffns[] = {"relu",       "gelu_tanh",       "gelu_erf",       "silu",
                                       "gated_relu", "gated_gelu_tanh", "gated_gelu_erf", "gated_silu"};
    tiny_options o = {.seed = seed, .ffn = ffns[tiny_random(&seed) % 8]};
    int32_t *const sizes[] = {&o.vocab_size, &o.d_model, &o.d_ff, &o.d_head};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        *sizes[i] = 2 + (int32_t)(tiny_random(&seed) % 12);
    if (tiny_random(&seed) % 4 == 0) o.vocab_size *= 10;
    o.n_layers = 1 + (int32_t)(tiny_random(&seed) % 2);
    o.n_heads = 1 + (int32_t)(tiny_random(&seed) % 3);
    o.max_source_len = 3 + (int32_t)(tiny_random(&seed) % 12);
    o.max_target_len = 4 + (int32_t)(tiny_random(&seed) % 12);
    bool *const flags[] = {&o.is_int8,        &o.is_tied,       &o.layer_norm,
                           &o.post_norm,      &o.embedding_norm, &o.no_final_norm,
                           &o.position_table, &o.linear_bias,   &o.final_logits_bias};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        *flags[i] = tiny_random(&seed) % 2;
    o.bias_per_layer = !o.position_table && tiny_random(&seed) % 2;
    o.head_rescore = o.is_int8 ? (int32_t)(tiny_random(&seed) % (tiny_random(&seed) % 4 ? 3 : 128)) : 0;
    o.source_vocab_size = tiny_random(&seed) % 4 ? 0 : 5;
    return tiny_weights(&o, size_out);
}

/* One of some random decoders, made when it is asked for, in place of the file; its size. */
static size_t begin_anew(uint8_t *file, size_t size, size_t max_size, uint64_t *seed) {
    static struct {
        uint8_t *file;
        size_t size;
    } decoders[256];
    const uint64_t i = tiny_random(seed) % 256;
    if (!decoders[i].file) decoders[i].file = random_decoder(i, &decoders[i].size);
    if (decoders[i].size > max_size) return size;
    memcpy(file, decoders[i].file, decoders[i].size);
    return decoders[i].size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    uint64_t random = seed;
    if (max_size > MAX_SIZE) max_size = MAX_SIZE;
    if (size < WEIGHTS_HEADER + N_CHOICES || tiny_random(&random) % 8 == 0)
        size = LLVMFuzzerMutate(data, size, max_size);
    if (size < WEIGHTS_HEADER + N_CHOICES || max_size < size) return size;
    uint8_t choices[N_CHOICES];
    size_t file_size = size - N_CHOICES;
    const size_t max_file_size = max_size - N_CHOICES;
    memcpy(choices, data + file_size, N_CHOICES);
    if (tiny_random(&random) % 4 == 0) file_size = begin_anew(data, file_size, max_file_size, &random);
    for (uint64_t n = tiny_random(&random) % 3; n > 0; n--)
        change_weights(data, file_size, &random);
    if (tiny_random(&random) % 2)
        file_size = lay_out_weights(data, file_size, max_file_size, tiny_random(&random) % 2 ? 16 : 64);
    if (tiny_random(&random) % 16 == 0) file_size -= tiny_random(&random) % (file_size - WEIGHTS_HEADER + 1);
    if (tiny_random(&random) % 2) put(choices, tiny_random(&random), N_CHOICES);
    if (tiny_random(&random) % 32) put(data + 24, file_size, 8);
    memcpy(data + file_size, choices, N_CHOICES);
    return file_size + N_CHOICES;
}

/* ---- the system, refusing ---- */

#ifdef FUZZ_OUT_OF_MEMORY
static int n_until_refusal; /* < 0 = never */

static int refuses(void) {
    return n_until_refusal >= 0 && n_until_refusal-- == 0;
}

int __wrap_posix_memalign(void **block, size_t alignment, size_t size) {
    return refuses() ? ENOMEM : __real_posix_memalign(block, alignment, size);
}

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *), void *arg) {
    return refuses() ? EAGAIN : __real_pthread_create(id, attr, run, arg);
}

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr) {
    return refuses() ? ENOMEM : __real_pthread_mutex_init(mutex, attr);
}

int __wrap_pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attr) {
    return refuses() ? ENOMEM : __real_pthread_cond_init(condition, attr);
}
#endif

/* ---- the target ---- */

#ifndef FUZZ_WEIGHTS
static void generate(const es2s_model *model, const uint8_t choices[N_CHOICES]) {
    enum { SOURCE_LEN = 3, NEW_TOKENS = 4, BEAMS = 2 };
    es2s_model_dims dims = {.struct_size = sizeof dims};
    if (es2s_model_get_dims(model, &dims) != ES2S_OK) abort();
    if (dims.max_source_len < SOURCE_LEN || dims.max_target_len < NEW_TOKENS) return;
    es2s_session_params sp;
    es2s_session_params_init(&sp);
    sp.max_beams = BEAMS;
    sp.max_source_len = SOURCE_LEN;
    sp.max_target_len = NEW_TOKENS;
    es2s_session *session = NULL;
    if (es2s_session_create(model, &sp, &session) != ES2S_OK) return;

    const size_t n = (size_t)dims.n_layers * 2 * (size_t)dims.n_heads * SOURCE_LEN * (size_t)dims.d_head;
    float *cross_kv = malloc(n * sizeof *cross_kv);
    uint64_t seed = choices[7];
    tiny_fill(&seed, 1, n, cross_kv);
    es2s_generate_params p;
    es2s_generate_params_init(model, &p);
    p.num_beams = 1 + choices[0] % BEAMS;
    p.do_sample = choices[0] / BEAMS % 2;
    p.num_return_sequences = 1;
    p.max_new_tokens = NEW_TOKENS;
    p.min_new_tokens = choices[1] % (NEW_TOKENS + 1);
    p.no_repeat_ngram_size = choices[2] % 4;
    p.early_stopping = choices[3] % 3;
    p.deadline_ms = 1000;
    static const int32_t tempting_values[] = {-1, -2, 0, 1, 2, 65536, INT32_MIN, INT32_MAX};
    int32_t *const arguments[] = {&p.min_new_tokens,
                                  &p.no_repeat_ngram_size,
                                  &p.early_stopping,
                                  &p.decoder_start_token_id,
                                  &p.eos_token_id,
                                  &p.pad_token_id,
                                  &p.forced_bos_token_id,
                                  &p.forced_eos_token_id,
                                  &p.encoder_no_repeat_ngram_size,
                                  &p.exponential_decay_start,
                                  &p.num_beams,
                                  &p.num_return_sequences,
                                  &p.max_new_tokens,
                                  &p.top_k,
                                  &p.num_beam_groups};
    const size_t which = choices[6] % 32; /* one argument, or none, is as wrong as can be */
    if (which < sizeof arguments / sizeof *arguments)
        *arguments[which] = tempting_values[choices[6] / 32];
    int32_t tokens[BEAMS * NEW_TOKENS], len[BEAMS], reason[BEAMS];
    float score[BEAMS], logprobs[BEAMS * NEW_TOKENS];
    if (p.max_new_tokens <= NEW_TOKENS &&
        es2s_session_set_source(session, 0, cross_kv, SOURCE_LEN) == ES2S_OK &&
        es2s_session_generate(session, &p, tokens, len, score, logprobs, reason) == ES2S_OK) {
        if (len[0] < 0 || len[0] > p.max_new_tokens) abort();
        for (int32_t i = 0; i < len[0]; i++)
            if (tokens[i] < 0 || tokens[i] >= dims.vocab_size) abort();
    }
    free(cross_kv);
    es2s_session_free(session);
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < N_CHOICES || size > MAX_SIZE) return 0;
    const size_t file_size = size - N_CHOICES;
    const uint8_t *choices = data + file_size;
    const size_t shift = choices[7] % 2; /* at an odd address, if chosen */
    uint8_t *file = malloc(file_size + shift), *start = file + shift; /* nothing behind it */
    memcpy(start, data, file_size);
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.verify_data = 0; /* a hash keeps a fuzzer out, not an attacker */
    params.isa = "scalar";
    es2s_model *model = NULL;
#ifdef FUZZ_OUT_OF_MEMORY
    params.n_threads = 1 + choices[4] % 2;
    n_until_refusal = choices[5] % 12;
#endif
    if (es2s_model_load_memory(start, file_size, &params, &model) == ES2S_OK) {
#ifndef FUZZ_WEIGHTS
        generate(model, choices);
#endif
        es2s_model_free(model);
    } else if (model) {
        abort();
    }
    free(file);
    return 0;
}
