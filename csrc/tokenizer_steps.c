#include "tokenizer_steps.h"

#include <string.h>

static const uint8_t REPLACEMENT[] = {0xEF, 0xBF, 0xBD}; /* U+FFFD */

/* Appends what lies from byte i to `end`, with its pieces. */
static void copy(const es2s_text *in, size_t i, size_t end, es2s_text *out) {
    while (i < end) {
        if (in->starts[i]) out->begins_piece = true;
        size_t next = i + 1;
        while (next < end && !in->starts[next])
            next++;
        es2s_text_append(out, in->bytes + i, next - i);
        i = next;
    }
}

/* Where `pattern` begins next, or the end of the text. */
static size_t find(const es2s_text *in, size_t i, const uint8_t *pattern, size_t n) {
    while (i < in->len) {
        const uint8_t *p = memchr(in->bytes + i, pattern[0], in->len - i);
        if (!p) return in->len;
        i = (size_t)(p - in->bytes);
        if (es2s_text_has_at(in, i, pattern, n)) return i;
        i++;
    }
    return in->len;
}

static void replace(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    for (size_t i = 0; i < in->len;) {
        const size_t match = find(in, i, step->a, step->n_a);
        copy(in, i, match, out);
        if (match == in->len) return;
        if (in->starts[match]) out->begins_piece = true;
        es2s_text_append(out, step->b, step->n_b);
        i = match + step->n_a;
    }
}

static void split(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    for (size_t i = 0; i < in->len;) {
        const size_t match = find(in, i, step->a, step->n_a);
        copy(in, i, match, out);
        if (match == in->len) return;
        out->begins_piece = true;
        es2s_text_append(out, step->a, step->n_a);
        out->begins_piece = true;
        i = match + step->n_a;
    }
}

static void strip(const es2s_tokenizer *t, const es2s_step *step, const es2s_text *in, es2s_text *out) {
    const uint32_t white = step->n_a > 0 ? ES2S_PYTHON_WHITE : ES2S_WHITE;
    size_t first = 0, end = in->len;
    while (step->flag && first < end &&
           (es2s_class_of(&t->unicode, es2s_character(in->bytes + first)) & white))
        first += es2s_character_len(in->bytes[first]);
    while (step->n_b > 0 && end > first) {
        size_t last = end - 1;
        while ((in->bytes[last] & 0xC0) == 0x80)
            last--;
        if (!(es2s_class_of(&t->unicode, es2s_character(in->bytes + last)) & white)) break;
        end = last;
    }
    copy(in, first, end, out);
}

/* As a part of the first piece. */
static void prepend(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    if (in->len == 0) return;
    const size_t first_end = es2s_text_piece_end(in, 0);
    es2s_text_append(out, step->a, step->n_a);
    es2s_text_append(out, in->bytes, first_end);
    copy(in, first_end, in->len, out);
}

static void begin_pieces(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    for (size_t i = 0, end; i < in->len; i = end) {
        end = es2s_text_piece_end(in, i);
        out->begins_piece = true;
        if (!es2s_text_has_at(in, i, step->a, step->n_a)) es2s_text_append(out, step->a, step->n_a);
        es2s_text_append(out, in->bytes + i, end - i);
    }
}

static void split_before(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    for (size_t i = 0; i < in->len;) {
        const size_t match = find(in, i, step->a, step->n_a);
        copy(in, i, match, out);
        if (match == in->len) return;
        out->begins_piece = true;
        es2s_text_append(out, step->a, step->n_a);
        i = match + step->n_a;
    }
}

static void digits(const es2s_tokenizer *t, const es2s_step *step, const es2s_text *in, es2s_text *out) {
    bool last_is_numeric = false;
    for (size_t i = 0; i < in->len;) {
        const size_t n = es2s_character_len(in->bytes[i]);
        const bool is_numeric = es2s_class_of(&t->unicode, es2s_character(in->bytes + i)) & ES2S_NUMERIC;
        if (in->starts[i] || is_numeric != last_is_numeric || (is_numeric && step->flag))
            out->begins_piece = true;
        es2s_text_append(out, in->bytes + i, n);
        last_is_numeric = is_numeric;
        i += n;
    }
}

/* ---- ByteLevel ---- */

