/*
 * The files that a model is loaded from: one decoder.weights, or a bundle, which is a folder or an .es2s.
 *
 * Of an .es2s only what leads to these files is read; each of them has a hash of its own. The layout is
 * specified in edge_s2s/stored_zip.py.
 */
#ifndef ES2S_BUNDLE_FILE_H
#define ES2S_BUNDLE_FILE_H

#include "platform.h"

typedef struct es2s_span {
    const void *data; /* NULL: there is no such file */
    size_t size;
    bool is_mapped; /* data lie in a read-only mapping of a file */
} es2s_span;

typedef struct es2s_bundle_file {
    es2s_mapping mappings[4]; /* empty where there is none */
    es2s_span decoder, encoder, tokenizer, manifest;
    bool is_bundle; /* else it is a decoder.weights alone */
} es2s_bundle_file;

/* Maps what is at `path`. Fails with IO, BAD_FORMAT. */
es2s_status es2s_bundle_file_open(const char *path, es2s_bundle_file *bundle_out);

/* The same for a bundle in memory, or a decoder.weights; maps nothing. */
es2s_status es2s_bundle_file_read(const void *data, size_t size, es2s_bundle_file *bundle_out);

/* Accepts an empty one. */
void es2s_bundle_file_close(es2s_bundle_file *bundle);

#endif
