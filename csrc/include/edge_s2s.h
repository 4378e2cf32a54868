/*
 * edge_s2s: an encoder-decoder Transformer, on the device.
 *
 *     es2s_model *model = NULL;
 *     if (es2s_model_load("summarizer.es2s", NULL, &model) != ES2S_OK) puts(es2s_last_error());
 *     es2s_summarize(model, text, strlen(text), NULL, summary, sizeof summary, &n_bytes);
 *     es2s_model_free(model);
 *
 * What does not appear in this file is not part of the API. What can fail returns ES2S_OK (0) or a negative
 * status; es2s_last_error() then tells what was expected and found. After a failure outputs are NULL or
 * untouched, the object stays usable. The library never prints, exits, reads the environment or keeps state.
 *
 * A parameter struct starts with struct_size. Call its _init function, then change what you need.
 * Members are only ever appended, together with a new _init function that knows them, so a program
 * built against an older header keeps working.
 *
 * A child process made by fork() must neither use nor free a model with n_threads > 1 of its parent.
 */
#ifndef EDGE_S2S_H
#define EDGE_S2S_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ---- cffi reads from here ---- */

/* ============================================ Library ============================================ */

typedef enum es2s_status {
    ES2S_OK = 0,
    ES2S_INVALID_ARGUMENT = -1,    /* a parameter is out of range: the caller's mistake */
    ES2S_OUT_OF_MEMORY = -2,
    ES2S_IO = -3,                  /* the file cannot be opened, read or mapped */
    ES2S_BAD_FORMAT = -4,          /* the weights are not a valid file of this format */
    ES2S_UNSUPPORTED_VERSION = -5, /* a valid file, but of a format or feature this library does not know */
    ES2S_UNSUPPORTED_CPU = -6,     /* the requested ISA is unknown or this CPU lacks it */
    ES2S_CAPACITY = -7,            /* more rows, source or target tokens than the session was created for */
    ES2S_STATE = -8,               /* called in the wrong order, for example a step before set_source */
    ES2S_CANCELLED = -9            /* by the caller, in a call that has no partial result to return */
} es2s_status;

/* Why a sequence ended. */
typedef enum es2s_finish_reason {
    ES2S_FINISH_EOS = 0,
    ES2S_FINISH_LENGTH = 1,
    ES2S_FINISH_DEADLINE = 2, /* for all sequences of a source whose result was not settled by then, */
    ES2S_FINISH_CANCELLED = 3 /* even those that have an EOS */
} es2s_finish_reason;

/* When beam search stops, as in transformers' early_stopping. */
typedef enum es2s_early_stopping {
    ES2S_EARLY_STOPPING_FALSE = 0, /* when the best live beam cannot beat the worst finished one at today's length */
    ES2S_EARLY_STOPPING_TRUE = 1,  /* when num_beams hypotheses have finished */
    ES2S_EARLY_STOPPING_NEVER = 2  /* when no live beam can win even at the longest length */
} es2s_early_stopping;

typedef struct es2s_model es2s_model;     /* immutable weights; shared by any number of threads */
typedef struct es2s_session es2s_session; /* KV cache and scratch; one thread at a time */

unsigned es2s_version(void); /* of the library, 0x00MMmmpp */

const char *es2s_status_str(es2s_status status); /* constant text such as "invalid argument", never NULL */

/* Detail of this thread's last failure; valid until its next failing call. Never NULL. */
const char *es2s_last_error(void);

/* Kernel sets this CPU can run, narrowest first, such as "scalar avx2 avx512_vnni". */
const char *es2s_supported_isas(void);

/* Bytes that the system and the control groups of this process have left; UINT64_MAX where nobody tells (all but
 * Linux). root: the folder with proc and sys, NULL = "/". What a model or session needs is compared with it. */
uint64_t es2s_available_memory(const char *root);

/* Gives back to the system what malloc holds for this process and nothing uses, where malloc can (glibc); for after
 * work that has left a lot of it, such as reading a tokenizer.json. */
void es2s_release_memory(void);

/* ============================================= Model ============================================= */

/* The threads serve one call at a time; a call that finds them busy works alone, with the same result. */
typedef struct es2s_model_params {
    uint32_t struct_size;
    int32_t n_threads;   /* threads that may work on one call, the caller's included; 1..64, default 1 */
    const char *isa;     /* kernel set to use; NULL (default) = the widest this CPU supports */
    int32_t verify_data; /* non-zero (default): compare the tensors with the files' SHA-256 */
    const void *encoder;   /* encoder.weights, to live until es2s_model_free; NULL (default): the bundle's, if any */
    size_t encoder_size;
    const void *tokenizer; /* tokenizer.table, the same */
    size_t tokenizer_size;
    int32_t pin_threads; /* non-zero: all threads but the caller's keep to the fast cores, where Linux tells them apart; default 0 */
    int32_t is_mapped; /* non-zero: the bytes that the caller hands over lie in read-only mappings of files, of which pages may be let go (MADV_DONTNEED); default 0 */
} es2s_model_params;

