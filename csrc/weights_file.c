/*
 * Entries are decoded byte by byte where they lie: the data may start at any alignment, and nothing of the
 * file is used as a size, a count or an index before it was compared with what the file can hold. The whole
 * parser is one pass over both tables, without recursion or allocation.
 */
#include "weights_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "sha256.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are little-endian and used in place"
#endif

enum {
    VERSION_MAJOR = 1,
    VERSION_MINOR = 1,

    HEADER_SIZE = 64, /* magic[8] major minor n_keys n_tensors file_size[8] sha256[32] */
    KEY_SIZE = 256,   /* name[48] type length value[200] */
    KEY_NAME = 48,
    KEY_VALUE = 56,
    KEY_VALUE_SIZE = 200,
    TENSOR_SIZE = 128, /* name[64] dtype n_dims dims[4 * 8] offset[8] size_bytes[8] zero[8] */
    TENSOR_NAME = 64,
    TENSOR_DIMS = 72,
    TENSOR_OFFSET = 104,
    MAX_DIMS = 4,
    ALIGNMENT = 64
};

#define MAX_FILE_SIZE ((uint64_t)1 << 40) /* so the end of a tensor, below twice that, cannot wrap */

enum { KEY_INT = 1, KEY_FLOAT = 2, KEY_STRING = 3 };

static uint32_t read_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t read_u64(const uint8_t *p) {
    return read_u32(p) | (uint64_t)read_u32(p + 4) << 32;
}

static uint64_t align_up(uint64_t offset) {
    return (offset + (ALIGNMENT - 1)) / ALIGNMENT * ALIGNMENT;
}

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0) return false;
    return true;
}

/* A name of [a-z0-9_.]+, zero-padded, at least one zero: afterwards it is a C string. */
static bool is_name(const uint8_t *field, size_t size) {
    size_t len = 0;
    for (; len < size && field[len] != 0; len++) {
        const uint8_t c = field[len];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.')) return false;
    }
    return len > 0 && len < size && all_zero(field + len, size - len);
}

/* Unicode 15, table 3-7: the shortest form only, no surrogates. Zero bytes are refused too. */
static bool is_utf8_without_nul(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n;) {
        const uint8_t first = p[i++];
        if (first == 0) return false;
        if (first < 0x80) continue;
        if (first < 0xC2 || first > 0xF4) return false;
        int n_more = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        uint8_t low = 0x80, high = 0xBF;
        if (first == 0xE0) low = 0xA0;
        if (first == 0xED) high = 0x9F;
        if (first == 0xF0) low = 0x90;
        if (first == 0xF4) high = 0x8F;
        for (; n_more > 0; n_more--, low = 0x80, high = 0xBF)
            if (i == n || p[i] < low || p[i++] > high) return false;
    }
    return true;
}

static const char *dtype_name(uint32_t dtype) {
    return dtype == ES2S_INT8 ? "int8" : "float32";
}

/* ---- structure ---- */

static es2s_status check_header(const uint8_t *data, size_t size) {
    if (size < HEADER_SIZE)
        return es2s_fail(ES2S_BAD_FORMAT, "weights: expected at least %d bytes, found %zu", HEADER_SIZE,
                         size);
    if (memcmp(data, "es2swts", 8) != 0)
        return es2s_fail(ES2S_BAD_FORMAT, "weights: expected a file that starts with \"es2swts\"");
    const uint32_t major = read_u32(data + 8), minor = read_u32(data + 12);
    if (major > VERSION_MAJOR || (major == VERSION_MAJOR && minor > VERSION_MINOR))
        return es2s_fail(ES2S_UNSUPPORTED_VERSION,
                         "weights: expected format %d.%d, found %" PRIu32 ".%" PRIu32
                         ", written by a newer exporter: needs a newer edge_s2s",
                         VERSION_MAJOR, VERSION_MINOR, major, minor);
    if (major != VERSION_MAJOR)
        return es2s_fail(ES2S_UNSUPPORTED_VERSION,
                         "weights: expected format %d.%d, found %" PRIu32 ".%" PRIu32, VERSION_MAJOR,
                         VERSION_MINOR, major, minor);
    const uint32_t n_keys = read_u32(data + 16), n_tensors = read_u32(data + 20);
    if (n_keys < 1 || n_keys > ES2S_MAX_KEYS)
        return es2s_fail(ES2S_BAD_FORMAT, "weights: expected 1..%d keys, found %" PRIu32, ES2S_MAX_KEYS,
                         n_keys);
    if (n_tensors < 1 || n_tensors > ES2S_MAX_TENSORS)
        return es2s_fail(ES2S_BAD_FORMAT, "weights: expected 1..%d tensors, found %" PRIu32, ES2S_MAX_TENSORS,
                         n_tensors);
    const uint64_t file_size = read_u64(data + 24);
    if (file_size != size || file_size > MAX_FILE_SIZE)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "weights: expected %" PRIu64 " bytes, as the header says, found %zu", file_size,
                         size);
    if ((size - HEADER_SIZE) < (size_t)n_keys * KEY_SIZE + (size_t)n_tensors * TENSOR_SIZE)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "weights: expected %" PRIu32 " keys and %" PRIu32
                         " tensors, found the end of the file",
                         n_keys, n_tensors);
    return ES2S_OK;
}

