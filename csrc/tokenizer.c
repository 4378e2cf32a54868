#include "tokenizer.h"

#include <math.h>
#include <string.h>

#include "error.h"
#include "segment.h"
#include "tokenizer_steps.h"

/* ============================================ Reading ============================================ */

static void refuse(es2s_loader *l, const char *name, const char *expected) {
    if (l->status == ES2S_OK)
        l->status = es2s_fail(ES2S_BAD_FORMAT, "tensor \"%s\": expected %s", name, expected);
}

/* A tensor with as many rows as there are of what it says something. */
static const uint8_t *read_rows(es2s_loader *l, const char *name, size_t width, size_t n_expected) {
    size_t n;
    const uint8_t *data = es2s_read_bytes(l, name, width, &n);
    if (n != n_expected) refuse(l, name, "as many rows as there are tokens, nodes or bytes");
    return data;
}

/* Each number below `limit`. */
static void check_below(es2s_loader *l, const char *name, const uint8_t *numbers, size_t n, size_t stride,
                        uint32_t limit) {
    for (size_t i = 0; l->status == ES2S_OK && i < n; i++)
        if (es2s_u32(numbers, i * stride) >= limit) refuse(l, name, "numbers in their range");
}

static void check_ascending(es2s_loader *l, const char *name, const uint8_t *ends, size_t n, size_t last) {
    for (size_t i = 0; l->status == ES2S_OK && i < n; i++)
        if (es2s_u32(ends, i) > last || (i > 0 && es2s_u32(ends, i) < es2s_u32(ends, i - 1)))
            refuse(l, name, "ascending places");
}

static es2s_trie read_trie(es2s_loader *l, uint32_t n_tokens) {
    es2s_trie trie;
    trie.labels = es2s_read_bytes(l, "trie.labels", 1, &trie.n_nodes);
    trie.first = read_rows(l, "trie.first", 4, trie.n_nodes + 1);
    trie.ids = read_rows(l, "trie.ids", 4, trie.n_nodes);
    check_below(l, "trie.ids", trie.ids, trie.n_nodes, 1, n_tokens + 1);
    check_ascending(l, "trie.first", trie.first, trie.n_nodes + 1, trie.n_nodes);
    return trie;
}

/* Steps that look for their a, which must not be empty. */
static bool needs_string(int operation) {
    return operation == ES2S_STEP_REPLACE || operation == ES2S_STEP_SPLIT ||
           operation == ES2S_STEP_SPLIT_BEFORE || operation == ES2S_STEP_BEGIN_PIECES ||
           operation == ES2S_STEP_STRIP_PIECE || operation == ES2S_STEP_WRITE_BLANKS;
}

/* uint8 operation, flag, length of a, length of b; then the two strings in UTF-8; and so on. */
static void read_pipeline(es2s_loader *l, const char *name, es2s_pipeline *pipeline) {
    size_t n, i = 0;
    const uint8_t *data = es2s_read_bytes(l, name, 1, &n);
    while (l->status == ES2S_OK && i < n) {
        if (data[i] == 0) { /* a tensor is not empty, and may end in zeros */
            i++;
            continue;
        }
        if (pipeline->n_steps == ES2S_MAX_STEPS || n - i < 4 || n - i - 4 < (size_t)data[i + 2] + data[i + 3]) {
            refuse(l, name, "at most 128 complete steps");
            return;
        }
        es2s_step *step = &pipeline->steps[pipeline->n_steps++];
        *step = (es2s_step){data[i], data[i + 1] != 0, data[i + 2], data[i + 3], data + i + 4, NULL};
        step->b = step->a + step->n_a;
        if (step->operation >= ES2S_N_STEPS) refuse(l, name, "steps that this version knows");
        if (needs_string(step->operation) && step->n_a == 0) refuse(l, name, "steps with their strings");
        if (es2s_valid_utf8(step->a, step->n_a) < step->n_a || es2s_valid_utf8(step->b, step->n_b) < step->n_b)
            refuse(l, name, "strings in UTF-8");
        i += 4 + step->n_a + step->n_b;
    }
}

