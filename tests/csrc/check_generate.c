/* What a caller of es2s_session_generate can get wrong, and what its callbacks and prefixes cannot disturb.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "decoder.h"
#include "tiny_session.h"

#define GENERATE es2s_session_generate(session, &p, tokens, lens, scores, NULL, NULL)

enum { N_SOURCES = 4, N_NEW = 9 };

static void generate_refuses_each_wrong_parameter(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 1, 4);
    int32_t tokens[24], lens[1], first_tokens[24], first_len;
    float scores[1], logits[37], alone[37];
    es2s_generate_params p;
    es2s_generate_params_init(f.model, &p);
    CHECK(p.struct_size == sizeof p && p.num_beams == 1 && p.max_new_tokens == 24 && p.eos_token_id == 1);
    REFUSES(ES2S_STATE, "es2s_session_set_source first", GENERATE);
    set_source(&f, session, 0, 0);
    CHECK(GENERATE == ES2S_OK);
    memcpy(first_tokens, tokens, sizeof tokens);
    first_len = lens[0];

    REFUSES(ES2S_INVALID_ARGUMENT, "session",
            es2s_session_generate(NULL, &p, tokens, lens, scores, NULL, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "params",
            es2s_session_generate(session, NULL, tokens, lens, scores, NULL, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "tokens_out",
            es2s_session_generate(session, &p, NULL, lens, scores, NULL, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "lens_out",
            es2s_session_generate(session, &p, tokens, NULL, scores, NULL, NULL));
    REFUSES(ES2S_INVALID_ARGUMENT, "scores_out",
            es2s_session_generate(session, &p, tokens, lens, NULL, NULL, NULL));
    const int32_t ids[] = {5, 37}, no_lens[] = {1, 0};
#define WITH(change, expected, text)                                                                         \
    do {                                                                                                     \
        es2s_generate_params_init(f.model, &p);                                                              \
        change;                                                                                              \
        REFUSES(expected, text, GENERATE);                                                                   \
    } while (0)
    WITH(p.struct_size = 0, ES2S_INVALID_ARGUMENT, "es2s_generate_params_init");
    WITH(p.num_beams = 0, ES2S_INVALID_ARGUMENT, "num_beams: expected 1..4, found 0");
    WITH(p.num_beams = 5, ES2S_CAPACITY, "num_beams: expected at most 4");
    WITH(p.num_return_sequences = 0, ES2S_INVALID_ARGUMENT, "num_return_sequences");
    WITH(p.num_return_sequences = 2, ES2S_INVALID_ARGUMENT, "num_return_sequences: expected 1..1, found 2");
    WITH(p.max_new_tokens = 0, ES2S_INVALID_ARGUMENT, "max_new_tokens");
    WITH(p.max_new_tokens = 25, ES2S_CAPACITY, "max_new_tokens: expected at most 24");
    WITH(p.min_new_tokens = -1, ES2S_INVALID_ARGUMENT, "min_new_tokens");
    WITH(p.early_stopping = 3, ES2S_INVALID_ARGUMENT, "early_stopping");
    WITH(p.no_repeat_ngram_size = -1, ES2S_INVALID_ARGUMENT, "no_repeat_ngram_size");
    WITH(p.repetition_penalty = 0, ES2S_INVALID_ARGUMENT, "repetition_penalty");
    WITH(p.repetition_penalty = NAN, ES2S_INVALID_ARGUMENT, "repetition_penalty");
    WITH(p.length_penalty = (double)INFINITY, ES2S_INVALID_ARGUMENT, "length_penalty");
    WITH(p.decoder_start_token_id = -1, ES2S_INVALID_ARGUMENT,
         "decoder_start_token_id: expected 0..36, found -1");
    WITH(p.eos_token_id = 37, ES2S_INVALID_ARGUMENT, "eos_token_id: expected -1..36, found 37");
    WITH(p.pad_token_id = -2, ES2S_INVALID_ARGUMENT, "pad_token_id");
    WITH(p.forced_bos_token_id = 37, ES2S_INVALID_ARGUMENT, "forced_bos_token_id");
    WITH(p.forced_eos_token_id = 37, ES2S_INVALID_ARGUMENT, "forced_eos_token_id");
    WITH(p.n_suppress_tokens = -1, ES2S_INVALID_ARGUMENT, "n_suppress_tokens");
    WITH(p.n_suppress_tokens = 1, ES2S_INVALID_ARGUMENT, "suppress_tokens: expected a pointer");
    WITH((p.n_suppress_tokens = 2, p.suppress_tokens = ids), ES2S_INVALID_ARGUMENT, "suppress_tokens[1]");
    WITH(p.n_bad_words = -1, ES2S_INVALID_ARGUMENT, "n_bad_words");
    WITH(p.n_bad_words = 1, ES2S_INVALID_ARGUMENT, "bad_words_ids: expected a pointer");
    WITH((p.n_bad_words = 1, p.bad_words_ids = ids), ES2S_INVALID_ARGUMENT,
         "bad_words_lens: expected a pointer");
    WITH((p.n_bad_words = 2, p.bad_words_ids = ids, p.bad_words_lens = no_lens), ES2S_INVALID_ARGUMENT,
         "bad_words_lens");
    WITH((p.n_bad_words = 1, p.bad_words_ids = ids, p.bad_words_lens = (const int32_t[]){2}),
         ES2S_INVALID_ARGUMENT, "bad_words_ids[1]");
    WITH(p.encoder_repetition_penalty = -1, ES2S_INVALID_ARGUMENT, "encoder_repetition_penalty");
    WITH(p.encoder_repetition_penalty = 2, ES2S_STATE, "es2s_session_set_source_ids");
    WITH(p.encoder_no_repeat_ngram_size = -1, ES2S_INVALID_ARGUMENT, "encoder_no_repeat_ngram_size");
    WITH(p.encoder_no_repeat_ngram_size = 2, ES2S_STATE, "es2s_session_set_source_ids");
    WITH(p.exponential_decay_start = -1, ES2S_INVALID_ARGUMENT, "exponential_decay_start");
    WITH(p.exponential_decay_factor = NAN, ES2S_INVALID_ARGUMENT, "exponential_decay_factor");
    WITH(p.n_begin_suppress_tokens = -1, ES2S_INVALID_ARGUMENT, "n_begin_suppress_tokens");
    WITH((p.n_begin_suppress_tokens = 2, p.begin_suppress_tokens = ids), ES2S_INVALID_ARGUMENT,
         "begin_suppress_tokens[1]");
    WITH((p.n_sequence_bias = 1, p.sequence_bias_ids = ids, p.sequence_bias_lens = (const int32_t[]){1}),
         ES2S_INVALID_ARGUMENT, "sequence_bias: expected a pointer");
    WITH((p.n_sequence_bias = 1, p.sequence_bias_ids = ids, p.sequence_bias_lens = (const int32_t[]){1},
          p.sequence_bias = (const float[]){NAN}),
         ES2S_INVALID_ARGUMENT, "sequence_bias[0]: expected a finite number");
    REFUSES(ES2S_INVALID_ARGUMENT, "row: expected 0..0", es2s_session_set_source_ids(session, 1, ids, 1));
    REFUSES(ES2S_INVALID_ARGUMENT, "source_len", es2s_session_set_source_ids(session, 0, ids, 0));
    const int64_t no_deadlines[] = {-1, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < sizeof no_deadlines / sizeof *no_deadlines; i++) {
        es2s_generate_params_init(f.model, &p);
        p.deadline_ms = no_deadlines[i];
        SUCCEEDS(GENERATE);
        CHECK(lens[0] == first_len && memcmp(tokens, first_tokens, sizeof tokens) == 0);
    }
    es2s_generate_params_init(NULL, &p); /* knows no special token */
    p.max_new_tokens = 24;
    REFUSES(ES2S_INVALID_ARGUMENT, "decoder_start_token_id", GENERATE);
    es2s_generate_params_init(NULL, NULL);

    /* A program that knows only the first member: the rest are the model's defaults. */
    p = (es2s_generate_params){.struct_size = offsetof(es2s_generate_params, num_return_sequences),
                               .num_beams = 1};
    CHECK(GENERATE == ES2S_OK);
    CHECK(lens[0] == first_len && memcmp(tokens, first_tokens, sizeof tokens) == 0);

    /* Afterwards the source is still set, and its cache empty. */
    SUCCEEDS(es2s_session_step(session, &first_tokens[0], 1, logits));
    decode_alone(&f, 0, first_tokens, 1, alone);
    CHECK(same_bits(&f, alone, logits));
    es2s_session_free(session);
    unload(&f);
}

