/*
 * Beam search is that of transformers 4.57, in its float32 arithmetic. A group has group_size live
 * hypotheses, each with a decoder row, and up to group_size finished ones. One step ranks all continuations
 * of the live hypotheses and takes the best 2 * group_size, so that group_size of them do not end in EOS.
 * Those that end and rank among the first group_size may enter the finished ones; the best of the others live
 * on.
 *
 * What must lose has ES2S_HOPELESS added to its score, and competes. That shows only where too few
 * continuations are allowed, and is kept because there, too, the answer should be transformers'. One answer
 * is not: where every continuation is forbidden and nothing has finished, transformers returns what happens
 * to lie in its buffers, and this search its live hypotheses.
 *
 * With do_sample, the 2 * group_size are drawn without replacement instead, each with the probability that
 * the exponential of its score gives it: adding Gumbel noise to the scores and ranking does just that (Kool
 * et al. 2019).
 *
 * Diverse beam search (Vijayakumar et al. 2018) lets groups choose one after the other, and takes a penalty
 * from the score of a token for each time that an earlier group has chosen it in the same step. Its stepping
 * is that of transformers' older beam search: a hypothesis finishes by EOS alone, and those that live at the
 * longest length are added to the finished ones at the end, unless the group has enough by then.
 */
#include <math.h>
#include <string.h>

#include "decoder.h"
#include "length_penalty.h"
#include "search_state.h"

/* Keeps the `capacity` highest ranks, best first; of equals those that came first. */
static void rank(struct candidate *best, int32_t *n, int32_t capacity, struct candidate new) {
    if (*n == capacity && !(new.rank > best[capacity - 1].rank)) return;
    int32_t i = *n < capacity ? (*n)++ : capacity - 1;
    for (; i > 0 && best[i - 1].rank < new.rank; i--)
        best[i] = best[i - 1];
    best[i] = new;
}

/* Ranks all continuations of a live hypothesis, whose next token's scores are search->scores. Few blocks of
 * tokens hold one that is good enough; the largest score of a block tells. */
static void rank_continuations(struct search *search, int32_t *n, int32_t beam, float sum) {
    const int32_t capacity = 2 * search->group_size, block_len = 256;
    struct candidate *const best = search->candidates;
    for (int32_t begin = 0; begin < search->vocab_size; begin += block_len) {
        const float *const block = search->scores + begin;
        const int32_t left = search->vocab_size - begin, len = left < block_len ? left : block_len;
        const float top = search->session->model->kernels.max(block, (size_t)len);
        if (*n == capacity && !(top + sum > best[capacity - 1].rank)) continue;
        for (int32_t i = 0; i < len; i++) {
            const float score = block[i] + sum;
            rank(best, n, capacity, (struct candidate){score, score, beam, begin + i});
        }
    }
}

/* Draws among the allowed continuations of a live hypothesis. */
static void draw_continuations(struct search *search, const struct source_search *source, int32_t *n,
                               int32_t beam, float sum) {
    es2s_random_index index = es2s_search_random_index(search, source);
    index.beam = (uint32_t)beam;
    for (int32_t token = 0; token < search->vocab_size; token++) {
        if (!(search->scores[token] > -INFINITY)) continue;
        index.token = (uint32_t)token;
        const float score = search->scores[token] + sum;
        const float gumbel = (float)-es2s_log(-es2s_log(es2s_random_uniform(index)));
        rank(search->candidates, n, 2 * search->group_size,
             (struct candidate){score, score + gumbel, beam, token});
    }
}

/* Takes diversity_penalty from a token's score for each time that an earlier group has chosen it. */
static void penalize_chosen(struct search *search) {
    const int32_t *const chosen = search->chosen;
    for (int32_t i = 0; i < search->n_chosen; i++) {
        int32_t count = 0;
        bool is_first = true;
        for (int32_t j = 0; j < search->n_chosen; j++) {
            if (chosen[j] != chosen[i]) continue;
            count++;
            is_first &= j >= i;
        }
        if (is_first) search->scores[chosen[i]] -= search->params->diversity_penalty * (float)count;
    }
}

/* Gives search->scores the probability 1 in sum, unless all are forbidden. */
static void renormalize(struct search *search) {
    const struct log_softmax terms = es2s_search_log_softmax(search, search->scores);
    if (terms.max == -INFINITY) return;
    for (int32_t token = 0; token < search->vocab_size; token++)
        search->scores[token] = (search->scores[token] - terms.max) - terms.log_sum;
}

/* Fills search->candidates with the best continuations of the live hypotheses; returns their number. */
static int32_t rank_candidates(struct search *search, const struct source_search *source,
                               const struct group *group) {
    const es2s_generate_params *const params = search->params;
    const int32_t min_to_keep = params->eos_token_id >= 0 ? 2 : 1; // one that goes on
    int32_t n = 0;
    for (int32_t beam = 0; beam < group->n_live; beam++) {
        const struct hypothesis *const live = &group->live[beam];
        if (beam == 0 || live->row != live[-1].row) {
            const float *const logits = es2s_search_logits(search, live->row);
            const struct log_softmax terms = search->row_log_softmax[live->row];
            for (int32_t token = 0; token < search->vocab_size; token++)
                search->scores[token] = (logits[token] - terms.max) - terms.log_sum;
            es2s_search_rule(search, source, live);
            penalize_chosen(search);
            if (params->do_sample)
                es2s_sampling_warp(&search->sampler, search->scores, search->vocab_size, min_to_keep);
            if (params->renormalize_logits) renormalize(search);
        }
        if (params->do_sample)
            draw_continuations(search, source, &n, beam, live->score);
        else
            rank_continuations(search, &n, beam, live->score);
    }
    return n;
}

