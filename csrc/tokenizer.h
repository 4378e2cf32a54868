/*
 * Text to token ids and back, by what tokenizer.table says: a pipeline of small steps on a text and its pieces,
 * then BPE or Unigram on each piece. The format is in export/edge_s2s_export/tokenizer_table.py, the meaning that of the
 * tokenizers library. Time is in proportion to the text, times the logarithm of its longest piece.
 */
#ifndef ES2S_TOKENIZER_H
#define ES2S_TOKENIZER_H

#include "loader.h"
#include "text.h"
#include "unicode_table.h"

enum { ES2S_MAX_STEPS = 128 };

typedef struct es2s_step {
    int operation;
    bool flag;        /* what it means depends on the operation */
    size_t n_a, n_b;  /* bytes */
    const uint8_t *a, *b;
} es2s_step;

typedef struct es2s_pipeline {
    size_t n_steps;
    es2s_step steps[ES2S_MAX_STEPS];
} es2s_pipeline;

/* A trie of the pieces' bytes, its nodes numbered level by level: the children of node i are first[i] up to
 * first[i + 1], their labels ascending. Node 0 is the root. */
typedef struct es2s_trie {
    size_t n_nodes;
    const uint8_t *first;  /* [n_nodes + 1] uint32 */
    const uint8_t *labels; /* [n_nodes] */
    const uint8_t *ids;    /* [n_nodes] uint32: the piece that ends here + 1; 0 = none */
} es2s_trie;

typedef struct es2s_tokenizer {
    bool is_unigram, byte_fallback, fuse_unk;
    int bad_bytes;    /* what becomes of byte tokens that are no UTF-8: 0 the whole run, 1 each, 2 dropped */
    int32_t n_tokens; /* with names; ids at vocab_size or above are read as unknown words */
    int32_t vocab_size, unk_id, unknown_piece; /* -1 = none; the piece is what the model falls back to */
    size_t n_prefix;
    const uint8_t *prefix; /* before every text */
    size_t n_head, n_tail, n_merges;
    const uint8_t *head, *tail; /* uint32: the ids around every text */
    const uint8_t *name_ends, *names; /* [n_tokens] uint32: where each name ends in `names` */
    const uint8_t *kinds;    /* [n_tokens] ES2S_TOKEN_* */
    const uint8_t *byte_ids; /* [256] uint32: the tokens of single bytes */
    const uint8_t *merges;   /* [n_merges] uint32 left, right, rank, merged; ascending by the first two */
    const uint8_t *scores;   /* [n_tokens] float64 */
    double unknown_score;
    size_t n_charsmap;
    const uint8_t *charsmap; /* a double-array trie and its replacements */
    es2s_trie trie;
    es2s_unicode unicode;
    es2s_pipeline encoding, decoding;
} es2s_tokenizer;

enum {
    ES2S_TOKEN_SPECIAL = 1, /* not part of a decoded text */
    ES2S_TOKEN_CONTROL = 2, /* never made of a text, which spells its name */
    ES2S_TOKEN_BYTE = 4     /* stands for the byte in its name, <0xAB> */
};

/* Reads and checks everything; prefix: UTF-8, of every text. */
void es2s_tokenizer_read(es2s_loader *l, es2s_tokenizer *t, const uint8_t *prefix, size_t n_prefix);

/* Writes at most `capacity` ids and always their number. text: n_bytes of UTF-8, else INVALID_ARGUMENT. */
es2s_status es2s_tokenizer_encode(const es2s_tokenizer *t, const char *text, size_t n_bytes, int32_t *ids,
                                  size_t capacity, size_t *n_out);

/* Writes at most `capacity` bytes, with a zero byte if there is room, and always how many the text has. */
es2s_status es2s_tokenizer_decode(const es2s_tokenizer *t, const int32_t *ids, size_t n, char *text,
                                  size_t capacity, size_t *n_bytes_out);

#endif