static int32_t n_calls_refused;

static int use_the_session(void *session, int32_t row, const int32_t *tokens, int32_t n) {
    float logits[37];
    const float cross_kv[2 * 2 * 3 * 6] = {0};
    es2s_generate_params p;
    es2s_generate_params_init(NULL, &p);
    (void)n;
    REFUSES(ES2S_STATE, "callback", es2s_session_step(session, tokens, 1, logits));
    REFUSES(ES2S_STATE, "callback", es2s_session_reorder_cache(session, &row, 1));
    REFUSES(ES2S_STATE, "callback", es2s_session_set_source(session, 0, cross_kv, 1));
    REFUSES(ES2S_STATE, "callback",
            es2s_session_generate(session, &p, (int32_t[128]){0}, &row, logits, NULL, NULL));
    es2s_session_clear(session);
    n_calls_refused++;
    return 0;
}

static void on_tokens_cannot_disturb_its_session(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 1, 2);
    set_source(&f, session, 0, 0);
    es2s_generate_params p;
    es2s_generate_params_init(f.model, &p);
    for (p.num_beams = 1; p.num_beams <= 2; p.num_beams++) {
        int32_t quiet[24], disturbed[24], len;
        float score;
        p.on_tokens = NULL;
        SUCCEEDS(es2s_session_generate(session, &p, quiet, &len, &score, NULL, NULL));
        p.on_tokens = use_the_session;
        p.user = session;
        n_calls_refused = 0;
        SUCCEEDS(es2s_session_generate(session, &p, disturbed, &len, &score, NULL, NULL));
        CHECK(n_calls_refused > 0 && memcmp(quiet, disturbed, sizeof quiet) == 0);
    }
    es2s_session_free(session);
    unload(&f);
}

