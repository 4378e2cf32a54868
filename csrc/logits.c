#include "logits.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static bool same_tokens(const int32_t *a, const int32_t *b, int32_t n) {
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* Makes tokens of the history less likely (CTRL, Keskar et al. 2019, with its sign corrected for scores below
 * 0). All scores are read before one is written, so a token that occurs twice is penalised once. */
static void penalize_repetition(float penalty, const int32_t *history, int32_t n_history, float *scores,
                                float *scratch) {
    for (int32_t i = 0; i < n_history; i++)
        scratch[i] = scores[history[i]];
    for (int32_t i = 0; i < n_history; i++)
        scores[history[i]] = scratch[i] < 0 ? scratch[i] * penalty : scratch[i] / penalty;
}

/* Forbids each token that would complete an n-gram of the history a second time. */
static void forbid_repeated_ngrams(int32_t n, const int32_t *history, int32_t n_history, float *scores) {
    if (n > n_history) return;
    const int32_t *const last =
        history + n_history - (n - 1); // the n - 1 tokens that the next one would continue
    for (const int32_t *ngram = history; ngram + n <= history + n_history; ngram++)
        if (same_tokens(ngram, last, n - 1)) scores[ngram[n - 1]] = -INFINITY;
}

/* Forbids the last token of each bad word whose other tokens have just been generated. As in transformers, a
 * word that is EOS alone does not count, and a word of several tokens only once the history is as long as the
 * word. */
static void forbid_bad_words(const es2s_generate_params *params, const int32_t *history, int32_t n_history,
                             float *scores) {
    const int32_t *word = params->bad_words_ids;
    for (int32_t w = 0; w < params->n_bad_words; w++) {
        const int32_t len = params->bad_words_lens[w], last = word[len - 1];
        if (len == 1) {
            if (last != params->eos_token_id) scores[last] = -INFINITY;
        } else if (len <= n_history && same_tokens(word, history + n_history - (len - 1), len - 1)) {
            scores[last] = -INFINITY;
        }
        word += len;
    }
}

static void force_token(int32_t token, float *scores, int32_t vocab_size) {
    for (int32_t i = 0; i < vocab_size; i++)
        scores[i] = -INFINITY;
    scores[token] = 0;
}

void es2s_logits_apply_rules(const es2s_generate_params *params, const int32_t *history, int32_t n_history,
                             float *scores, int32_t vocab_size, float *scratch) {
    const int32_t n_generated = n_history - 1;
    assert(n_generated >= 0 && n_generated < params->max_new_tokens);

    if (params->repetition_penalty != 1)
        penalize_repetition(params->repetition_penalty, history, n_history, scores, scratch);
    if (params->no_repeat_ngram_size > 0)
        forbid_repeated_ngrams(params->no_repeat_ngram_size, history, n_history, scores);
    forbid_bad_words(params, history, n_history, scores);
    if (params->eos_token_id >= 0 && n_generated < params->min_new_tokens)
        scores[params->eos_token_id] = -INFINITY;
    if (params->forced_bos_token_id >= 0 && n_generated == 0)
        force_token(params->forced_bos_token_id, scores, vocab_size);
    if (params->forced_eos_token_id >= 0 && n_generated == params->max_new_tokens - 1)
        force_token(params->forced_eos_token_id, scores, vocab_size);
    for (int32_t i = 0; i < params->n_suppress_tokens; i++)
        scores[params->suppress_tokens[i]] = -INFINITY;
}
