/*
 * Text while a tokenizer works on it: UTF-8 bytes, cut into pieces. It grows as it needs; a failed allocation is
 * remembered and makes everything that follows do nothing, so that a pipeline checks once, at its end.
 */
#ifndef ES2S_TEXT_H
#define ES2S_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct es2s_text {
    uint8_t *bytes;
    uint8_t *starts; /* [len] 1 where a piece begins */
    size_t len, capacity;
    bool begins_piece; /* the next byte does */
    bool failed;
} es2s_text;

/* One piece so far. */
void es2s_text_clear(es2s_text *t);
void es2s_text_free(es2s_text *t);

void es2s_text_append(es2s_text *t, const void *bytes, size_t n);
void es2s_text_append_character(es2s_text *t, uint32_t c);

/* Where the piece that holds byte i ends. */
size_t es2s_text_piece_end(const es2s_text *t, size_t i);

/* Whether `pattern` of n bytes lies at byte i, within its piece. n >= 1. */
bool es2s_text_has_at(const es2s_text *t, size_t i, const uint8_t *pattern, size_t n);

/* Bytes of the character that begins with this one, 1..4; the text is valid UTF-8. */
size_t es2s_character_len(uint8_t first);

/* The character at p; its bytes are all there. */
uint32_t es2s_character(const uint8_t *p);

/* UTF-8 of a character; returns its length. */
size_t es2s_character_bytes(uint32_t c, uint8_t bytes[4]);

/* Bytes from p on that are UTF-8, n at most. */
size_t es2s_valid_utf8(const uint8_t *p, size_t n);

#endif