/* child = the candidate's hypothesis with its token; their buffers differ. */
static void extend(const struct search *search, struct hypothesis *child, const struct group *group,
                   struct candidate candidate) {
    const struct hypothesis *const parent = &group->live[candidate.beam];
    memcpy(child->tokens, parent->tokens, sizeof *child->tokens * ((size_t)parent->len + 1));
    memcpy(child->logprobs, parent->logprobs, sizeof *child->logprobs * (size_t)parent->len);
    child->len = parent->len;
    child->row = parent->row;
    es2s_search_append(search, child, candidate.token, candidate.score);
}

/* What a new finished hypothesis has to beat. */
static float worst_finished(const struct search *search, const struct group *group) {
    const int32_t size = search->group_size;
    return group->n_finished == size ? group->finished[size - 1].score : ES2S_HOPELESS;
}

/* Adds a hypothesis that has just ended to the finished ones, if it is good enough. */
static void finish(const struct search *search, struct group *group, struct candidate ended) {
    ended.score /= (float)es2s_length_power(search->n_generated, search->params->length_penalty);
    if (!(ended.score > worst_finished(search, group))) return;
    int32_t i = group->n_finished < search->group_size ? group->n_finished++ : group->n_finished - 1;
    extend(search, &group->finished[i], group, ended);
    for (; i > 0 && group->finished[i - 1].score < group->finished[i].score; i--) {
        const struct hypothesis better = group->finished[i];
        group->finished[i] = group->finished[i - 1];
        group->finished[i - 1] = better;
    }
}

/* Whether a live hypothesis could still enter the finished ones, by the rule that early_stopping selects.
 * best_sum: of log-probabilities. */
static bool can_improve(const struct search *search, const struct group *group, float best_sum) {
    const es2s_generate_params *const params = search->params;
    const bool full = group->n_finished == search->group_size;
    if (full && params->early_stopping == ES2S_EARLY_STOPPING_TRUE) return false;
    const bool longest = params->early_stopping == ES2S_EARLY_STOPPING_NEVER && params->length_penalty > 0;
    const int32_t len = longest ? params->max_new_tokens : search->n_generated;
    const float best = best_sum / (float)es2s_length_power(len, params->length_penalty);
    return best > worst_finished(search, group);
}

/* The survivors become the live hypotheses. */
static void live_on(struct search *search, struct group *group, int32_t n_survivors) {
    for (int32_t i = 0; i < n_survivors; i++)
        extend(search, &group->next[i], group, search->survivors[i]);
    struct hypothesis *const extended = group->live;
    group->live = group->next;
    group->next = extended;
    group->n_live = n_survivors;
}

/* Returns whether the group goes on. */
static bool step(struct search *search, const struct source_search *source, struct group *group) {
    const es2s_generate_params *const params = search->params;
    const int32_t n_candidates = rank_candidates(search, source, group);
    if (n_candidates == 0 || search->candidates[0].score == -INFINITY)
        return false; // the rules forbid every continuation

    int32_t n_survivors = 0;
    for (int32_t i = 0; i < n_candidates; i++) {
        struct candidate candidate = search->candidates[i];
        if (es2s_search_ends(search, candidate.token)) {
            if (i < search->group_size) finish(search, group, candidate);
            candidate.score += ES2S_HOPELESS;
        }
        candidate.rank = candidate.score;
        rank(search->survivors, &n_survivors, search->group_size, candidate);
    }
    live_on(search, group, n_survivors);
    if (search->n_generated < params->max_new_tokens) return can_improve(search, group, group->live[0].score);
    if (group->n_finished > 0) group->n_live = 0; // all have ended; these were not good enough
    return false;
}

/* The same for one of several groups. */
static bool step_diversely(struct search *search, const struct source_search *source, struct group *group) {
    const int32_t n_candidates = rank_candidates(search, source, group);
    int32_t n_survivors = 0;
    for (int32_t i = 0; i < n_candidates && n_survivors < search->group_size; i++) {
        const struct candidate candidate = search->candidates[i];
        if (candidate.score == -INFINITY) break;
        if (candidate.token != search->params->eos_token_id)
            search->survivors[n_survivors++] = candidate;
        else if (i < search->group_size)
            finish(search, group, candidate);
    }
    if (n_survivors == 0 && group->n_finished == 0) return false; // the rules forbid every continuation
    bool goes_on = n_survivors > 0 && can_improve(search, group, search->candidates[0].score);
    if (goes_on && search->n_generated == search->params->max_new_tokens) {
        for (int32_t i = 0; i < n_survivors; i++)
            finish(search, group, search->survivors[i]);
        goes_on = false;
    }
    live_on(search, group, n_survivors);
    for (int32_t i = 0; i < n_survivors; i++)
        search->chosen[search->n_chosen++] = search->survivors[i].token;
    if (!goes_on) group->n_live = 0; // no live hypothesis is a result
    return goes_on;
}

void es2s_beam_search_step(struct search *search, const struct source_search *source, struct group *group) {
    if (search->n_groups == 1) {
        group->is_settled = !step(search, source, group);
    } else if (!group->is_settled) {
        group->is_settled = !step_diversely(search, source, group);
    } else if (search->params->pad_token_id >= 0) { // as in transformers, which goes on with pads
        for (int32_t i = 0; i < search->group_size; i++)
            search->chosen[search->n_chosen++] = search->params->pad_token_id;
    }
}
