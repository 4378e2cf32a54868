/*
 * A libFuzzer target: an input is a tokenizer.table, as long as its header says, then a text. The table is read as
 * it is; what is accepted tokenizes the text and writes its tokens, and the text's bytes as tokens, as texts.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

enum { MAX_SIZE = 1 << 16, ROOM = 1 << 12 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const es2s_tokenizer *t, const int32_t *ids, size_t n) {
    static char text[ROOM];
    size_t n_bytes = 0;
    if (es2s_tokenizer_decode(t, ids, n, text, sizeof text, &n_bytes) != ES2S_OK) abort();
    const size_t n_written = n_bytes < sizeof text ? n_bytes : 0; /* else it may end within a character */
    if (es2s_valid_utf8((const uint8_t *)text, n_written) != n_written) abort();
}

static void use(const es2s_tokenizer *t, const uint8_t *text, size_t n_bytes) {
    static int32_t ids[ROOM];
    size_t n = 0;
    const es2s_status status = es2s_tokenizer_encode(t, (const char *)text, n_bytes, ids, ROOM, &n);
    if ((status == ES2S_OK) != (es2s_valid_utf8(text, n_bytes) == n_bytes)) abort();
    n = status != ES2S_OK ? 0 : n < ROOM ? n : ROOM;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < -1 || ids[i] >= t->vocab_size) abort();
    decode(t, ids, n);
    for (n = 0; n < n_bytes && n < ROOM; n++)
        ids[n] = text[n] - 2;
    decode(t, ids, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > MAX_SIZE || size < 64) return 0;
    size_t table_size = size;
    if (es2s_u32(data, 6) < size && es2s_u32(data, 7) == 0) table_size = es2s_u32(data, 6);
    uint8_t *table = malloc(table_size), *text = malloc(size - table_size); /* nothing behind them */
    memcpy(table, data, table_size);
    memcpy(text, data + table_size, size - table_size);
    es2s_loader l = {0};
    es2s_tokenizer t;
    l.status = es2s_weights_file_parse(&l.file, table, table_size); /* a hash keeps only a fuzzer out */
    es2s_tokenizer_read(&l, &t, (const uint8_t *)"x: ", 3);
    if (l.status == ES2S_OK) use(&t, text, size - table_size);
    free(table);
    free(text);
    return 0;
}