static bool is_printed(uint8_t byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

/* Bytes that do not print are written as the characters from U+0100 on. */
static uint32_t letter_of(uint8_t byte) {
    uint32_t n_others = 0;
    if (is_printed(byte)) return byte;
    for (unsigned b = 0; b < byte; b++)
        n_others += !is_printed((uint8_t)b);
    return 0x100 + n_others;
}

/* The byte of a letter, or -1. */
static int byte_of(uint32_t c) {
    if (c < 0x100) return is_printed((uint8_t)c) ? (int)c : -1;
    uint32_t n_left = c - 0x100;
    for (unsigned b = 0; b < 256; b++)
        if (!is_printed((uint8_t)b) && n_left-- == 0) return (int)b;
    return -1;
}

enum { LETTERS, NUMBERS, OTHERS, BLANKS };

static int kind_of(const es2s_tokenizer *t, const es2s_text *in, size_t i) {
    const uint32_t class = es2s_class_of(&t->unicode, es2s_character(in->bytes + i));
    return class & ES2S_LETTER ? LETTERS : class & ES2S_NUMBER ? NUMBERS : class & ES2S_WHITE ? BLANKS : OTHERS;
}

/* Length of what GPT-2's expression matches at byte i of a piece that ends at `end`:
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t match_word(const es2s_tokenizer *t, const es2s_text *in, size_t i, size_t end) {
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t k = 0; k < 7; k++) {
        const size_t n = strlen(contractions[k]);
        if (end - i >= n && memcmp(in->bytes + i, contractions[k], n) == 0) return n;
    }
    size_t at = i;
    if (in->bytes[i] == ' ' && i + 1 < end && kind_of(t, in, i + 1) != BLANKS) at++;
    const int kind = kind_of(t, in, at);
    size_t last = at;
    while (at < end && kind_of(t, in, at) == kind) {
        last = at;
        at += es2s_character_len(in->bytes[at]);
    }
    /* The last of several blanks goes with what follows. */
    return kind == BLANKS && at < end && last > i ? last - i : at - i;
}

static void cut_words(const es2s_tokenizer *t, const es2s_text *in, es2s_text *out) {
    for (size_t i = 0, end; i < in->len;) {
        end = es2s_text_piece_end(in, i);
        while (i < end) {
            const size_t n = match_word(t, in, i, end);
            out->begins_piece = true;
            es2s_text_append(out, in->bytes + i, n);
            i += n;
        }
    }
}

static void write_letters(const es2s_text *in, es2s_text *out) {
    for (size_t i = 0; i < in->len; i++) {
        if (in->starts[i]) out->begins_piece = true;
        es2s_text_append_character(out, letter_of(in->bytes[i]));
    }
}

/* ---- decoding ---- */

/* Length of the longest beginning of a character: Rust's from_utf8_lossy replaces that by one U+FFFD. */
static size_t broken_len(const uint8_t *p, size_t n) {
    uint8_t low = 0x80, high = 0xBF;
    if (p[0] < 0xC2 || p[0] > 0xF4) return 1;
    if (p[0] == 0xE0) low = 0xA0;
    if (p[0] == 0xED) high = 0x9F;
    if (p[0] == 0xF0) low = 0x90;
    if (p[0] == 0xF4) high = 0x8F;
    size_t len = 1;
    for (; len < es2s_character_len(p[0]) && len < n && p[len] >= low && p[len] <= high; len++) {
        low = 0x80;
        high = 0xBF;
    }
    return len;
}

void es2s_append_lossy(es2s_text *out, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n;) {
        const size_t valid = es2s_valid_utf8(bytes + i, n - i);
        es2s_text_append(out, bytes + i, valid);
        i += valid;
        if (i == n) return;
        es2s_text_append(out, REPLACEMENT, sizeof REPLACEMENT);
        i += broken_len(bytes + i, n - i);
    }
}

/* A piece with another letter stands for its own bytes. */
static void read_letters(const es2s_text *in, es2s_text *out, es2s_text *scratch) {
    es2s_text_clear(scratch);
    for (size_t i = 0, end; i < in->len; i = end) {
        bool is_letters = true;
        end = es2s_text_piece_end(in, i);
        for (size_t j = i; j < end; j += es2s_character_len(in->bytes[j]))
            is_letters = is_letters && byte_of(es2s_character(in->bytes + j)) >= 0;
        if (!is_letters) es2s_text_append(scratch, in->bytes + i, end - i);
        for (size_t j = i; is_letters && j < end; j += es2s_character_len(in->bytes[j])) {
            const uint8_t byte = (uint8_t)byte_of(es2s_character(in->bytes + j));
            es2s_text_append(scratch, &byte, 1);
        }
    }
    es2s_append_lossy(out, scratch->bytes, scratch->len);
}

static void strip_piece(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    for (size_t i = 0, end; i < in->len; i = end) {
        size_t n_left = step->n_b;
        end = es2s_text_piece_end(in, i);
        out->begins_piece = true;
        while (n_left-- > 0 && i < end && es2s_text_has_at(in, i, step->a, step->n_a))
            i += step->n_a;
        es2s_text_append(out, in->bytes + i, end - i);
    }
}

