#include "unicode_table.h"

#include <string.h>

#include "error.h"
#include "platform.h"

enum { /* Hangul syllables are composed of these by arithmetic */
    SYLLABLE = 0xAC00,
    LEAD = 0x1100,
    VOWEL = 0x1161,
    TRAIL = 0x11A7, /* one before the first */
    N_LEADS = 19,
    N_VOWELS = 21,
    N_TRAILS = 28,
    N_SYLLABLES = N_LEADS * N_VOWELS * N_TRAILS
};

uint32_t es2s_u32(const uint8_t *array, size_t i) {
    const uint8_t *p = array + 4 * i;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

const uint8_t *es2s_read_bytes(es2s_loader *l, const char *name, size_t width, size_t *n_rows) {
    uint64_t dims[] = {0, width};
    const void *data = NULL;
    *n_rows = 0;
    if (l->status != ES2S_OK) return NULL;
    l->status = es2s_weights_file_get_tensor(&l->file, name, ES2S_INT8, 2, dims, &data);
    if (l->status == ES2S_OK) *n_rows = (size_t)dims[0];
    return data;
}

static void refuse(es2s_loader *l, const char *name, const char *expected) {
    if (l->status == ES2S_OK)
        l->status = es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected %s", name, expected);
}

static uint32_t value_at(const es2s_pages *t, size_t i) {
    return t->width == 1 ? t->blocks[i] : t->blocks[2 * i] | (uint32_t)t->blocks[2 * i + 1] << 8;
}

static uint32_t value_of(const es2s_pages *t, uint32_t c) {
    if (!t->pages) return 0;
    const uint8_t *page = t->pages + 2 * (c / ES2S_PAGE);
    return value_at(t, ((size_t)page[0] | (size_t)page[1] << 8) * ES2S_PAGE + c % ES2S_PAGE);
}

static es2s_pages read_pages(es2s_loader *l, const char *pages, const char *blocks, size_t width) {
    size_t n_pages, n_blocks;
    es2s_pages t = {.width = width};
    t.pages = es2s_read_bytes(l, pages, 2, &n_pages);
    t.blocks = es2s_read_bytes(l, blocks, ES2S_PAGE * width, &n_blocks);
    t.n_values = n_blocks * ES2S_PAGE;
    if (n_pages != ES2S_N_PAGES) refuse(l, pages, "a page for each 128 characters");
    for (size_t i = 0; l->status == ES2S_OK && i < n_pages; i++)
        if (((size_t)t.pages[2 * i] | (size_t)t.pages[2 * i + 1] << 8) >= n_blocks)
            refuse(l, pages, "numbers of blocks");
    return t;
}

es2s_unicode es2s_unicode_read(es2s_loader *l, bool has_classes, bool has_normalization) {
    es2s_unicode u = {0};
    if (has_classes) u.classes = read_pages(l, "classes.pages", "classes.blocks", 1);
    if (!has_normalization) return u;
    u.decomposition = read_pages(l, "decomposition.pages", "decomposition.blocks", 2);
    u.combining = read_pages(l, "combining.pages", "combining.blocks", 1);
    u.ends = es2s_read_bytes(l, "decomposition.ends", 4, &u.n_decompositions);
    u.characters = es2s_read_bytes(l, "decomposition.characters", 4, &u.n_characters);
    u.compositions = es2s_read_bytes(l, "compositions", 12, &u.n_compositions);
    for (size_t i = 0; l->status == ES2S_OK && i < u.n_decompositions; i++)
        if (es2s_u32(u.ends, i) > u.n_characters || (i > 0 && es2s_u32(u.ends, i) < es2s_u32(u.ends, i - 1)))
            refuse(l, "decomposition.ends", "ascending ends within decomposition.characters");
    for (size_t i = 0; l->status == ES2S_OK && i < u.n_characters; i++)
        if (es2s_u32(u.characters, i) >= ES2S_N_CHARACTERS)
            refuse(l, "decomposition.characters", "characters");
    for (size_t i = 0; l->status == ES2S_OK && i < 3 * u.n_compositions; i++)
        if (es2s_u32(u.compositions, i) >= ES2S_N_CHARACTERS) refuse(l, "compositions", "characters");
    for (size_t i = 0; l->status == ES2S_OK && i < u.decomposition.n_values; i++)
        if (value_at(&u.decomposition, i) >= u.n_decompositions)
            refuse(l, "decomposition.blocks", "numbers of decompositions");
    return u;
}

uint32_t es2s_class_of(const es2s_unicode *u, uint32_t c) {
    return value_of(&u->classes, c);
}

/* ---- normalization ---- */

typedef struct characters {
    uint32_t *c;       /* [capacity] */
    uint32_t *scratch; /* [capacity] */
    size_t n;
} characters;

static void decompose(const es2s_unicode *u, uint32_t c, characters *out) {
    if (c >= SYLLABLE && c < SYLLABLE + N_SYLLABLES) {
        const uint32_t i = c - SYLLABLE, trail = i % N_TRAILS;
        out->c[out->n++] = LEAD + i / (N_VOWELS * N_TRAILS);
        out->c[out->n++] = VOWEL + i % (N_VOWELS * N_TRAILS) / N_TRAILS;
        if (trail > 0) out->c[out->n++] = TRAIL + trail;
        return;
    }
    const uint32_t d = value_of(&u->decomposition, c);
    if (d == 0) {
        out->c[out->n++] = c;
        return;
    }
    for (size_t i = es2s_u32(u->ends, d - 1); i < es2s_u32(u->ends, d); i++)
        out->c[out->n++] = es2s_u32(u->characters, i);
}

static size_t decomposed_len(const es2s_unicode *u, uint32_t c) {
    if (c >= SYLLABLE && c < SYLLABLE + N_SYLLABLES) return 3;
    const uint32_t d = value_of(&u->decomposition, c);
    return d == 0 ? 1 : es2s_u32(u->ends, d) - es2s_u32(u->ends, d - 1);
}

/* Sorts each run of combining characters by their class, equals in their order: counting, so that a text of
 * nothing else takes no longer. */
static void reorder(const es2s_unicode *u, characters *t) {
    for (size_t i = 0, end; i < t->n; i = end) {
        for (end = i; end < t->n && value_of(&u->combining, t->c[end]) > 0;)
            end++;
        if (end - i > 1) {
            size_t counts[257] = {0};
            for (size_t j = i; j < end; j++)
                counts[value_of(&u->combining, t->c[j]) + 1]++;
            for (size_t k = 1; k < 257; k++)
                counts[k] += counts[k - 1];
            for (size_t j = i; j < end; j++)
                t->scratch[counts[value_of(&u->combining, t->c[j])]++] = t->c[j];
            memcpy(t->c + i, t->scratch, (end - i) * sizeof *t->c);
        }
        if (end == i) end++;
    }
}

/* What two characters are composed to; 0 = nothing. */
static uint32_t composed(const es2s_unicode *u, uint32_t first, uint32_t second) {
    if (first >= LEAD && first < LEAD + N_LEADS && second >= VOWEL && second < VOWEL + N_VOWELS)
        return SYLLABLE + ((first - LEAD) * N_VOWELS + (second - VOWEL)) * N_TRAILS;
    if (first >= SYLLABLE && first < SYLLABLE + N_SYLLABLES && (first - SYLLABLE) % N_TRAILS == 0 &&
        second > TRAIL && second < TRAIL + N_TRAILS)
        return first + (second - TRAIL);
    size_t low = 0, high = u->n_compositions;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const uint32_t a = es2s_u32(u->compositions, 3 * middle), b = es2s_u32(u->compositions, 3 * middle + 1);
        if (a == first && b == second) return es2s_u32(u->compositions, 3 * middle + 2);
        if (a < first || (a == first && b < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* A character is composed with the last starter unless one between them has its class or a higher one. */
static void compose(const es2s_unicode *u, characters *t) {
    size_t n = 0, starter = SIZE_MAX;
    uint32_t last_class = 0; /* of what was kept after the starter; 0 = nothing */
    for (size_t i = 0; i < t->n; i++) {
        const uint32_t c = t->c[i], class = value_of(&u->combining, c);
        if (starter != SIZE_MAX && (n == starter + 1 || last_class < class)) {
            const uint32_t composite = composed(u, t->c[starter], c);
            if (composite) {
                t->c[starter] = composite;
                continue;
            }
        }
        if (class == 0) starter = n;
        last_class = class;
        t->c[n++] = c;
    }
    t->n = n;
}

bool es2s_unicode_normalize(const es2s_unicode *u, bool composes, const es2s_text *in, es2s_text *out) {
    size_t n = 0;
    for (size_t i = 0; i < in->len; i += es2s_character_len(in->bytes[i]))
        n += decomposed_len(u, es2s_character(in->bytes + i));
    es2s_text_clear(out);
    if (n == 0) return true;
    characters t = {0};
    if (n > SIZE_MAX / 16 || !(t.c = es2s_alloc(2 * n * sizeof *t.c))) return false;
    t.scratch = t.c + n;
    for (size_t i = 0; i < in->len; i += es2s_character_len(in->bytes[i]))
        decompose(u, es2s_character(in->bytes + i), &t);
    reorder(u, &t);
    if (composes) compose(u, &t);
    for (size_t i = 0; i < t.n; i++)
        es2s_text_append_character(out, t.c[i]);
    es2s_free(t.c);
    return !out->failed;
}