static es2s_status check_key(const uint8_t *key, uint32_t i) {
    if (!is_name(key, KEY_NAME))
        return es2s_fail(ES2S_BAD_FORMAT, "key %" PRIu32 ": expected a zero-padded name of [a-z0-9_.]", i);
    const char *name = (const char *)key;
    if (i > 0 && strcmp(name, (const char *)key - KEY_SIZE) <= 0)
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected names in ascending order", name);
    const uint32_t type = read_u32(key + KEY_NAME), length = read_u32(key + KEY_NAME + 4);
    const uint8_t *value = key + KEY_VALUE;
    if (type < KEY_INT || type > KEY_STRING)
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected type 1, 2 or 3, found %" PRIu32, name, type);
    if (type == KEY_STRING ? length > KEY_VALUE_SIZE : length != 8)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "key \"%s\": expected 8 bytes, or a string of up to %d, found %" PRIu32, name,
                         KEY_VALUE_SIZE, length);
    if (!all_zero(value + length, KEY_VALUE_SIZE - length))
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected zeros after the value", name);
    if (type == KEY_STRING && !is_utf8_without_nul(value, length))
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected UTF-8 without a zero byte", name);
    return ES2S_OK;
}

/* *end is where the bytes before the tensor end, then where it ends itself; never above `size`. */
static es2s_status check_tensor(const uint8_t *data, size_t size, const uint8_t *tensor, uint32_t i,
                                size_t *end) {
    if (!is_name(tensor, TENSOR_NAME))
        return es2s_fail(ES2S_BAD_FORMAT, "tensor %" PRIu32 ": expected a zero-padded name of [a-z0-9_.]", i);
    const char *name = (const char *)tensor;
    if (i > 0 && strcmp(name, (const char *)tensor - TENSOR_SIZE) <= 0)
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected names in ascending order", name);
    const uint32_t dtype = read_u32(tensor + TENSOR_NAME), n_dims = read_u32(tensor + TENSOR_NAME + 4);
    if (dtype != ES2S_FLOAT32 && dtype != ES2S_INT8)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "tensor \"%s\": expected dtype 1 (float32) or 2 (int8), found %" PRIu32, name,
                         dtype);
    if (n_dims < 1 || n_dims > MAX_DIMS)
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected 1..%d dimensions, found %" PRIu32, name,
                         MAX_DIMS, n_dims);

    uint64_t n_bytes = dtype == ES2S_FLOAT32 ? 4 : 1; /* stays <= size, so it cannot wrap */
    for (uint32_t d = 0; d < MAX_DIMS; d++) {
        const uint64_t dim = read_u64(tensor + TENSOR_DIMS + 8 * d);
        if (d < n_dims ? dim < 1 : dim != 0)
            return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected dimensions >= 1 and unused ones 0",
                             name);
        if (d < n_dims && dim > size / n_bytes)
            return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": larger than the file", name);
        if (d < n_dims) n_bytes *= dim;
    }
    const uint64_t offset = read_u64(tensor + TENSOR_OFFSET),
                   size_bytes = read_u64(tensor + TENSOR_OFFSET + 8);
    if (size_bytes != n_bytes)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "tensor \"%s\": expected %" PRIu64 " bytes for its shape, found %" PRIu64, name,
                         n_bytes, size_bytes);
    if (!all_zero(tensor + TENSOR_OFFSET + 16, 8))
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected zeros at the end of its entry", name);
    if (offset != align_up(*end))
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected offset %" PRIu64 ", found %" PRIu64, name,
                         align_up(*end), offset);
    if (offset > size || n_bytes > size - offset)
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected it to end within the file", name);
    if (!all_zero(data + *end, (size_t)offset - *end))
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected zeros in the gap before it", name);
    *end = (size_t)(offset + n_bytes);
    return ES2S_OK;
}