typedef struct es2s_model_dims {
    uint32_t struct_size;
    int32_t vocab_size;
    int32_t d_model;
    int32_t d_ff;
    int32_t n_layers; /* decoder layers */
    int32_t n_heads;
    int32_t d_head;         /* n_heads * d_head need not equal d_model */
    int32_t max_source_len; /* tokens the model accepts in one pass */
    int32_t max_target_len; /* upper limit of max_new_tokens */
    int32_t decoder_start_token_id;
    int32_t eos_token_id;
    int32_t pad_token_id;
    int32_t source_vocab_size; /* tokens that es2s_model_embed knows */
} es2s_model_dims;

void es2s_model_params_init(es2s_model_params *params);

/* Loads decoder.weights, or a bundle, a folder or an .es2s, with the encoder and the tokenizer that it has for the
 * core. A bundle whose manifest asks for a newer version is UNSUPPORTED_VERSION, one that was changed BAD_FORMAT. Files are mapped and must not change until es2s_model_free. params NULL = defaults. Fails with IO, BAD_FORMAT, UNSUPPORTED_VERSION, UNSUPPORTED_CPU, OUT_OF_MEMORY. */
es2s_status es2s_model_load(const char *path, const es2s_model_params *params, es2s_model **model_out);

/* The same from memory at any alignment; data stays the caller's and must live until es2s_model_free. */
es2s_status es2s_model_load_memory(const void *data, size_t size, const es2s_model_params *params,
                                   es2s_model **model_out);

/* dims_out->struct_size must be set to sizeof *dims_out. */
es2s_status es2s_model_get_dims(const es2s_model *model, es2s_model_dims *dims_out);

const char *es2s_model_isa(const es2s_model *model); /* name of the kernel set in use */

/* Looks up a source's embeddings, what the encoder takes as inputs_embeds, which scales them itself.
 * token_ids: int32[n]; embeds_out: float[n, d_model]. Fails with INVALID_ARGUMENT on an id >= source_vocab_size. */
es2s_status es2s_model_embed(const es2s_model *model, const int32_t *token_ids, size_t n, float *embeds_out);

/* The input ids of a text, n_bytes of UTF-8, with prefix and control tokens, by the model's own tokenizer. Writes at
 * most `capacity` ids; n_out says how many there are. Takes memory for the time of the call, as the next one. */
es2s_status es2s_model_tokenize(const es2s_model *model, const char *text, size_t n_bytes, int32_t *ids_out,
                                size_t capacity, size_t *n_out);

/* The text of token ids, UTF-8 without special tokens: at most `capacity` bytes, and a zero byte if there is room. */
es2s_status es2s_model_detokenize(const es2s_model *model, const int32_t *ids, size_t n, char *text_out,
                                  size_t capacity, size_t *n_bytes_out);

void es2s_model_free(es2s_model *model); /* every session of it must be freed first; accepts NULL */

/* ============================================ Session ============================================ */

/* Lengths above the model's max_source_len and max_target_len mean these. */
typedef struct es2s_session_params {
    uint32_t struct_size;
    int32_t max_batch;      /* sources at a time; 1..1024, default 1 */
    int32_t max_beams;      /* rows per source; 1..256, default 1 */
    int32_t max_source_len; /* default 512 */
    int32_t max_target_len; /* new tokens and a prefix of theirs; default 256 */
    int32_t keep_cross_attention; /* non-zero: room for es2s_session_cross_attention; default 0 */
    int32_t max_draft_tokens;     /* the largest prompt_lookup_num_tokens; 0..16, default 0 */
} es2s_session_params;

void es2s_session_params_init(es2s_session_params *params);

/* Allocates everything the session will ever need; decoding allocates nothing. params NULL = defaults. */
es2s_status es2s_session_create(const es2s_model *model, const es2s_session_params *params,
                                es2s_session **session_out);

/* Bytes held by the session; decoder steps of its last es2s_session_generate. */
size_t es2s_session_memory(const es2s_session *session);
int64_t es2s_session_n_steps(const es2s_session *session);

/* Copies one source into row 0 <= row < max_batch and empties that row's self-attention cache.
 * cross_kv: float[n_layers, 2 (K, V), n_heads, source_len, d_head], the encoder's output. It is kept
 * once per source, whatever the number of beams; in float16 if the weights say so (kv_cache_dtype). */
