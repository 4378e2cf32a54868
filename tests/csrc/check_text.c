/* UTF-8 and pieces: the ground of the tokenizer, whose answers test_native_tokenizer.py compares. */
#include "check.h"
#include "text.h"

/* What Unicode's table 3-7 says of a sequence of n bytes that has to be one character. */
static int is_character(const uint8_t *p, size_t n) {
    static const struct {
        uint8_t first[2], second[2];
        size_t len;
    } rows[] = {{{0x00, 0x7F}, {0}, 1},           {{0xC2, 0xDF}, {0x80, 0xBF}, 2}, {{0xE0, 0xE0}, {0xA0, 0xBF}, 3},
                {{0xE1, 0xEC}, {0x80, 0xBF}, 3}, {{0xED, 0xED}, {0x80, 0x9F}, 3}, {{0xEE, 0xEF}, {0x80, 0xBF}, 3},
                {{0xF0, 0xF0}, {0x90, 0xBF}, 4}, {{0xF1, 0xF3}, {0x80, 0xBF}, 4}, {{0xF4, 0xF4}, {0x80, 0x8F}, 4}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        if (p[0] < rows[r].first[0] || p[0] > rows[r].first[1] || n != rows[r].len) continue;
        int good = n == 1 || (p[1] >= rows[r].second[0] && p[1] <= rows[r].second[1]);
        for (size_t i = 2; i < n; i++)
            good = good && p[i] >= 0x80 && p[i] <= 0xBF;
        return good;
    }
    return 0;
}

static void bytes_are_characters_as_unicode_says(void) {
    static const uint8_t last[] = {0x00, 0x41, 0x7F, 0x80, 0xA5, 0xBF, 0xC0, 0xFF};
    for (uint32_t i = 0; i < 0x10000; i++)
        for (size_t j = 0; j < sizeof last; j++)
            for (size_t n = 1; n <= 4; n++) {
                const uint8_t bytes[4] = {(uint8_t)(i >> 8), (uint8_t)i, last[j], last[(j + n) % 8]};
                const size_t valid = es2s_valid_utf8(bytes, n);
                if (is_character(bytes, n)) CHECK(valid == n);
                if (valid == n && n == es2s_character_len(bytes[0])) CHECK(is_character(bytes, n));
            }
}

static void every_character_is_written_and_read(void) {
    for (uint32_t c = 0; c < 0x110000; c++) {
        uint8_t bytes[4];
        const size_t n = es2s_character_bytes(c, bytes);
        const int is_half = c >= 0xD800 && c < 0xE000;
        CHECK(es2s_character(bytes) == c && es2s_character_len(bytes[0]) == n);
        CHECK(es2s_valid_utf8(bytes, n) == (is_half ? 0 : n));
    }
}

static void a_text_grows_and_keeps_its_pieces(void) {
    es2s_text t = {0};
    es2s_text_clear(&t);
    for (size_t i = 0; i < 5000; i++) {
        t.begins_piece = i % 7 == 0;
        es2s_text_append_character(&t, (uint32_t)(0x40 + i % 0x500));
        es2s_text_append(&t, "", 0);
    }
    size_t n_pieces = 0, end = 0;
    for (size_t i = 0; i < t.len; i = end, n_pieces++) {
        end = es2s_text_piece_end(&t, i);
        CHECK(t.starts[i] == 1 && end <= t.len);
    }
    CHECK(!t.failed && n_pieces == (5000 + 6) / 7 && es2s_valid_utf8(t.bytes, t.len) == t.len);
    const size_t second = es2s_text_piece_end(&t, 0);
    CHECK(es2s_text_has_at(&t, 0, t.bytes, second));
    CHECK(!es2s_text_has_at(&t, 0, t.bytes, second + 1)); /* no match across pieces */
    es2s_text_free(&t);
    CHECK(t.bytes == NULL && t.len == 0);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"bytes_are_characters_as_unicode_says", bytes_are_characters_as_unicode_says, 0},
        {"every_character_is_written_and_read", every_character_is_written_and_read, 0},
        {"a_text_grows_and_keeps_its_pieces", a_text_grows_and_keeps_its_pieces, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
