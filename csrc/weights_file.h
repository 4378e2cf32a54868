/*
 * Reader of decoder.weights. The format is specified in edge_s2s/weights.py.
 *
 * Any byte string may be given. Parsing reads only data[0..size), allocates nothing and checks the whole
 * structure; what keys and tensors a model needs is asked for by name afterwards, so that nothing is left
 * unasked.
 */
#ifndef ES2S_WEIGHTS_FILE_H
#define ES2S_WEIGHTS_FILE_H

#include <stdbool.h>

#include "edge_s2s.h"

#define ES2S_MAX_KEYS    256
#define ES2S_MAX_TENSORS 4096

typedef enum es2s_dtype { ES2S_FLOAT32 = 1, ES2S_INT8 = 2 } es2s_dtype;

typedef struct es2s_weights_file {
    const uint8_t *data; /* [size] little-endian, at any alignment */
    size_t size;
    const uint8_t *keys;    /* [n_keys] entries, names ascending */
    const uint8_t *tensors; /* [n_tensors] entries, names ascending */
    uint32_t minor;         /* version: 1 if the file has optional keys, else 0 */
    uint32_t n_keys, n_tensors, n_optional_asked;
    bool key_asked[ES2S_MAX_KEYS];
    bool tensor_asked[ES2S_MAX_TENSORS];
} es2s_weights_file;

/* file_out refers to data, which must live as long. Fails with BAD_FORMAT, UNSUPPORTED_VERSION. */
es2s_status es2s_weights_file_parse(es2s_weights_file *file_out, const void *data, size_t size);

/* Compares a parsed file with the SHA-256 in its header. Fails with BAD_FORMAT. */
es2s_status es2s_weights_file_verify(const es2s_weights_file *file);

/* The same of two, in hardly more time than the larger one takes (sha256.h). *damaged_out: the one that
 * fails, or NULL. */
es2s_status es2s_weights_files_verify(const es2s_weights_file *first, const es2s_weights_file *second,
                                      const es2s_weights_file **damaged_out);

/* Whether the file has a key that may be absent, which then means its default. The file has it only for other
 * values, and says so in its minor version. */
bool es2s_weights_file_has(es2s_weights_file *file, const char *optional_key);

/* An integer in [min, max]. Each of the following fails with BAD_FORMAT, naming key or tensor, expected and
 * found. */
es2s_status es2s_weights_file_get_int(es2s_weights_file *file, const char *name, int32_t min, int32_t max,
                                      int32_t *value_out);

/* A finite number in [min, max]. */
es2s_status es2s_weights_file_get_float(es2s_weights_file *file, const char *name, double min, double max,
                                        double *value_out);

/* UTF-8 of *len_out bytes without NUL, not terminated. */
es2s_status es2s_weights_file_get_string(es2s_weights_file *file, const char *name, const char **value_out,
                                         size_t *len_out);

/* A tensor of this type and shape; dims: [n_dims], 0 = any, and is replaced by what the file has.
 * *data_out has the alignment of the file's data. */
es2s_status es2s_weights_file_get_tensor(es2s_weights_file *file, const char *name, es2s_dtype dtype,
                                         int n_dims, uint64_t *dims, const void **data_out);

/* Fails if the file has a key (but for "ext." ones) or a tensor that was never asked for, or minor version 1
 * without an optional key. */
es2s_status es2s_weights_file_check_all_asked(const es2s_weights_file *file);

#endif
