/* The steps of a tokenizer's pipelines, each from one text with pieces to another. */
#ifndef ES2S_TOKENIZER_STEPS_H
#define ES2S_TOKENIZER_STEPS_H

#include "tokenizer.h"

/* The numbers are the file's. a and b are a step's strings; steps that replace, split or strip have an a. */
enum {
    ES2S_STEP_REPLACE = 1,        /* a by b, within pieces */
    ES2S_STEP_PREPEND = 2,        /* a before a text that is not empty */
    ES2S_STEP_STRIP = 3,          /* white space, Python's if a is not empty; flag: left; b not empty: right */
    ES2S_STEP_NORMALIZE = 4,      /* Unicode; flag: composes */
    ES2S_STEP_CHARSMAP = 5,       /* SentencePiece's normalization */
    ES2S_STEP_SPLIT = 6,          /* a becomes a piece of its own */
    ES2S_STEP_SPLIT_BEFORE = 7,   /* a begins a piece */
    ES2S_STEP_BEGIN_PIECES = 8,   /* a before each piece that does not begin with it */
    ES2S_STEP_DIGITS = 9,         /* numeric characters become pieces; flag: each one */
    ES2S_STEP_WORDS = 10,         /* pieces as GPT-2 cuts them */
    ES2S_STEP_WRITE_LETTERS = 11, /* ByteLevel's letters for bytes */
    ES2S_STEP_FUSE = 12,          /* one piece */
    ES2S_STEP_STRIP_PIECE = 13,   /* at the left of each piece a, as many times as b has bytes */
    ES2S_STEP_WRITE_BLANKS = 14,  /* a becomes a blank; flag: in the first piece nothing */
    ES2S_STEP_READ_LETTERS = 15,  /* bytes for ByteLevel's letters, then UTF-8 or U+FFFD */
    ES2S_N_STEPS
};

/* Returns false without memory. `in` and `out` are two texts; what the step makes is in `out`. */
bool es2s_run_step(const es2s_tokenizer *t, const es2s_step *step, const es2s_text *in, es2s_text *out);

/* Appends bytes as UTF-8, with U+FFFD for what is none of it, as many as Rust's from_utf8_lossy gives. */
void es2s_append_lossy(es2s_text *out, const uint8_t *bytes, size_t n);

#endif
