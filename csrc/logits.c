#include "logits.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static bool same_tokens(const int32_t *a, const int32_t *b, int32_t n) {
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* Whether the history ends in the first len - 1 tokens of a sequence, so that the last one would complete it.
 * As in transformers, a sequence of several tokens needs a history as long as itself. */
static bool is_next(const int32_t *sequence, int32_t len, const es2s_rule_context *c) {
    return len == 1 ||
           (len <= c->n_history && same_tokens(sequence, c->history + c->n_history - (len - 1), len - 1));
}

/* Adds a bias to each token that would complete its sequence. */
static void bias_sequences(const es2s_generate_params *params, const es2s_rule_context *c, float *scores) {
    const int32_t *sequence = params->sequence_bias_ids;
    for (int32_t i = 0; i < params->n_sequence_bias; i++) {
        const int32_t len = params->sequence_bias_lens[i];
        if (is_next(sequence, len, c)) scores[sequence[len - 1]] += params->sequence_bias[i];
        sequence += len;
    }
}

/* Makes tokens less likely (CTRL, Keskar et al. 2019, with its sign corrected for scores below 0), or with a
 * penalty below 1 likelier. All scores are read before one is written, so a token that occurs twice is
 * penalised once. */
static void penalize(float penalty, const int32_t *tokens, int32_t n, float *scores, float *scratch) {
    for (int32_t i = 0; i < n; i++)
        scratch[i] = scores[tokens[i]];
    for (int32_t i = 0; i < n; i++)
        scores[tokens[i]] = scratch[i] < 0 ? scratch[i] * penalty : scratch[i] / penalty;
}

/* Forbids each token that would complete an n-gram of `tokens` at the end of the history. */
static void forbid_ngrams(int32_t n, const int32_t *tokens, int32_t n_tokens, const es2s_rule_context *c,
                          float *scores) {
    if (n > n_tokens || n > c->n_history + 1) return;
    const int32_t *const last = c->history + c->n_history - (n - 1); // what the next token would continue
    for (const int32_t *ngram = tokens; ngram + n <= tokens + n_tokens; ngram++)
        if (same_tokens(ngram, last, n - 1)) scores[ngram[n - 1]] = -INFINITY;
}

/* Forbids the last token of each bad word whose other tokens have just been generated. As in transformers, a
 * word that is EOS alone does not count. */
static void forbid_bad_words(const es2s_generate_params *params, const es2s_rule_context *c, float *scores) {
    const int32_t *word = params->bad_words_ids;
    for (int32_t w = 0; w < params->n_bad_words; w++) {
        const int32_t len = params->bad_words_lens[w], last = word[len - 1];
        const bool is_eos = len == 1 && last == params->eos_token_id;
        if (!is_eos && is_next(word, len, c)) scores[last] = -INFINITY;
        word += len;
    }
}

static void force_token(int32_t token, float *scores, int32_t vocab_size) {
    for (int32_t i = 0; i < vocab_size; i++)
        scores[i] = -INFINITY;
    scores[token] = 0;
}

/* base ** n by squaring; every product is rounded once, so within 2 n ulp. */
static double power(double base, int32_t n) {
    double result = 1;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= base;
        base *= base;
    }
    return result;
}

/* score + |score| * (factor ** n - 1). The gain is bounded where transformers' power overflows. A forbidden
 * EOS stays forbidden, where transformers has -inf + inf. */
static void decay_length(double factor, int32_t n, float *eos_score) {
    const double gain = power(factor, n) - 1, largest = 1e30;
    if (*eos_score == -INFINITY) return;
    *eos_score += fabsf(*eos_score) * (float)(gain < largest ? gain : largest);
}

static void suppress(const int32_t *tokens, int32_t n, float *scores) {
    for (int32_t i = 0; i < n; i++)
        scores[tokens[i]] = -INFINITY;
}

void es2s_logits_apply_rules(const es2s_generate_params *params, const es2s_rule_context *c, float *scores,
                             int32_t vocab_size, float *scratch) {
    const int32_t n_generated = c->n_history - c->n_prompt;
    const bool forces_bos = params->forced_bos_token_id >= 0 && c->n_prompt == 1;
    const int32_t eos = params->eos_token_id;
    assert(n_generated >= 0 && n_generated < params->max_new_tokens);

    bias_sequences(params, c, scores);
    if (params->encoder_repetition_penalty != 1)
        penalize((float)(1 / params->encoder_repetition_penalty), c->source_ids, c->n_source_ids, scores,
                 scratch);
    if (params->repetition_penalty != 1)
        penalize(params->repetition_penalty, c->history, c->n_history, scores, scratch);
    if (params->no_repeat_ngram_size > 0)
        forbid_ngrams(params->no_repeat_ngram_size, c->history, c->n_history, c, scores);
    if (params->encoder_no_repeat_ngram_size > 0)
        forbid_ngrams(params->encoder_no_repeat_ngram_size, c->source_ids, c->n_source_ids, c, scores);
    forbid_bad_words(params, c, scores);
    if (eos >= 0 && n_generated < params->min_new_tokens) scores[eos] = -INFINITY;
    if (forces_bos && n_generated == 0) force_token(params->forced_bos_token_id, scores, vocab_size);
    if (params->forced_eos_token_id >= 0 && n_generated == params->max_new_tokens - 1)
        force_token(params->forced_eos_token_id, scores, vocab_size);
    if (eos >= 0 && params->exponential_decay_factor != 1 && n_generated > params->exponential_decay_start)
        decay_length(params->exponential_decay_factor, n_generated - params->exponential_decay_start,
                     &scores[eos]);
    suppress(params->suppress_tokens, params->n_suppress_tokens, scores);
    if (n_generated == (forces_bos ? 1 : 0))
        suppress(params->begin_suppress_tokens, params->n_begin_suppress_tokens, scores);
}
