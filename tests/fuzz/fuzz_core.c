/*
 * Three libFuzzer targets in one file, as the weights' bytes reach more and more of the core:
 * FUZZ_WEIGHTS loads them, FUZZ_DECODE also generates, FUZZ_OUT_OF_MEMORY refuses one request of the system's
 * on the way, chosen by the input. An input is a decoder.weights file, then 8 bytes of choices.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "edge_s2s.h"
#include "tiny_weights.h"
#include "wrapped_functions.h"

enum { N_CHOICES = 8, HEADER = 64, KEY = 256, TENSOR = 128, MAX_SIZE = 1 << 16 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(uint8_t *at, uint64_t value, size_t n) {
    for (size_t i = 0; i < n; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t get(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* ---- mutations: of fields, by numbers near the edges of types; then the file's size is set right ---- */

static uint64_t tempting(uint64_t *seed) {
    const unsigned bits = (unsigned)(tiny_random(seed) % 65);
    const uint64_t power = bits == 64 ? 0 : (uint64_t)1 << bits;
    return power + tiny_random(seed) % 7 - 3;
}

static void change_field(uint8_t *file, size_t size, uint64_t *seed) {
    static const struct {
        uint8_t at, size;
    } in_key[] = {{0, 1}, {48, 4}, {52, 4}, {56, 4}, {56, 8}, {255, 1}},
      in_tensor[] = {{0, 1},  {64, 4}, {68, 4},  {72, 8},  {80, 8},  {88, 8},
                     {96, 8}, {72, 4}, {104, 8}, {112, 8}, {120, 8}, {63, 1}};
    const size_t n_keys = get(file + 16), n_tensors = get(file + 20);
    const size_t tensors = HEADER + n_keys * KEY;
    if (n_keys == 0 || n_tensors == 0 || n_keys > 256 || n_tensors > 4096 ||
        size < tensors + n_tensors * TENSOR || tiny_random(seed) % 16 == 0) {
        put(file + 8 + 4 * (tiny_random(seed) % 4), tempting(seed), 4);
        return;
    }
    if (tiny_random(seed) % 2) {
        const size_t f = tiny_random(seed) % (sizeof in_key / sizeof *in_key);
        put(file + HEADER + tiny_random(seed) % n_keys * KEY + in_key[f].at, tempting(seed), in_key[f].size);
    } else {
        const size_t f = tiny_random(seed) % (sizeof in_tensor / sizeof *in_tensor);
        put(file + tensors + tiny_random(seed) % n_tensors * TENSOR + in_tensor[f].at, tempting(seed),
            in_tensor[f].size);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    uint64_t random = seed;
    if (size < HEADER + N_CHOICES || tiny_random(&random) % 4 == 0)
        size = LLVMFuzzerMutate(data, size, max_size);
    if (size < HEADER + N_CHOICES) return size;
    const size_t file_size = size - N_CHOICES;
    for (uint64_t n = tiny_random(&random) % 3; n > 0; n--)
        change_field(data, file_size, &random);
    if (tiny_random(&random) % 2) put(data + file_size, tiny_random(&random), N_CHOICES);
    if (tiny_random(&random) % 32) put(data + 24, file_size, 8);
    return size;
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
    p.num_return_sequences = 1;
    p.max_new_tokens = NEW_TOKENS;
    p.min_new_tokens = choices[1] % (NEW_TOKENS + 1);
    p.no_repeat_ngram_size = choices[2] % 4;
    p.early_stopping = choices[3] % 3;
    p.deadline_ms = 1000;
    int32_t tokens[NEW_TOKENS], len, reason;
    float score, logprobs[NEW_TOKENS];
    if (es2s_session_set_source(session, 0, cross_kv, SOURCE_LEN) == ES2S_OK &&
        es2s_session_generate(session, &p, tokens, &len, &score, logprobs, &reason) == ES2S_OK) {
        if (len < 0 || len > NEW_TOKENS) abort();
        for (int32_t i = 0; i < len; i++)
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
    uint8_t *file =
        malloc(file_size + 1); /* a block of its own, at an odd address if chosen: no byte after it */
    (void)choices;
    uint8_t *start = file + 1;
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