es2s_status es2s_weights_file_parse(es2s_weights_file *file_out, const void *data, size_t size) {
    const uint8_t *bytes = data;
    ES2S_TRY(check_header(bytes, size));
    const uint32_t minor = read_u32(bytes + 12);
    const uint32_t n_keys = read_u32(bytes + 16), n_tensors = read_u32(bytes + 20);
    const uint8_t *keys = bytes + HEADER_SIZE;
    const uint8_t *tensors = keys + (size_t)n_keys * KEY_SIZE;
    for (uint32_t i = 0; i < n_keys; i++)
        ES2S_TRY(check_key(keys + (size_t)i * KEY_SIZE, i));
    size_t end = HEADER_SIZE + (size_t)n_keys * KEY_SIZE + (size_t)n_tensors * TENSOR_SIZE;
    for (uint32_t i = 0; i < n_tensors; i++)
        ES2S_TRY(check_tensor(bytes, size, tensors + (size_t)i * TENSOR_SIZE, i, &end));
    if (align_up(end) != size)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "weights: expected %" PRIu64 " bytes, up to the last tensor, found %zu",
                         align_up(end), size);
    if (!all_zero(bytes + end, size - end))
        return es2s_fail(ES2S_BAD_FORMAT, "weights: expected zeros after the last tensor");

    *file_out = (es2s_weights_file){.data = bytes,
                                    .size = size,
                                    .keys = keys,
                                    .tensors = tensors,
                                    .minor = minor,
                                    .n_keys = n_keys,
                                    .n_tensors = n_tensors};
    return ES2S_OK;
}

static es2s_status check_digest(const es2s_weights_file *file, const uint8_t digest[32]) {
    if (memcmp(digest, file->data + 32, 32) == 0) return ES2S_OK;
    return es2s_fail(ES2S_BAD_FORMAT, "weights: expected the SHA-256 of the header: the file is damaged");
}

es2s_status es2s_weights_file_verify(const es2s_weights_file *file) {
    uint8_t digest[32];
    es2s_sha256(file->data + HEADER_SIZE, file->size - HEADER_SIZE, digest);
    return check_digest(file, digest);
}

es2s_status es2s_weights_files_verify(const es2s_weights_file *first, const es2s_weights_file *second,
                                      const es2s_weights_file **damaged_out) {
    const es2s_weights_file *const files[] = {first, second};
    const void *const data[] = {first->data + HEADER_SIZE, second->data + HEADER_SIZE};
    const size_t sizes[] = {first->size - HEADER_SIZE, second->size - HEADER_SIZE};
    uint8_t digests[2][32];
    es2s_sha256_two(data, sizes, digests);
    es2s_status status = ES2S_OK;
    *damaged_out = NULL;
    for (int i = 0; i < 2 && status == ES2S_OK; i++)
        if ((status = check_digest(files[i], digests[i])) != ES2S_OK) *damaged_out = files[i];
    return status;
}

/* ---- look-up ---- */

/* Binary search of a table whose entries start with their name; NULL if there is none. Marks it as asked for.
 */
static const uint8_t *find(const uint8_t *table, uint32_t n, size_t entry_size, const char *name,
                           bool *asked) {
    uint32_t low = 0, high = n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint8_t *entry = table + middle * entry_size;
        const int order = strcmp(name, (const char *)entry);
        if (order == 0) {
            asked[middle] = true;
            return entry;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static es2s_status find_key(es2s_weights_file *file, const char *name, uint32_t type,
                            const uint8_t **key_out) {
    static const char *const type_names[] = {"", "an integer", "a float", "a string"};
    const uint8_t *key = find(file->keys, file->n_keys, KEY_SIZE, name, file->key_asked);
    if (!key)
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected %s, found no such key", name,
                         type_names[type]);
    const uint32_t found = read_u32(key + KEY_NAME);
    if (found != type)
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected %s, found %s", name, type_names[type],
                         type_names[found]);
    *key_out = key;
    return ES2S_OK;
}

bool es2s_weights_file_has(es2s_weights_file *file, const char *optional_key) {
    if (file->minor == 0) return false; /* if it is there, nobody has asked for it */
    const bool found = find(file->keys, file->n_keys, KEY_SIZE, optional_key, file->key_asked) != NULL;
    file->n_optional_asked += found;
    return found;
}

