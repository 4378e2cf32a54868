#include "segment.h"

#include <string.h>

#include "platform.h"

void es2s_segments_free(es2s_segments *s) {
    es2s_free(s->ids);
    es2s_free(s->scratch);
    *s = (es2s_segments){0};
}

void es2s_segments_add(es2s_segments *s, int32_t id) {
    if (s->failed) return;
    if (s->n == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 256;
        int32_t *ids = es2s_alloc(capacity * sizeof *ids);
        if (!ids) {
            s->failed = true;
            return;
        }
        if (s->n > 0) memcpy(ids, s->ids, s->n * sizeof *ids);
        es2s_free(s->ids);
        s->ids = ids;
        s->capacity = capacity;
    }
    s->ids[s->n++] = id;
}

/* Room for n elements of `size` bytes; NULL without memory. */
static void *scratch(es2s_segments *s, size_t n, size_t size) {
    if (s->failed || n > SIZE_MAX / 4 / size) {
        s->failed = true;
        return NULL;
    }
    if (n * size > s->scratch_bytes) {
        es2s_free(s->scratch);
        s->scratch_bytes = 2 * n * size;
        s->scratch = es2s_alloc(s->scratch_bytes);
        if (!s->scratch) {
            s->scratch_bytes = 0;
            s->failed = true;
        }
    }
    return s->scratch;
}