/* Prefixes of the sources, of unequal lengths. */
static const int32_t prefix_ids[] = {5, 9, 2, 30, 7, 7, 7, 11, 30, 5}, prefix_lens[N_SOURCES] = {3, 0, 6, 1};

/* What sources [first, first + n) generate in one call. */
typedef struct answers {
    int32_t tokens[N_SOURCES][N_NEW], lens[N_SOURCES];
    float scores[N_SOURCES], logprobs[N_SOURCES][N_NEW];
} answers;

static es2s_generate_params plain_params(int32_t num_beams) {
    es2s_generate_params p;
    es2s_generate_params_init(NULL, &p);
    p.num_beams = num_beams;
    p.max_new_tokens = N_NEW;
    p.decoder_start_token_id = 0;
    p.eos_token_id = 1;
    return p;
}

static answers generate_prefixed(const fixture *f, int32_t first, int32_t n, int32_t num_beams) {
    es2s_session *session = create(f, n, num_beams);
    es2s_generate_params p = plain_params(num_beams);
    p.prefix_ids = prefix_ids;
    p.prefix_lens = prefix_lens + first;
    for (int32_t i = 0; i < first; i++)
        p.prefix_ids += prefix_lens[i];
    for (int32_t i = 0; i < n; i++)
        set_source(f, session, i, first + i);
    answers found;
    SUCCEEDS(es2s_session_generate(session, &p, found.tokens[0], found.lens, found.scores, found.logprobs[0],
                                   NULL));
    es2s_session_free(session);
    return found;
}

static void a_source_goes_on_from_its_prefix_whatever_the_others_have(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    for (int32_t num_beams = 1; num_beams <= 3; num_beams++) {
        const answers together = generate_prefixed(&f, 0, N_SOURCES, num_beams);
        for (int32_t i = 0; i < N_SOURCES; i++) {
            check_case("num_beams=%d source=%d", num_beams, i);
            const answers alone = generate_prefixed(&f, i, 1, num_beams);
            CHECK(together.lens[i] == alone.lens[0] && together.scores[i] == alone.scores[0]);
            CHECK(memcmp(together.tokens[i], alone.tokens[0], sizeof alone.tokens[0]) == 0);
            CHECK(memcmp(together.logprobs[i], alone.logprobs[0], sizeof alone.logprobs[0]) == 0);
        }
    }
    unload(&f);
}