es2s_status es2s_session_set_source(es2s_session *session, int32_t row, const float *cross_kv, int32_t source_len);

/* The same by the model's own encoder. token_ids: int32[n], those of es2s_model_embed. deadline_ms: time for this
 * call, < 0 = none. cancel: polled in each layer; may be NULL. Either ends in CANCELLED, without a source in the row.
 * mean_hidden_out: float[d_model], mean of the last hidden states; may be NULL. */
es2s_status es2s_session_encode(es2s_session *session, int32_t row, const int32_t *token_ids, int32_t n,
                                int64_t deadline_ms, const volatile int32_t *cancel, float *mean_hidden_out);

/* Copies the source of a row, float[n_layers, 2, n_heads, source_len, d_head], as es2s_session_set_source takes it,
 * rounded to float16 where it is kept so. */
es2s_status es2s_session_get_source(const es2s_session *session, int32_t row, float *cross_kv_out);

/* Tells the tokens of the source in `row`, which the rules encoder_* of es2s_generate_params read. Call it after
 * es2s_session_set_source or _encode, which forget them. source_ids: int32[source_len], ids of the decoder's vocabulary. */
es2s_status es2s_session_set_source_ids(es2s_session *session, int32_t row, const int32_t *source_ids,
                                        int32_t source_len);

void es2s_session_clear(es2s_session *session); /* forgets all sources; the memory stays */
void es2s_session_free(es2s_session *session); /* accepts NULL */

/* ============================================ Decoding =========================================== */

/* One decoder step, for teacher forcing and for searches written outside. With b sources set (rows 0..b-1),
 * n_rows is b * k with k <= max_beams; row r reads source r / k. Every row's cache grows by one position.
 * tokens: int32[n_rows], at the first step decoder_start_token_id; logits_out: float[n_rows, vocab_size].
 * A row's logits have the same bits whatever the other rows are. */
es2s_status es2s_session_step(es2s_session *session, const int32_t *tokens, int32_t n_rows, float *logits_out);

/* Before the next step, row i continues what row beam_idx[i] has decoded so far. Copies indices, no cache.
 * beam_idx: int32[n_rows]; both rows must belong to the same source. n_rows may differ from the last step's. */
es2s_status es2s_session_reorder_cache(es2s_session *session, const int32_t *beam_idx, int32_t n_rows);

/* The weights with which row `row` of the last es2s_session_step attended to its source, in every layer and head
 * a softmax over its tokens. weights_out: float[n_layers, n_heads, source_len]. Fails with STATE if there was no
 * step since, or if keep_cross_attention was 0. */
es2s_status es2s_session_cross_attention(const es2s_session *session, int32_t row, float *weights_out);

/* ============================================= Search ============================================ */

/* Called in the thread that generates with n more tokens of the first sequence of `row` that can no longer change.
 * A non-zero return cancels the generation of all rows. Calls of it that use the session fail with STATE. */
typedef int (*es2s_on_tokens)(void *user, int32_t row, const int32_t *tokens, int32_t n);

/* Called once for each hypothesis in each step, after all rules, in the thread that generates. It may change the
 * scores of the next token: logits, under beams log-probabilities; -inf forbids a token, NaN and +inf are
 * INVALID_ARGUMENT. tokens: int32[n], the start token, the prefix and all since. scores: float[vocab_size].
 * A non-zero return ends the call with CANCELLED. After either failure the outputs are undefined. Calls of it that use
 * the session fail with STATE. */
typedef int (*es2s_logits_processor)(void *user, int32_t row, const int32_t *tokens, int32_t n, float *scores,
                                     int32_t vocab_size);

/* Names and meanings are those of transformers' generate(), whose decoder_input_ids are the start token and the
 * prefix: rules see it, counts, lengths and scores leave it out. -1 = no such token. */