static bool has_step(const es2s_tokenizer *t, int operation) {
    bool found = false;
    for (size_t i = 0; i < t->encoding.n_steps; i++)
        found |= t->encoding.steps[i].operation == operation;
    for (size_t i = 0; i < t->decoding.n_steps; i++)
        found |= t->decoding.steps[i].operation == operation;
    return found;
}

static void read_names(es2s_loader *l, es2s_tokenizer *t) {
    size_t n_bytes;
    const size_t n = (size_t)t->n_tokens;
    t->names = es2s_read_bytes(l, "names", 1, &n_bytes);
    t->name_ends = read_rows(l, "name_ends", 4, n);
    t->kinds = read_rows(l, "kinds", 1, n);
    check_ascending(l, "name_ends", t->name_ends, n, n_bytes);
    for (size_t i = 0, start = 0; l->status == ES2S_OK && i < n; i++) {
        const size_t end = es2s_u32(t->name_ends, i);
        if (es2s_valid_utf8(t->names + start, end - start) < end - start) refuse(l, "names", "UTF-8");
        if ((t->kinds[i] & ES2S_TOKEN_BYTE) && end - start != 6) refuse(l, "kinds", "bytes named <0xAB>");
        start = end;
    }
}

static void read_merges(es2s_loader *l, es2s_tokenizer *t) {
    const uint32_t n_tokens = (uint32_t)t->n_tokens;
    if (es2s_load_int(l, "has_merges", 0, 1) == 0) return;
    t->merges = es2s_read_bytes(l, "merges", 16, &t->n_merges);
    for (size_t column = 0; column < 4; column++)
        if (column != 2 && l->status == ES2S_OK)
            check_below(l, "merges", t->merges + 4 * column, t->n_merges, 4, n_tokens);
}

static void read_scores(es2s_loader *l, es2s_tokenizer *t) {
    double score = 0;
    t->scores = read_rows(l, "scores", sizeof score, (size_t)t->n_tokens);
    for (size_t i = 0; l->status == ES2S_OK && i < (size_t)t->n_tokens; i++) {
        memcpy(&score, t->scores + i * sizeof score, sizeof score);
        if (!(fabs(score) < 1e300)) refuse(l, "scores", "finite numbers");
    }
    t->unknown_score = es2s_load_float(l, "unknown_score", -1e300, 1e300);
}

static void read_charsmap(es2s_loader *l, es2s_tokenizer *t) {
    t->charsmap = es2s_read_bytes(l, "charsmap", 1, &t->n_charsmap);
    if (l->status != ES2S_OK) return;
    if (t->n_charsmap < 4 || es2s_u32(t->charsmap, 0) % 4 != 0 ||
        es2s_u32(t->charsmap, 0) > t->n_charsmap - 4)
        refuse(l, "charsmap", "a trie within it");
}

static void read_ids(es2s_loader *l, const char *name, const char *flag, const uint8_t **ids, size_t *n,
                     uint32_t vocab_size) {
    *n = 0;
    if (es2s_load_int(l, flag, 0, 1) == 0) return;
    *ids = es2s_read_bytes(l, name, 4, n);
    if (l->status == ES2S_OK) check_below(l, name, *ids, *n, 1, vocab_size);
}