/* The child of a node for a byte; 0 = none. */
static uint32_t child_of(const es2s_trie *trie, uint32_t node, uint8_t byte) {
    size_t low = es2s_u32(trie->first, node), high = es2s_u32(trie->first, node + 1);
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (trie->labels[middle] == byte) return (uint32_t)middle;
        if (trie->labels[middle] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* The token whose name these bytes are; -1 = none. */
static int32_t token_of(const es2s_trie *trie, const uint8_t *bytes, size_t n) {
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++)
        if ((node = child_of(trie, node, bytes[i])) == 0) return -1;
    return (int32_t)es2s_u32(trie->ids, node) - 1;
}

/* ---- byte pairs ---- */

typedef struct symbol {
    int32_t id; /* -1 = merged into another one */
    int32_t last, next; /* -1 = none */
} symbol;

typedef struct merge {
    uint32_t rank;
    int32_t at, merged;
} merge;

static bool comes_before(const merge *a, const merge *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(merge *heap, size_t *n, merge m) {
    size_t i = (*n)++;
    for (; i > 0 && comes_before(&m, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = m;
}

static merge pop(merge *heap, size_t *n) {
    const merge top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && comes_before(&heap[child + 1], &heap[child])) child++;
        if (!comes_before(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* What two tokens are merged to. Returns false for nothing. */
static bool find_merge(const es2s_tokenizer *t, int32_t left, int32_t right, merge *found) {
    size_t low = 0, high = t->n_merges;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int32_t a = (int32_t)es2s_u32(t->merges, 4 * middle);
        const int32_t b = (int32_t)es2s_u32(t->merges, 4 * middle + 1);
        if (a == left && b == right) {
            found->rank = es2s_u32(t->merges, 4 * middle + 2);
            found->merged = (int32_t)es2s_u32(t->merges, 4 * middle + 3);
            return true;
        }
        if (a < left || (a == left && b < right))
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

static void push_pair(const es2s_tokenizer *t, const symbol *symbols, int32_t at, merge *heap, size_t *n) {
    merge m = {.at = at};
    if (at >= 0 && symbols[at].next >= 0 && find_merge(t, symbols[at].id, symbols[symbols[at].next].id, &m))
        push(heap, n, m);
}

/* The tokens of single characters, before any merge; a symbol for each byte is room enough. */
static size_t read_characters(const es2s_tokenizer *t, const uint8_t *piece, size_t n, symbol *symbols) {
    size_t n_symbols = 0;
    bool last_is_unknown = false;
    for (size_t i = 0, len; i < n; i += len) {
        len = es2s_character_len(piece[i]);
        const int32_t id = token_of(&t->trie, piece + i, len);
        if (id < 0 && t->byte_fallback) {
            for (size_t j = 0; j < len; j++)
                symbols[n_symbols++].id = (int32_t)es2s_u32(t->byte_ids, piece[i + j]);
        } else if (id >= 0) {
            symbols[n_symbols++].id = id;
        } else if (t->unknown_piece >= 0 && !(t->fuse_unk && last_is_unknown)) {
            symbols[n_symbols++].id = t->unknown_piece;
        }
        last_is_unknown = id < 0;
    }
    return n_symbols;
}

static void segment_by_pairs(const es2s_tokenizer *t, const uint8_t *piece, size_t n, es2s_segments *s) {
    /* Each symbol but the last brings one pair, and each of fewer merges two. */
    symbol *symbols = scratch(s, n, sizeof(symbol) + 3 * sizeof(merge));
    if (!symbols) return;
    merge *heap = (merge *)(void *)(symbols + n);
    size_t n_heap = 0;
    const size_t n_symbols = read_characters(t, piece, n, symbols);
    for (size_t i = 0; i < n_symbols; i++) {
        symbols[i].last = (int32_t)i - 1;
        symbols[i].next = i + 1 < n_symbols ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < n_symbols; i++)
        push_pair(t, symbols, (int32_t)i, heap, &n_heap);
    while (n_heap > 0) {
        const merge m = pop(heap, &n_heap);
        symbol *left = &symbols[m.at];
        merge now = {0};
        /* Since it was pushed, one of the two may have been merged. */
        if (left->id < 0 || left->next < 0 || !find_merge(t, left->id, symbols[left->next].id, &now) ||
            now.merged != m.merged)
            continue;
        symbol *right = &symbols[left->next];
        left->id = m.merged;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0) symbols[left->next].last = m.at;
        push_pair(t, symbols, left->last, heap, &n_heap);
        push_pair(t, symbols, m.at, heap, &n_heap);
    }
    for (size_t i = 0; i < n_symbols; i++)
        if (symbols[i].id >= 0) es2s_segments_add(s, symbols[i].id);
}

/* ---- unigram ---- */

typedef struct best_path {
    double score;
    uint32_t len; /* bytes of the token that ends here; 0 = no path does */
    int32_t id;   /* -1 = an unknown character */
} best_path;

static double score_of(const es2s_tokenizer *t, int32_t id) {
    double score;
    memcpy(&score, t->scores + (size_t)id * sizeof score, sizeof score);
    return score;
}

static void offer(best_path *end, double score, size_t len, int32_t id) {
    if (end->len > 0 && !(score > end->score)) return;
    *end = (best_path){score, (uint32_t)len, id};
}

/* best[i]: the best path to byte i. */
static void find_paths(const es2s_tokenizer *t, const uint8_t *piece, size_t n, best_path *best) {
    memset(best, 0, (n + 1) * sizeof *best);
    for (size_t i = 0, len; i < n; i += len) {
        bool has_character = false;
        len = es2s_character_len(piece[i]);
        uint32_t node = 0;
        for (size_t end = i; end < n && (node = child_of(&t->trie, node, piece[end])) != 0;) {
            const int32_t id = (int32_t)es2s_u32(t->trie.ids, node) - 1;
            end++;
            if (id < 0) continue;
            offer(&best[end], score_of(t, id) + best[i].score, end - i, id == t->unknown_piece ? -1 : id);
            has_character = has_character || end == i + len;
        }
        if (!has_character) offer(&best[i + len], t->unknown_score + best[i].score, len, -1);
    }
}

/* Unknown characters in a row are one word: a token by chance, bytes, or the unknown one. */
static void add_unknown(const es2s_tokenizer *t, const uint8_t *piece, size_t n, es2s_segments *s) {
    const int32_t id = token_of(&t->trie, piece, n);
    if (id < 0 && t->byte_fallback)
        for (size_t i = 0; i < n; i++)
            es2s_segments_add(s, (int32_t)es2s_u32(t->byte_ids, piece[i]));
    else
        es2s_segments_add(s, id < 0 ? t->unknown_piece : id);
}

static void segment_by_scores(const es2s_tokenizer *t, const uint8_t *piece, size_t n, es2s_segments *s) {
    best_path *best = scratch(s, n + 1, sizeof *best);
    if (!best) return;
    find_paths(t, piece, n, best);
    /* Turn the path round: each place then says how long the token is that begins there. */
    uint32_t len = 0;
    int32_t id = 0;
    for (size_t at = n, last; ; at = last) {
        const best_path here = best[at];
        best[at].len = len;
        best[at].id = id;
        if (at == 0) break;
        last = at - here.len;
        len = here.len;
        id = here.id;
    }
    for (size_t i = 0; i < n;) {
        size_t end = i + best[i].len;
        const int32_t token = best[i].id;
        if (token >= 0) {
            es2s_segments_add(s, token);
        } else {
            while (end < n && best[end].id < 0)
                end += best[end].len;
            add_unknown(t, piece + i, end - i, s);
        }
        i = end;
    }
}

void es2s_segment(const es2s_tokenizer *t, const uint8_t *piece, size_t n, es2s_segments *s) {
    if (n > INT32_MAX / 4) {
        s->failed = true;
        return;
    }
    if (t->is_unigram)
        segment_by_scores(t, piece, n, s);
    else
        segment_by_pairs(t, piece, n, s);
}