static void greedy_search_takes_the_best_token_after_start_token_and_prefix(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    const answers found = generate_prefixed(&f, 0, N_SOURCES, 1);
    const int32_t *prefix = prefix_ids;
    for (int32_t i = 0; i < N_SOURCES; prefix += prefix_lens[i], i++) {
        int32_t history[1 + 6 + N_NEW] = {0}, n = 1 + prefix_lens[i];
        memcpy(history + 1, prefix, (size_t)prefix_lens[i] * sizeof *prefix);
        for (int32_t t = 0; t < found.lens[i]; t++) {
            float logits[37];
            decode_alone(&f, i, history, n, logits);
            int32_t best = 0;
            for (int32_t token = 1; token < 37; token++)
                if (logits[token] > logits[best]) best = token;
            check_case("source=%d new token=%d", i, t);
            CHECK(found.tokens[i][t] == best);
            history[n++] = best;
        }
    }
    unload(&f);
}

static void wrong_prefixes_are_refused_and_older_programs_have_none(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 2, 1);
    set_source(&f, session, 0, 0);
    set_source(&f, session, 1, 1);
    int32_t without[2 * N_NEW], tokens[2 * N_NEW], lens[2];
    float scores[2];
    es2s_generate_params p = plain_params(1);
    SUCCEEDS(GENERATE);
    memcpy(without, tokens, sizeof tokens);

    static const int32_t ids[] = {3, 36, 37}, fits[] = {1, 1}, negative[] = {1, -1}, wrong_id[] = {1, 2},
                         too_long[] = {0, 16}, longest[] = {0, 15}, many[16] = {0};
    p.prefix_lens = fits;
    REFUSES(ES2S_INVALID_ARGUMENT, "prefix_ids: expected a pointer", GENERATE);
    p.prefix_ids = ids;
    p.prefix_lens = negative;
    REFUSES(ES2S_INVALID_ARGUMENT, "prefix_lens: expected 0..", GENERATE);
    p.prefix_lens = wrong_id;
    REFUSES(ES2S_INVALID_ARGUMENT, "prefix_ids[1]: expected 0..36, found 37", GENERATE);
    p.prefix_ids = many;
    p.prefix_lens = too_long;
    REFUSES(ES2S_CAPACITY, "prefix_lens + max_new_tokens: expected at most 24", GENERATE);
    p.prefix_lens = longest;
    SUCCEEDS(GENERATE);
    CHECK(memcmp(without, tokens, N_NEW * sizeof *tokens) == 0); /* the first source has none */
    CHECK(memcmp(without, tokens, sizeof tokens) != 0);
    p.struct_size = offsetof(es2s_generate_params, prefix_ids);
    SUCCEEDS(GENERATE);
    CHECK(memcmp(without, tokens, sizeof tokens) == 0);
    es2s_session_free(session);
    unload(&f);
}

/* The flag is a count that the first step sets: that of the tokens which the first row has read. */
static void a_cancelled_prefix_is_read_no_further(void) {
    fixture f = load(tiny_defaults(), 1, NULL);
    es2s_session *session = create(&f, 1, 2);
    set_source(&f, session, 0, 0);
    const int32_t ids[] = {5, 9, 2}, three = 3, unread = -1;
    for (int32_t num_beams = 1; num_beams <= 2; num_beams++) {
        es2s_generate_params p = plain_params(num_beams);
        p.prefix_ids = ids;
        p.prefix_lens = &three;
        p.cancel = session->cache.lens;
        int32_t *const second = session->cache.index + 1, tokens[N_NEW], len, reason;
        *second = unread;
        float score;
        SUCCEEDS(es2s_session_generate(session, &p, tokens, &len, &score, NULL, &reason));
        CHECK(len == 0 && score == 0 && reason == ES2S_FINISH_CANCELLED && *second == unread);
        p.cancel = NULL;
        SUCCEEDS(es2s_session_generate(session, &p, tokens, &len, &score, NULL, &reason));
        CHECK(len > 0 && *second != unread);
    }
    es2s_session_free(session);
    unload(&f);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"generate_refuses_each_wrong_parameter", generate_refuses_each_wrong_parameter, 0},
        {"on_tokens_cannot_disturb_its_session", on_tokens_cannot_disturb_its_session, 0},
        {"a_source_goes_on_from_its_prefix_whatever_the_others_have",
         a_source_goes_on_from_its_prefix_whatever_the_others_have, 0},
        {"greedy_search_takes_the_best_token_after_start_token_and_prefix",
         greedy_search_takes_the_best_token_after_start_token_and_prefix, 0},
        {"wrong_prefixes_are_refused_and_older_programs_have_none",
         wrong_prefixes_are_refused_and_older_programs_have_none, 0},
        {"a_cancelled_prefix_is_read_no_further", a_cancelled_prefix_is_read_no_further, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
