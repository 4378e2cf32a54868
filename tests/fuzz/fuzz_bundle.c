/*
 * A libFuzzer target: an input is an .es2s with the files that the core reads: a manifest, a decoder, an
 * encoder and a tokenizer. What is accepted summarizes a text.
 *
 * The mutator takes the archive apart, changes one file as its format allows, and puts the archive together
 * with sizes, offsets and the manifest's digest that fit; then one number of the archive itself is wrong, at
 * times.
 */
#include <stdlib.h>
#include <string.h>

#include "bundle_file.h"
#include "mutate_weights.h"
#include "sha256.h"
#include "text.h"
#include "tiny_weights.h"

enum { N_FILES = 4, MAX_SIZE = 1 << 16, LOCAL = 30, CENTRAL = 46, END = 22, N_DIGEST = 64 };

static const char *const names[N_FILES] = {"manifest.json", "decoder.weights", "encoder.weights",
                                           "tokenizer.table"};

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    uint8_t bytes[MAX_SIZE + 1]; /* one more, for the end of a string */
    size_t size;                 /* 0: there is no such file */
} content;

/* ---- mutations ---- */

/* Computes the digest anew: that of the manifest with zeros in its place. */
static void seal(content *manifest) {
    static const char key[] = "\"digest\": \"";
    manifest->bytes[manifest->size] = '\0';
    char *digest = strstr((char *)manifest->bytes, key);
    if (!digest || strlen(digest) < sizeof key - 1 + N_DIGEST) return;
    digest += sizeof key - 1;
    memset(digest, '0', N_DIGEST);
    uint8_t hash[N_DIGEST / 2];
    es2s_sha256(manifest->bytes, manifest->size, hash);
    for (size_t i = 0; i < N_DIGEST; i++)
        digest[i] = "0123456789abcdef"[hash[i / 2] >> (i % 2 ? 0 : 4) & 15];
}

static void change_file(content *file, bool is_manifest, uint64_t *seed) {
    if (is_manifest || file->size < WEIGHTS_HEADER || tiny_random(seed) % 4 == 0) {
        file->size = LLVMFuzzerMutate(file->bytes, file->size, MAX_SIZE);
    } else {
        change_weights(file->bytes, file->size, seed);
        if (tiny_random(seed) % 2)
            file->size = lay_out_weights(file->bytes, file->size, MAX_SIZE, tiny_random(seed) % 2 ? 16 : 64);
    }
    if (is_manifest) {
        if (tiny_random(seed) % 8) seal(file);
    } else if (file->size >= WEIGHTS_HEADER && tiny_random(seed) % 32) {
        put(file->bytes + 24, file->size, 8);
    }
}

/* Size of an .es2s of these files; 0 where it does not fit. Its directory begins at *directory_out. The file
 * `of_false_size` has a size in both its headers that tempts a reader; N_FILES = none. */
static size_t write_archive(const content files[N_FILES], size_t of_false_size, uint64_t *seed, uint8_t *out,
                            size_t max_size, size_t *directory_out) {
    size_t size = 0, n = 0, directory_size = 0;
    uint8_t directory[N_FILES * (CENTRAL + 16)] = {0};
    for (size_t i = 0; i < N_FILES; i++) {
        const size_t n_name = strlen(names[i]);
        if (files[i].size == 0) continue;
        if (max_size - size < LOCAL + n_name + files[i].size) return 0;
        uint8_t *local = out + size, *entry = directory + directory_size;
        const uint64_t told = i == of_false_size ? tempting(seed) : files[i].size;
        memset(local, 0, LOCAL);
        memcpy(local, "PK\3\4", 4);
        memcpy(entry, "PK\1\2", 4);
        put(local + 18, told, 4);
        put(local + 22, told, 4);
        put(local + 26, n_name, 2);
        put(entry + 20, told, 4);
        put(entry + 24, told, 4);
        put(entry + 28, n_name, 2);
        put(entry + 42, size, 4);
        memcpy(local + LOCAL, names[i], n_name);
        memcpy(entry + CENTRAL, names[i], n_name);
        memcpy(local + LOCAL + n_name, files[i].bytes, files[i].size);
        size += LOCAL + n_name + files[i].size;
        directory_size += CENTRAL + n_name;
        n++;
    }
    if (max_size - size < directory_size + END) return 0;
    *directory_out = size;
    memcpy(out + size, directory, directory_size);
    uint8_t *end = out + size + directory_size;
    memset(end, 0, END);
    memcpy(end, "PK\5\6", 4);
    put(end + 8, n, 2);
    put(end + 10, n, 2);
    put(end + 12, directory_size, 4);
    put(end + 16, size, 4);
    return size + directory_size + END;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    static content files[N_FILES];
    static uint8_t archive[MAX_SIZE];
    uint64_t random = seed;
    es2s_bundle_file read;
    if (max_size > MAX_SIZE) max_size = MAX_SIZE;
    if (tiny_random(&random) % 16 == 0 || es2s_bundle_file_read(data, size, &read) != ES2S_OK ||
        !read.is_bundle)
        return LLVMFuzzerMutate(data, size, max_size);
    const es2s_span *const spans[N_FILES] = {&read.manifest, &read.decoder, &read.encoder, &read.tokenizer};
    for (size_t i = 0; i < N_FILES; i++) {
        files[i].size = spans[i]->size;
        if (spans[i]->size) memcpy(files[i].bytes, spans[i]->data, spans[i]->size);
    }
    const size_t changed = tiny_random(&random) % N_FILES;
    if (tiny_random(&random) % 32 == 0)
        files[changed].size = 0;
    else if (files[changed].size > 0)
        change_file(&files[changed], changed == 0, &random);
    size_t directory = 0;
    const size_t of_false_size = tiny_random(&random) % 16 == 0 ? tiny_random(&random) % N_FILES : N_FILES;
    const size_t new_size = write_archive(files, of_false_size, &random, archive, max_size, &directory);
    if (new_size == 0) return size;
    memcpy(data, archive, new_size);
    if (tiny_random(&random) % 16 == 0) {
        const size_t at = directory + tiny_random(&random) % (new_size - directory - 4);
        put(data + at, tempting(&random), 1 + tiny_random(&random) % 4);
    }
    return new_size;
}

/* ---- the target ---- */

static void summarize(const es2s_model *model) {
    static const char text[] = "Tom's: \xE2\x80\x9Chi\xE2\x80\x9D a\xCC\x81 </s> 12";
    char summary[64];
    size_t n_bytes = 0;
    es2s_generate_params p;
    es2s_generate_params_init(model, &p);
    p.num_beams = 2;
    p.num_return_sequences = 1;
    p.max_new_tokens = 4;
    p.deadline_ms = 1000;
    if (es2s_summarize(model, text, sizeof text - 1, &p, summary, sizeof summary, &n_bytes) != ES2S_OK)
        return;
    const size_t n = n_bytes < sizeof summary ? n_bytes : 0; /* else it may end within a character */
    if (es2s_valid_utf8((const uint8_t *)summary, n) != n) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *bundle = malloc(size); /* nothing behind it */
    if (size > 0) memcpy(bundle, data, size);
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.verify_data = 0; /* a hash keeps a fuzzer out, not an attacker */
    params.isa = "scalar";
    es2s_model *model = NULL;
    if (size > 0 && es2s_model_load_memory(bundle, size, &params, &model) == ES2S_OK) {
        summarize(model);
        es2s_model_free(model);
    } else if (model) {
        abort();
    }
    free(bundle);
    return 0;
}