typedef struct es2s_generate_params {
    uint32_t struct_size;
    int32_t num_beams;            /* 1 = greedy search or sampling */
    int32_t num_return_sequences; /* <= num_beams; sampling with num_beams 1: independent draws, <= max_beams */
    int32_t max_new_tokens;       /* excludes the start token, includes EOS */
    int32_t min_new_tokens;       /* EOS is forbidden before */
    int32_t early_stopping;       /* es2s_early_stopping */
    int32_t no_repeat_ngram_size; /* 0 = off */
    float repetition_penalty;     /* 1 = off */
    double length_penalty;        /* a score is divided by length ** length_penalty */
    int32_t decoder_start_token_id;
    int32_t eos_token_id;
    int32_t pad_token_id;
    int32_t forced_bos_token_id;      /* forced as the first new token */
    int32_t forced_eos_token_id;      /* forced at max_new_tokens */
    const int32_t *suppress_tokens;   /* int32[n_suppress_tokens]: never generated */
    const int32_t *bad_words_ids;     /* the sequences of bad_words_lens, one after the other */
    const int32_t *bad_words_lens;    /* int32[n_bad_words], each >= 1 */
    int32_t n_suppress_tokens;
    int32_t n_bad_words;
    int64_t deadline_ms;              /* time for this call; < 0 = none. Afterwards what is there is returned. */
    const volatile int32_t *cancel;   /* polled each step, set by any thread: non-zero = the same; may be NULL */
    es2s_on_tokens on_tokens;         /* may be NULL */
    void *user;                       /* passed to on_tokens and logits_processor */
    double encoder_repetition_penalty;     /* 1 = off; > 1 favours tokens of the source */
    int32_t encoder_no_repeat_ngram_size;  /* no n-gram of the source is generated; 0 = off */
    int32_t n_begin_suppress_tokens;
    const int32_t *begin_suppress_tokens;  /* int32[n]: not the first new token, or the one after forced_bos_token_id */
    int32_t exponential_decay_start;       /* from so many new tokens on, EOS becomes likelier with each, */
    int32_t n_sequence_bias;
    double exponential_decay_factor;       /* by this factor, or less likely below 1; 1 = off */
    const int32_t *sequence_bias_ids;      /* the sequences of sequence_bias_lens, one after the other */
    const int32_t *sequence_bias_lens;     /* int32[n_sequence_bias], each >= 1 */
    const float *sequence_bias;            /* float[n_sequence_bias]: added to a token that completes its sequence */
    es2s_logits_processor logits_processor; /* may be NULL */
    int32_t do_sample;         /* non-zero: draw tokens by their probability instead of taking the best */
    int32_t top_k;             /* draw among so many; 0 = off. What is kept is decided in this order: */
    double temperature;        /* logits are divided by it; 1 = off */
    double top_p;              /* then the most likely ones that together have this probability; 1 = off */
    double min_p;              /* then those at least so many times as likely as the most likely one; 0 = off */
    double typical_p;          /* then those of nearly the expected information, by probability; 1 = off */
    const uint64_t *seeds;     /* uint64[b]: what is drawn for a source depends on its seed; NULL = 0 for all */
    int32_t num_beam_groups;   /* > 1: diverse beam search by groups of num_beams / num_beam_groups */
    float diversity_penalty;   /* > 0 then: for a token, for each time that an earlier group chooses it in this step */
    const int32_t *prefix_ids;  /* what the results of each source begin with after the start token, source after source */
    const int32_t *prefix_lens; /* int32[b], each >= 0 and at most max_target_len - max_new_tokens; NULL = all 0 */
    int32_t renormalize_logits; /* non-zero, beams: the probabilities that rules have left add up to 1 again */
    int32_t prompt_lookup_num_tokens; /* greedy, one source: tokens that a step may read ahead; 0 = off. Same results. */
} es2s_generate_params;

/* The generation defaults of the model's bundle. model NULL = greedy, 128 new tokens, no rule, no special token. */
void es2s_generate_params_init(const es2s_model *model, es2s_generate_params *params);

/* Greedy search, sampling or beam search over all sources set (rows 0..b-1). The caller's buffers, with n = num_return_sequences:
 *   tokens_out         int32[b, n, max_new_tokens]  without start token and prefix, with EOS, then pad (else EOS, else -1)
 *   lens_out           int32[b, n]
 *   scores_out         float[b, n]  beams: transformers' sequences_scores; else: sum of logprobs / len ** length_penalty
 *   logprobs_out       float[b, n, max_new_tokens]  log-softmax of the logits before any rule, then 0; may be NULL
 *   finish_reasons_out int32[b, n]  es2s_finish_reason; may be NULL
 * Sequences of a source come best first, drawn ones in the order of their numbers. The sources stay set; their self-attention caches are empty afterwards. */
es2s_status es2s_session_generate(es2s_session *session, const es2s_generate_params *params, int32_t *tokens_out,
                                  int32_t *lens_out, float *scores_out, float *logprobs_out,
                                  int32_t *finish_reasons_out);

/* Tokenizes, encodes, generates and detokenizes, with memory for the time of the call; params NULL = the bundle's
 * defaults. CAPACITY: more than max_source_len tokens. CANCELLED: before all of them were read. */
es2s_status es2s_summarize(const es2s_model *model, const char *text, size_t n_bytes,
                           const es2s_generate_params *params, char *summary_out, size_t capacity,
                           size_t *n_bytes_out);

/* ---- cffi reads to here ---- */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* EDGE_S2S_H */