void es2s_tokenizer_read(es2s_loader *l, es2s_tokenizer *t, const uint8_t *prefix, size_t n_prefix) {
    *t = (es2s_tokenizer){.prefix = prefix, .n_prefix = n_prefix};
    t->n_tokens = es2s_load_int(l, "n_tokens", 1, 1 << 22);
    t->vocab_size = es2s_load_int(l, "vocab_size", 1, 1 << 21);
    t->unk_id = es2s_load_int(l, "unk_token_id", -1, t->vocab_size - 1);
    t->unknown_piece = es2s_load_int(l, "unknown_piece", -1, t->n_tokens - 1);
    t->is_unigram = es2s_load_int(l, "unigram", 0, 1);
    t->byte_fallback = es2s_load_int(l, "byte_fallback", 0, 1);
    t->fuse_unk = es2s_load_int(l, "fuse_unk", 0, 1);
    t->bad_bytes = es2s_load_int(l, "bad_bytes", 0, 2);
    read_ids(l, "head", "has_head", &t->head, &t->n_head, (uint32_t)t->vocab_size);
    read_ids(l, "tail", "has_tail", &t->tail, &t->n_tail, (uint32_t)t->vocab_size);
    read_names(l, t);
    t->trie = read_trie(l, (uint32_t)t->n_tokens);
    if (t->byte_fallback) {
        t->byte_ids = read_rows(l, "byte_ids", 4, 256);
        check_below(l, "byte_ids", t->byte_ids, 256, 1, (uint32_t)t->n_tokens);
    }
    if (t->is_unigram)
        read_scores(l, t);
    else
        read_merges(l, t);
    if (t->is_unigram && t->unknown_piece < 0 && l->status == ES2S_OK)
        l->status = es2s_fail(ES2S_BAD_FORMAT, "key \"unknown_piece\": expected a token, found none");
    if (t->n_tokens > t->vocab_size && t->unk_id < 0 && l->status == ES2S_OK)
        l->status = es2s_fail(ES2S_BAD_FORMAT, "key \"unk_token_id\": expected a token for %d unknown names",
                              t->n_tokens - t->vocab_size);
    read_pipeline(l, "encoding", &t->encoding);
    read_pipeline(l, "decoding", &t->decoding);
    if (has_step(t, ES2S_STEP_CHARSMAP)) read_charsmap(l, t);
    const bool has_classes = has_step(t, ES2S_STEP_DIGITS) || has_step(t, ES2S_STEP_STRIP) ||
                             has_step(t, ES2S_STEP_WORDS);
    t->unicode = es2s_unicode_read(l, has_classes, has_step(t, ES2S_STEP_NORMALIZE));
}

/* =========================================== Pipelines =========================================== */

/* The result is in texts[0]; texts[1] is scratch. Returns false without memory. */
static bool run_pipeline(const es2s_tokenizer *t, const es2s_pipeline *pipeline, es2s_text texts[2]) {
    for (size_t i = 0; i < pipeline->n_steps; i++) {
        if (!es2s_run_step(t, &pipeline->steps[i], &texts[0], &texts[1])) return false;
        const es2s_text last = texts[0];
        texts[0] = texts[1];
        texts[1] = last;
    }
    return !texts[0].failed;
}

static es2s_status no_memory(const char *what, size_t n_bytes) {
    return es2s_fail(ES2S_OUT_OF_MEMORY, "%s: no memory for %zu bytes of text", what, n_bytes);
}

static const uint8_t *name_of(const es2s_tokenizer *t, size_t id, size_t *n) {
    const size_t start = id > 0 ? es2s_u32(t->name_ends, id - 1) : 0;
    *n = es2s_u32(t->name_ends, id) - start;
    return t->names + start;
}

/* ============================================ Encoding =========================================== */

/* Pieces to tokens; what a text must not contain is spelled, a character at a time. */
static void segment_all(const es2s_tokenizer *t, const es2s_text *text, es2s_segments *all,
                        es2s_segments *piece) {
    for (size_t i = 0, end; i < text->len; i = end) {
        end = es2s_text_piece_end(text, i);
        piece->n = 0;
        es2s_segment(t, text->bytes + i, end - i, piece);
        for (size_t j = 0; j < piece->n; j++) {
            const size_t id = (size_t)piece->ids[j];
            if (!(t->kinds[id] & ES2S_TOKEN_CONTROL)) {
                es2s_segments_add(all, piece->ids[j]);
                continue;
            }
            size_t n;
            const uint8_t *name = name_of(t, id, &n);
            for (size_t k = 0; k < n; k += es2s_character_len(name[k]))
                es2s_segment(t, name + k, es2s_character_len(name[k]), all);
        }
    }
}