es2s_status es2s_weights_file_get_int(es2s_weights_file *file, const char *name, int32_t min, int32_t max,
                                      int32_t *value_out) {
    const uint8_t *key;
    ES2S_TRY(find_key(file, name, KEY_INT, &key));
    int64_t value;
    memcpy(&value, key + KEY_VALUE, sizeof value);
    if (value < min || value > max)
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected %" PRId32 "..%" PRId32 ", found %" PRId64,
                         name, min, max, value);
    *value_out = (int32_t)value;
    return ES2S_OK;
}

es2s_status es2s_weights_file_get_float(es2s_weights_file *file, const char *name, double min, double max,
                                        double *value_out) {
    const uint8_t *key;
    ES2S_TRY(find_key(file, name, KEY_FLOAT, &key));
    double value;
    memcpy(&value, key + KEY_VALUE, sizeof value);
    if (!(value >= min && value <= max)) /* NaN is neither */
        return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected %g..%g, found %g", name, min, max, value);
    *value_out = value;
    return ES2S_OK;
}

es2s_status es2s_weights_file_get_string(es2s_weights_file *file, const char *name, const char **value_out,
                                         size_t *len_out) {
    const uint8_t *key;
    ES2S_TRY(find_key(file, name, KEY_STRING, &key));
    *value_out = (const char *)key + KEY_VALUE;
    *len_out = read_u32(key + KEY_NAME + 4);
    return ES2S_OK;
}

/* "int8 [512, 64]"; "n" stands for a dimension of 0. */
static void print_type(char text[128], uint32_t dtype, int n_dims, const uint64_t *dims) {
    int len = snprintf(text, 128, "%s [", dtype_name(dtype));
    for (int d = 0; d < n_dims; d++) {
        const char *separator = d + 1 < n_dims ? ", " : "]";
        len += dims[d] == 0 ? snprintf(text + len, 128 - (size_t)len, "n%s", separator)
                            : snprintf(text + len, 128 - (size_t)len, "%" PRIu64 "%s", dims[d], separator);
    }
}

es2s_status es2s_weights_file_get_tensor(es2s_weights_file *file, const char *name, es2s_dtype dtype,
                                         int n_dims, uint64_t *dims, const void **data_out) {
    char expected[128], found[128];
    print_type(expected, dtype, n_dims, dims);
    const uint8_t *tensor = find(file->tensors, file->n_tensors, TENSOR_SIZE, name, file->tensor_asked);
    if (!tensor)
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected %s, found no such tensor", name, expected);

    const uint32_t found_dtype = read_u32(tensor + TENSOR_NAME);
    const int found_n_dims = (int)read_u32(tensor + TENSOR_NAME + 4);
    uint64_t found_dims[MAX_DIMS];
    bool same = found_dtype == dtype && found_n_dims == n_dims;
    for (int d = 0; d < found_n_dims; d++) {
        found_dims[d] = read_u64(tensor + TENSOR_DIMS + 8 * d);
        same = same && (dims[d] == 0 || dims[d] == found_dims[d]);
    }
    if (!same) {
        print_type(found, found_dtype, found_n_dims, found_dims);
        return es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected %s, found %s", name, expected, found);
    }
    memcpy(dims, found_dims, (size_t)n_dims * sizeof *dims);
    *data_out = file->data + read_u64(tensor + TENSOR_OFFSET);
    return ES2S_OK;
}

es2s_status es2s_weights_file_check_all_asked(const es2s_weights_file *file) {
    if (file->minor > 0 && file->n_optional_asked == 0)
        return es2s_fail(ES2S_BAD_FORMAT,
                         "weights: expected minor version 0 without optional keys, found %" PRIu32,
                         file->minor);
    for (uint32_t i = 0; i < file->n_keys; i++) {
        const char *name = (const char *)file->keys + (size_t)i * KEY_SIZE;
        if (!file->key_asked[i] && strncmp(name, "ext.", 4) != 0)
            return es2s_fail(ES2S_BAD_FORMAT, "key \"%s\": expected the keys of format %d.%d, found one more",
                             name, VERSION_MAJOR, VERSION_MINOR);
    }
    for (uint32_t i = 0; i < file->n_tensors; i++)
        if (!file->tensor_asked[i])
            return es2s_fail(
                ES2S_BAD_FORMAT,
                "tensor \"%s\": expected only the tensors that the keys call for, found one more",
                (const char *)file->tensors + (size_t)i * TENSOR_SIZE);
    return ES2S_OK;
}
