/*
 * What a tokenizer's file says of characters: classes, and Unicode normalization (Unicode Standard Annex 15).
 * A table of all characters is pages of 128; equal ones are stored once. Each is checked when it is read.
 */
#ifndef ES2S_UNICODE_TABLE_H
#define ES2S_UNICODE_TABLE_H

#include "loader.h"
#include "text.h"

enum { ES2S_N_CHARACTERS = 0x110000, ES2S_PAGE = 128, ES2S_N_PAGES = ES2S_N_CHARACTERS / ES2S_PAGE };

/* Bits of a class. Numbers are what an expression's \p{N} is, of an older Unicode than the other. */
enum { ES2S_NUMERIC = 1, ES2S_WHITE = 2, ES2S_LETTER = 4, ES2S_PYTHON_WHITE = 8, ES2S_NUMBER = 16 };

typedef struct es2s_pages {
    const uint8_t *pages;  /* [ES2S_N_PAGES] uint16: which block; NULL: all values are 0 */
    const uint8_t *blocks; /* [n, ES2S_PAGE] of `width` bytes each */
    size_t width;          /* 1, or 2 */
    size_t n_values;       /* in all blocks */
} es2s_pages;

typedef struct es2s_unicode {
    es2s_pages classes;
    es2s_pages decomposition; /* number of a decomposition, 0 = none */
    es2s_pages combining;     /* canonical combining class */
    size_t n_decompositions, n_characters, n_compositions;
    const uint8_t *ends;         /* [n_decompositions] uint32: where each ends in `characters` */
    const uint8_t *characters;   /* [n_characters] uint32 */
    const uint8_t *compositions; /* [n_compositions] uint32 first, second, composed; ascending */
} es2s_unicode;

/* Little-endian numbers at any alignment. */
uint32_t es2s_u32(const uint8_t *array, size_t i);

/* `classes.*` if has_classes, `normalization.*` if it has that; composes: with compositions. */
es2s_unicode es2s_unicode_read(es2s_loader *l, bool has_classes, bool has_normalization);

/* Bytes of a tensor int8[*n_rows, width] by its name; NULL after a failure. */
const uint8_t *es2s_read_bytes(es2s_loader *l, const char *name, size_t width, size_t *n_rows);

uint32_t es2s_class_of(const es2s_unicode *u, uint32_t c);

/* out = in decomposed and, if `composes`, composed again: one piece. Returns false without memory. */
bool es2s_unicode_normalize(const es2s_unicode *u, bool composes, const es2s_text *in, es2s_text *out);

#endif
