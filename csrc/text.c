#include "text.h"

#include <string.h>

#include "platform.h"

void es2s_text_clear(es2s_text *t) {
    t->len = 0;
    t->begins_piece = true;
}

void es2s_text_free(es2s_text *t) {
    es2s_free(t->bytes);
    *t = (es2s_text){0};
}

/* One block for bytes and starts; it doubles, so that the work is in proportion to the text. */
static bool reserve(es2s_text *t, size_t n) {
    if (t->failed || n <= t->capacity - t->len) return !t->failed;
    if (n > SIZE_MAX / 8 - t->len) {
        t->failed = true;
        return false;
    }
    const size_t capacity = (t->len + n) * 2 < 256 ? 256 : (t->len + n) * 2;
    uint8_t *bytes = es2s_alloc(2 * capacity);
    if (!bytes) {
        t->failed = true;
        return false;
    }
    if (t->len > 0) {
        memcpy(bytes, t->bytes, t->len);
        memcpy(bytes + capacity, t->starts, t->len);
    }
    es2s_free(t->bytes);
    t->bytes = bytes;
    t->starts = bytes + capacity;
    t->capacity = capacity;
    return true;
}

void es2s_text_append(es2s_text *t, const void *bytes, size_t n) {
    if (n == 0 || !reserve(t, n)) return;
    memcpy(t->bytes + t->len, bytes, n);
    memset(t->starts + t->len, 0, n);
    t->starts[t->len] = t->begins_piece;
    t->begins_piece = false;
    t->len += n;
}

void es2s_text_append_character(es2s_text *t, uint32_t c) {
    uint8_t bytes[4];
    es2s_text_append(t, bytes, es2s_character_bytes(c, bytes));
}

size_t es2s_text_piece_end(const es2s_text *t, size_t i) {
    do
        i++;
    while (i < t->len && !t->starts[i]);
    return i;
}

bool es2s_text_has_at(const es2s_text *t, size_t i, const uint8_t *pattern, size_t n) {
    if (n > t->len - i || memcmp(t->bytes + i, pattern, n) != 0) return false;
    return memchr(t->starts + i + 1, 1, n - 1) == NULL;
}

size_t es2s_character_len(uint8_t first) {
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

uint32_t es2s_character(const uint8_t *p) {
    if (p[0] < 0xC0) return p[0];
    if (p[0] < 0xE0) return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    if (p[0] < 0xF0) return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

size_t es2s_character_bytes(uint32_t c, uint8_t bytes[4]) {
    if (c < 0x80) {
        bytes[0] = (uint8_t)c;
        return 1;
    }
    const size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        bytes[i] = (uint8_t)(0x80 | (c & 0x3F));
    bytes[0] = (uint8_t)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | c);
    return n;
}

/* Bytes of the character at p, or 0 if it is none. */
static size_t valid_character(const uint8_t *p, size_t n) {
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xC2 || p[0] > 0xF4) return 0;
    const size_t len = es2s_character_len(p[0]);
    if (len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    const uint32_t c = es2s_character(p);
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0;
    return len < 3 || c >= (len == 3 ? 0x800u : 0x10000u) ? len : 0;
}

size_t es2s_valid_utf8(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        const size_t len = valid_character(p + i, n - i);
        if (len == 0) break;
        i += len;
    }
    return i;
}