static void write_blanks(const es2s_step *step, const es2s_text *in, es2s_text *out) {
    const size_t first_end = in->len > 0 && step->flag ? es2s_text_piece_end(in, 0) : 0;
    for (size_t i = 0; i < in->len;) {
        const size_t match = find(in, i, step->a, step->n_a);
        copy(in, i, match, out);
        if (match == in->len) return;
        if (in->starts[match]) out->begins_piece = true;
        if (match >= first_end) es2s_text_append(out, " ", 1);
        i = match + step->n_a;
    }
}

/* ---- charsmap ---- */

enum { MAX_RULE = 64 }; /* bytes of a text that a rule may look at */

/* Beyond the trie there is a unit that nothing leads to. */
static uint32_t unit_of(const es2s_tokenizer *t, uint32_t node) {
    const uint32_t n_units = es2s_u32(t->charsmap, 0) / 4;
    const uint32_t unit = node < n_units ? es2s_u32(t->charsmap + 4, node) : 0;
    return unit ? unit : 0x80000000;
}

static uint32_t offset_of(uint32_t unit) {
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

/* Length of the longest rule at p, 0 = none, and where its replacement begins. */
static size_t find_rule(const es2s_tokenizer *t, const uint8_t *p, size_t n, size_t *replacement) {
    uint32_t node = 0, unit = unit_of(t, 0);
    size_t found = 0;
    for (size_t i = 0; i < n && i < MAX_RULE; i++) {
        node ^= offset_of(unit) ^ p[i];
        unit = unit_of(t, node);
        if ((unit & 0x800000FF) != p[i]) break; /* the label: no other node leads here */
        /* A rule ends here, and a character. */
        if ((unit & 0x100) && (i + 1 == n || (p[i + 1] & 0xC0) != 0x80)) {
            found = i + 1;
            *replacement = unit_of(t, node ^ offset_of(unit)) & 0x7FFFFFFF;
        }
    }
    return found;
}

static void map_characters(const es2s_tokenizer *t, const es2s_text *in, es2s_text *out) {
    const uint8_t *replacements = t->charsmap + 4 + es2s_u32(t->charsmap, 0);
    const size_t n_replacements = t->n_charsmap - 4 - es2s_u32(t->charsmap, 0);
    for (size_t i = 0, at = 0; i < in->len;) {
        size_t n = find_rule(t, in->bytes + i, in->len - i, &at);
        if (n > 0) {
            const uint8_t *end = at < n_replacements ? memchr(replacements + at, 0, n_replacements - at) : NULL;
            if (end) es2s_append_lossy(out, replacements + at, (size_t)(end - (replacements + at)));
        } else {
            n = es2s_character_len(in->bytes[i]);
            es2s_text_append(out, in->bytes + i, n);
        }
        i += n;
    }
}

/* ---- */

bool es2s_run_step(const es2s_tokenizer *t, const es2s_step *step, const es2s_text *in, es2s_text *out) {
    es2s_text_clear(out);
    switch (step->operation) {
    case ES2S_STEP_REPLACE:
        replace(step, in, out);
        break;
    case ES2S_STEP_PREPEND:
        prepend(step, in, out);
        break;
    case ES2S_STEP_STRIP:
        strip(t, step, in, out);
        break;
    case ES2S_STEP_NORMALIZE:
        return es2s_unicode_normalize(&t->unicode, step->flag, in, out);
    case ES2S_STEP_CHARSMAP:
        map_characters(t, in, out);
        break;
    case ES2S_STEP_SPLIT:
        split(step, in, out);
        break;
    case ES2S_STEP_SPLIT_BEFORE:
        split_before(step, in, out);
        break;
    case ES2S_STEP_BEGIN_PIECES:
        begin_pieces(step, in, out);
        break;
    case ES2S_STEP_DIGITS:
        digits(t, step, in, out);
        break;
    case ES2S_STEP_WORDS:
        cut_words(t, in, out);
        break;
    case ES2S_STEP_WRITE_LETTERS:
        write_letters(in, out);
        break;
    case ES2S_STEP_FUSE:
        es2s_text_append(out, in->bytes, in->len);
        break;
    case ES2S_STEP_STRIP_PIECE:
        strip_piece(step, in, out);
        break;
    case ES2S_STEP_WRITE_BLANKS:
        write_blanks(step, in, out);
        break;
    case ES2S_STEP_READ_LETTERS: {
        es2s_text scratch = {0};
        read_letters(in, out, &scratch);
        out->failed |= scratch.failed;
        es2s_text_free(&scratch);
        break;
    }
    default:
        break;
    }
    return !out->failed;
}