es2s_status es2s_tokenizer_encode(const es2s_tokenizer *t, const char *text, size_t n_bytes, int32_t *ids,
                                  size_t capacity, size_t *n_out) {
    const size_t valid = es2s_valid_utf8((const uint8_t *)text, n_bytes);
    if (valid < n_bytes)
        return es2s_fail(ES2S_INVALID_ARGUMENT, "text: expected UTF-8, found another byte at %zu", valid);
    es2s_text texts[2] = {0};
    es2s_segments all = {0}, piece = {0};
    es2s_text_clear(&texts[0]);
    es2s_text_append(&texts[0], t->prefix, t->n_prefix);
    es2s_text_append(&texts[0], text, n_bytes);
    bool has_memory = run_pipeline(t, &t->encoding, texts);
    if (has_memory) segment_all(t, &texts[0], &all, &piece);
    has_memory = has_memory && !all.failed && !piece.failed;
    *n_out = t->n_head + all.n + t->n_tail;
    for (size_t i = 0; has_memory && i < *n_out && i < capacity; i++) {
        if (i < t->n_head)
            ids[i] = (int32_t)es2s_u32(t->head, i);
        else if (i < t->n_head + all.n)
            ids[i] = all.ids[i - t->n_head] < t->vocab_size ? all.ids[i - t->n_head] : t->unk_id;
        else
            ids[i] = (int32_t)es2s_u32(t->tail, i - t->n_head - all.n);
    }
    es2s_segments_free(&all);
    es2s_segments_free(&piece);
    es2s_text_free(&texts[0]);
    es2s_text_free(&texts[1]);
    return has_memory ? ES2S_OK : no_memory("encode", n_bytes);
}

/* ============================================ Decoding =========================================== */

static const uint8_t REPLACEMENT[] = {0xEF, 0xBF, 0xBD}; /* U+FFFD */

/* A run of byte tokens. As a whole it is UTF-8 or U+FFFD for each; or only what is wrong becomes that, or
 * nothing. */
static void append_run(const es2s_tokenizer *t, es2s_text *run, es2s_text *out) {
    const bool is_utf8 = es2s_valid_utf8(run->bytes, run->len) == run->len;
    for (size_t i = 0; i < run->len;) {
        const size_t valid = t->bad_bytes == 0 && !is_utf8 ? 0 : es2s_valid_utf8(run->bytes + i, run->len - i);
        out->begins_piece = true;
        es2s_text_append(out, run->bytes + i, valid);
        i += valid;
        if (i == run->len) break;
        out->begins_piece = true;
        if (t->bad_bytes < 2) es2s_text_append(out, REPLACEMENT, sizeof REPLACEMENT);
        i++;
    }
    es2s_text_clear(run);
}

static uint8_t hex_digit(uint8_t c) {
    return (uint8_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

static void append_names(const es2s_tokenizer *t, const int32_t *ids, size_t n, es2s_text *run, es2s_text *out) {
    for (size_t i = 0; i < n; i++) {
        size_t n_name = 0;
        const bool is_token = ids[i] >= 0 && ids[i] < t->n_tokens;
        const uint8_t kind = is_token ? t->kinds[ids[i]] : 0;
        const uint8_t *name = is_token ? name_of(t, (size_t)ids[i], &n_name) : NULL;
        if (kind & ES2S_TOKEN_SPECIAL) continue;
        if (n_name == 0) { /* nothing, which ends a run all the same unless it is judged as a whole */
            if (t->bad_bytes > 0) append_run(t, run, out);
            continue;
        }
        if (kind & ES2S_TOKEN_BYTE) {
            const uint8_t byte = (uint8_t)(hex_digit(name[3]) << 4 | hex_digit(name[4]));
            es2s_text_append(run, &byte, 1);
            continue;
        }
        append_run(t, run, out);
        out->begins_piece = true;
        es2s_text_append(out, name, n_name);
    }
    append_run(t, run, out);
}

es2s_status es2s_tokenizer_decode(const es2s_tokenizer *t, const int32_t *ids, size_t n, char *text,
                                  size_t capacity, size_t *n_bytes_out) {
    es2s_text texts[2] = {0}, run = {0};
    es2s_text_clear(&texts[0]);
    es2s_text_clear(&run);
    append_names(t, ids, n, &run, &texts[0]);
    const bool has_memory = !run.failed && !texts[0].failed && run_pipeline(t, &t->decoding, texts);
    if (has_memory) {
        *n_bytes_out = texts[0].len;
        const size_t n_written = texts[0].len < capacity ? texts[0].len : capacity;
        if (n_written > 0) memcpy(text, texts[0].bytes, n_written);
        if (n_written < capacity) text[n_written] = '\0';
    }
    es2s_text_free(&run);
    es2s_text_free(&texts[0]);
    es2s_text_free(&texts[1]);
    return has_memory ? ES2S_OK : no_memory("decode", n);
}
