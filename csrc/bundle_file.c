#include "bundle_file.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

enum {
    END_SIZE = 22,     /* of the record that ends a zip */
    CENTRAL_SIZE = 46, /* of an entry of its directory, without its name */
    LOCAL_SIZE = 30,   /* of what stands before a file, without name and extra field */
    MAX_ENTRIES = 65,
    MAX_PATH = 4096
};

static uint32_t u16(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t u32(const uint8_t *p) {
    return u16(p) | u16(p + 2) << 16;
}

enum { N_FILES = 4 };

static const char *const names[N_FILES] = {"decoder.weights", "encoder.weights", "tokenizer.table",
                                           "manifest.json"};

static es2s_span *span_of(es2s_bundle_file *bundle, const void *name, size_t n) {
    es2s_span *const spans[N_FILES] = {&bundle->decoder, &bundle->encoder, &bundle->tokenizer,
                                       &bundle->manifest};
    for (size_t i = 0; i < N_FILES; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0) return spans[i];
    return NULL;
}

/* The entry of the directory at *at, which is moved behind it. Each file begins where the last one ends. */
static es2s_status read_entry(const uint8_t *data, size_t end, size_t *at, size_t start, size_t *data_end,
                              es2s_bundle_file *bundle) {
    const uint8_t *entry = data + *at;
    if (end - *at < CENTRAL_SIZE || memcmp(entry, "PK\1\2", 4) != 0)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected a directory entry at byte %zu", *at);
    const size_t n_name = u16(entry + 28), size = u32(entry + 24), offset = u32(entry + 42);
    if (end - *at - CENTRAL_SIZE < n_name || n_name > 64)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected a name of up to 64 bytes at byte %zu", *at);
    *at += CENTRAL_SIZE + n_name;
    if (offset != *data_end || start - offset < LOCAL_SIZE || memcmp(data + offset, "PK\3\4", 4) != 0)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected a file at byte %zu", *data_end);
    const uint8_t *local = data + offset;
    const size_t header = LOCAL_SIZE + u16(local + 26) + u16(local + 28);
    if (u16(local + 8) != 0 || u16(entry + 10) != 0 || u32(local + 22) != size || u32(local + 18) != size ||
        u16(local + 26) != n_name || start - offset < LOCAL_SIZE + n_name ||
        memcmp(local + LOCAL_SIZE, entry + CENTRAL_SIZE, n_name) != 0)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "bundle: expected the file at byte %zu uncompressed, as its entry says", offset);
    if (start - offset < header || start - offset - header < size)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected the file at byte %zu to end before the directory",
                         offset);
    es2s_span *span = span_of(bundle, entry + CENTRAL_SIZE, n_name);
    if (span && span->data)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected each name once, found another at byte %zu",
                         offset);
    if (span) *span = (es2s_span){.data = local + header, .size = size};
    *data_end = offset + header + size;
    return ES2S_OK;
}

static es2s_status read_zip(const uint8_t *data, size_t size, es2s_bundle_file *bundle) {
    if (size < END_SIZE || memcmp(data + size - END_SIZE, "PK\5\6", 4) != 0)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected the end record of a zip: the file is incomplete");
    const uint8_t *record = data + size - END_SIZE;
    const size_t n_entries = u16(record + 10), start = u32(record + 16), end = size - END_SIZE;
    if (n_entries < 1 || n_entries > MAX_ENTRIES || start > end)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected 1..%d entries and their directory", MAX_ENTRIES);
    size_t at = start, data_end = 0;
    for (size_t i = 0; i < n_entries; i++)
        ES2S_TRY(read_entry(data, end, &at, start, &data_end, bundle));
    if (at != end || data_end != start)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected nothing between its parts");
    if (!bundle->decoder.data)
        return es2s_fail(ES2S_BAD_FORMAT, "bundle: expected decoder.weights, found no such file");
    return ES2S_OK;
}

es2s_status es2s_bundle_file_read(const void *data, size_t size, es2s_bundle_file *bundle_out) {
    es2s_bundle_file bundle = {0};
    bundle.is_bundle = size >= 2 && memcmp(data, "PK", 2) == 0;
    if (bundle.is_bundle)
        ES2S_TRY(read_zip(data, size, &bundle));
    else
        bundle.decoder = (es2s_span){.data = data, .size = size};
    *bundle_out = bundle;
    return ES2S_OK;
}

/* `name` in the folder `path`; nothing if it may be absent and is. */
static es2s_status map_entry(const char *path, const char *name, bool may_be_absent, es2s_mapping *mapping) {
    char joined[MAX_PATH];
    const int n = snprintf(joined, sizeof joined, "%s/%s", path, name);
    if (n < 0 || n >= MAX_PATH)
        return es2s_fail(ES2S_IO, "%.60s...: expected a path of up to %d bytes", path, MAX_PATH);
    return may_be_absent && !es2s_path_exists(joined) ? ES2S_OK : es2s_file_map(joined, mapping);
}

static es2s_status open_folder(const char *path, es2s_bundle_file *bundle) {
    bundle->is_bundle = true;
    for (size_t i = 0; i < N_FILES; i++) {
        es2s_mapping *mapping = &bundle->mappings[i];
        const es2s_status status = map_entry(path, names[i], i > 0, mapping);
        if (status != ES2S_OK) return status;
        if (mapping->data)
            *span_of(bundle, names[i], strlen(names[i])) =
                (es2s_span){.data = mapping->data, .size = mapping->size};
    }
    return ES2S_OK;
}

es2s_status es2s_bundle_file_open(const char *path, es2s_bundle_file *bundle_out) {
    es2s_bundle_file bundle = {0};
    es2s_status status;
    if (es2s_is_folder(path)) {
        status = open_folder(path, &bundle);
    } else if ((status = es2s_file_map(path, &bundle.mappings[0])) == ES2S_OK) {
        const es2s_mapping file = bundle.mappings[0];
        status = es2s_bundle_file_read(file.data, file.size, &bundle);
        bundle.mappings[0] = file;
    }
    bundle.decoder.is_mapped = bundle.encoder.is_mapped = bundle.tokenizer.is_mapped = true;
    if (status != ES2S_OK)
        es2s_bundle_file_close(&bundle);
    else
        *bundle_out = bundle;
    return status;
}

void es2s_bundle_file_close(es2s_bundle_file *bundle) {
    for (size_t i = 0; i < N_FILES; i++)
        es2s_file_unmap(&bundle->mappings[i]);
}
