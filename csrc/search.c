/*
 * Greedy search keeps one hypothesis per source and adds the best token until EOS or the longest length.
 *
 * Beam search is that of transformers 4.57, in its float32 arithmetic. A source has num_beams live
 * hypotheses, each with a decoder row, and up to num_beams finished ones. One step ranks all continuations of
 * the live hypotheses and takes the best 2 * num_beams, so that num_beams of them do not end in EOS. Those
 * that end and rank among the first num_beams may enter the finished ones; the best of the others live on.
 *
 * What must lose has HOPELESS added to its score, and competes. That shows only where too few continuations
 * are allowed, and is kept because there, too, the answer should be transformers'. One answer is not: where
 * every continuation is forbidden and nothing has finished, transformers returns what happens to lie in its
 * buffers, and this search its live hypotheses.
 *
 * A source leaves the batch once no step can change its result, so its rows no longer cost anything, and the
 * flags by which transformers freezes such a source while its neighbours go on are not needed.
 */
#include "search.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "arena.h"
#include "decoder.h"
#include "error.h"
#include "length_penalty.h"
#include "logits.h"

#define HOPELESS (-1.0e9f)

enum { NOT_INTERRUPTED = -1 };

/* A sequence decoded so far. */
struct hypothesis {
    int32_t *tokens; /* [1 + max_new_tokens] the start token, then `len` generated ones */
    float *logprobs; /* [max_new_tokens] of the generated tokens, before rules */
    int32_t len;
    int32_t row; /* live: the decoder row that read all its tokens but the last */
    float score; /* live: sum over its tokens; finished: divided by the length penalty */
};

/* A live hypothesis with one more token. */
struct candidate {
    float score;
    int32_t beam; /* index of the live hypothesis */
    int32_t token;
};

/* What turns a row of logits into log-probabilities: (logit - max) - log_sum. */
struct log_softmax {
    float max, log_sum;
};

/* The search for one source. */
struct source_search {
    int32_t source;              /* row of the session's sources and of the outputs */
    struct hypothesis *live;     /* [num_beams] best first; all have generated the same number of tokens */
    struct hypothesis *next;     /* [num_beams] where the step builds the next live ones */
    struct hypothesis *finished; /* [num_beams] best first */
    int32_t n_live, n_finished;
    int32_t n_streamed; /* tokens handed to on_tokens */
};

/* One call, for all sources. */
struct search {
    es2s_session *session;
    const es2s_generate_params *params;
    int32_t vocab_size;
    int64_t start_ns;

    struct source_search *active; /* [n_active] sources whose result is still open */
    int32_t n_active;
    int32_t n_generated;  /* tokens that each live hypothesis has after this step */
    bool stopped;         /* by on_tokens */
    es2s_status status;   /* of logits_processor */
    int32_t interruption; /* es2s_finish_reason of sources that are still open then, or NOT_INTERRUPTED */

    struct hypothesis *hypotheses; /* [n_sources, 3, num_beams] what the sources' hypotheses point into */
    int32_t *tokens;               /* [n_sources, 3, num_beams, 1 + max_new_tokens] */
    float *logprobs;               /* [n_sources, 3, num_beams, max_new_tokens] */
    struct candidate *candidates;  /* [2 * num_beams] best first */
    struct candidate *survivors;   /* [num_beams] best first */
    float *scores;                 /* [vocab_size] of the next token of one row, ruled */
    float *rule_scratch;           /* [max(max_source_len, max_new_tokens)] */

    int32_t *row_tokens;  /* [n_sources * num_beams] what the decoder reads in this step */
    int32_t *row_sources; /* [n_sources * num_beams] */
    int32_t *row_parents; /* [n_sources * num_beams] the row of the last step that a row continues */
    struct log_softmax *row_log_softmax; /* [n_sources * num_beams] */

    int32_t *tokens_out;         /* [n_sources, num_return_sequences, max_new_tokens] */
    int32_t *lens_out;           /* [n_sources, num_return_sequences] */
    float *scores_out;           /* [n_sources, num_return_sequences] */
    float *logprobs_out;         /* [n_sources, num_return_sequences, max_new_tokens], or NULL */
    int32_t *finish_reasons_out; /* [n_sources, num_return_sequences], or NULL */
};

/* ============================================= Memory ============================================ */

static void take_scratch(struct search *search, es2s_arena *arena, int32_t n_sources, int32_t n_beams,
                         int32_t max_source_len, int32_t max_len) {
    const int32_t longest = max_source_len > max_len ? max_source_len : max_len;
    const uint64_t n_rows = (uint64_t)n_sources * (uint64_t)n_beams;
    search->active = es2s_arena_take(arena, (uint64_t)n_sources, sizeof *search->active);
    search->hypotheses = es2s_arena_take(arena, 3 * n_rows, sizeof *search->hypotheses);
    search->tokens = es2s_arena_take(arena, 3 * n_rows, sizeof(int32_t) * ((size_t)max_len + 1));
    search->logprobs = es2s_arena_take(arena, 3 * n_rows, sizeof(float) * (size_t)max_len);
    search->candidates = es2s_arena_take(arena, 2 * (uint64_t)n_beams, sizeof *search->candidates);
    search->survivors = es2s_arena_take(arena, (uint64_t)n_beams, sizeof *search->survivors);
    search->scores = es2s_arena_take(arena, (uint64_t)search->vocab_size, sizeof *search->scores);
    search->rule_scratch = es2s_arena_take(arena, (uint64_t)longest, sizeof *search->rule_scratch);
    search->row_tokens = es2s_arena_take(arena, n_rows, sizeof *search->row_tokens);
    search->row_sources = es2s_arena_take(arena, n_rows, sizeof *search->row_sources);
    search->row_parents = es2s_arena_take(arena, n_rows, sizeof *search->row_parents);
    search->row_log_softmax = es2s_arena_take(arena, n_rows, sizeof *search->row_log_softmax);
}

size_t es2s_search_scratch_bytes(int32_t vocab_size, int32_t max_batch, int32_t max_beams,
                                 int32_t max_source_len, int32_t max_target_len) {
    struct search search = {.vocab_size = vocab_size};
    es2s_arena arena = {0};
    take_scratch(&search, &arena, max_batch, max_beams, max_source_len, max_target_len);
    return arena.used;
}

/* ========================================== Hypotheses =========================================== */

/* All beams begin as the start token alone. As they are equal, all but the first are hopeless. */
static void start_source(const struct search *search, int32_t source) {
    const int32_t n_beams = search->params->num_beams;
    const size_t max_len = (size_t)search->params->max_new_tokens;
    const size_t first = (size_t)source * 3 * (size_t)n_beams;
    struct hypothesis *const hypotheses = search->hypotheses + first;
    for (int32_t i = 0; i < 3 * n_beams; i++) {
        hypotheses[i] = (struct hypothesis){.tokens = search->tokens + (first + i) * (max_len + 1),
                                            .logprobs = search->logprobs + (first + i) * max_len,
                                            .score = i == 0 ? 0 : HOPELESS};
        hypotheses[i].tokens[0] = search->params->decoder_start_token_id;
    }
    search->active[source] = (struct source_search){.source = source,
                                                    .live = hypotheses,
                                                    .next = hypotheses + n_beams,
                                                    .finished = hypotheses + 2 * n_beams,
                                                    .n_live = n_beams};
}

static bool ends(const struct search *search, int32_t token) {
    return token == search->params->eos_token_id || search->n_generated == search->params->max_new_tokens;
}

/* The i-th result if the search ended now: finished hypotheses, best first, then live ones. If there are too
 * few of both it is empty and hopeless, as the unused finished ones are. */
static const struct hypothesis *result(const struct source_search *source, int32_t i) {
    const int32_t beam = i - source->n_finished;
    return beam >= 0 && beam < source->n_live ? &source->live[beam] : &source->finished[i];
}

static int32_t finish_reason(const struct search *search, const struct hypothesis *h) {
    if (search->interruption != NOT_INTERRUPTED) return search->interruption;
    return h->len > 0 && h->tokens[h->len] == search->params->eos_token_id ? ES2S_FINISH_EOS
                                                                           : ES2S_FINISH_LENGTH;
}

/* ============================================ One step =========================================== */

static const float *row_logits(const struct search *search, int32_t row) {
    return search->session->logits + (size_t)row * (size_t)search->vocab_size;
}

static struct log_softmax log_softmax_of(const struct search *search, const float *logits) {
    float max, sum;
    search->session->model->kernels.log_softmax_terms(logits, (size_t)search->vocab_size, &max, &sum);
    return (struct log_softmax){.max = max, .log_sum = (float)es2s_log((double)sum)};
}

/* Every live hypothesis gets a decoder row, which then reads its last token. */
static void step_decoder(struct search *search) {
    int32_t n_rows = 0;
    for (int32_t i = 0; i < search->n_active; i++) {
        struct source_search *const source = &search->active[i];
        for (int32_t beam = 0; beam < source->n_live; beam++) {
            struct hypothesis *const live = &source->live[beam];
            if (search->n_generated == 0 && beam > 0) { // beams that are still equal share a row
                live->row = source->live[0].row;
                continue;
            }
            search->row_parents[n_rows] = live->row;
            search->row_tokens[n_rows] = live->tokens[live->len];
            search->row_sources[n_rows] = source->source;
            live->row = n_rows++;
        }
    }
    es2s_session *const s = search->session;
    if (search->n_generated > 0) es2s_decoder_reorder(s, search->row_parents, n_rows);
    es2s_decoder_step(s, search->row_tokens, search->row_sources, n_rows, s->logits);
    search->n_generated++;
    for (int32_t row = 0; row < n_rows; row++)
        search->row_log_softmax[row] = log_softmax_of(search, row_logits(search, row));
}

/* Hands search->scores to the caller; sets search->status. */
static void process_logits(struct search *search, const struct source_search *source,
                           const struct hypothesis *live) {
    const es2s_generate_params *const params = search->params;
    if (!params->logits_processor || search->status != ES2S_OK) return;
    if (params->logits_processor(params->user, source->source, live->tokens, live->len + 1, search->scores,
                                 search->vocab_size) != 0) {
        search->status = es2s_fail(ES2S_CANCELLED, "logits_processor: ended the search");
        return;
    }
    for (int32_t i = 0; i < search->vocab_size; i++)
        if (!(search->scores[i] < INFINITY)) {
            search->status = es2s_fail(ES2S_INVALID_ARGUMENT,
                                       "logits_processor: expected scores that are numbers or -inf, found %g "
                                       "for token %d",
                                       (double)search->scores[i], i);
            return;
        }
}

static void apply_rules(struct search *search, const struct source_search *source,
                        const struct hypothesis *live) {
    const es2s_session *const s = search->session;
    const es2s_rule_context context = {.history = live->tokens,
                                       .n_history = live->len + 1,
                                       .n_prompt = 1,
                                       .n_source_ids = s->n_source_ids[source->source],
                                       .source_ids = s->source_ids +
                                                     (size_t)source->source * (size_t)s->max_source_len};
    es2s_logits_apply_rules(search->params, &context, search->scores, search->vocab_size,
                            search->rule_scratch);
    process_logits(search, source, live);
}

/* Log-probability of a token after what the row has read, before rules. */
static float logprob(const struct search *search, int32_t row, int32_t token) {
    const struct log_softmax terms = search->row_log_softmax[row];
    return (row_logits(search, row)[token] - terms.max) - terms.log_sum;
}

static void append(const struct search *search, struct hypothesis *h, int32_t token, float score) {
    h->logprobs[h->len++] = logprob(search, h->row, token);
    h->tokens[h->len] = token;
    h->score = score;
}

/* ========================================= Greedy search ========================================= */

/* Adds the best token. Returns whether the hypothesis has ended. */
static bool step_greedily(struct search *search, struct source_search *source) {
    struct hypothesis *const live = &source->live[0];
    const size_t vocab_size = (size_t)search->vocab_size;
    memcpy(search->scores, row_logits(search, live->row), vocab_size * sizeof *search->scores);
    apply_rules(search, source, live);
    const int32_t token = (int32_t)search->session->model->kernels.argmax(search->scores, vocab_size);
    append(search, live, token, live->score + logprob(search, live->row, token));
    return ends(search, token);
}

/* ========================================== Beam search ========================================== */

/* Keeps the `capacity` best candidates, best first; of equals those that came first. */
static void rank(struct candidate *best, int32_t *n, int32_t capacity, struct candidate new) {
    if (*n == capacity && !(new.score > best[capacity - 1].score)) return;
    int32_t i = *n < capacity ? (*n)++ : capacity - 1;
    for (; i > 0 && best[i - 1].score < new.score; i--)
        best[i] = best[i - 1];
    best[i] = new;
}

/* Ranks all continuations of a live hypothesis, whose next token's scores are search->scores. Few blocks of
 * tokens hold one that is good enough; the best of a block tells, at the speed of the argmax kernel. */
static void rank_continuations(struct search *search, int32_t *n, int32_t beam, float sum) {
    const int32_t capacity = 2 * search->params->num_beams, block_len = 256;
    struct candidate *const best = search->candidates;
    for (int32_t begin = 0; begin < search->vocab_size; begin += block_len) {
        const float *const block = search->scores + begin;
        const int32_t left = search->vocab_size - begin, len = left < block_len ? left : block_len;
        const size_t top = search->session->model->kernels.argmax(block, (size_t)len);
        if (*n == capacity && !(block[top] + sum > best[capacity - 1].score)) continue;
        for (int32_t i = 0; i < len; i++)
            rank(best, n, capacity,
                 (struct candidate){.score = block[i] + sum, .beam = beam, .token = begin + i});
    }
}

/* Fills search->candidates with the best continuations of the live hypotheses; returns their number. */
static int32_t rank_candidates(struct search *search, const struct source_search *source) {
    int32_t n = 0;
    for (int32_t beam = 0; beam < source->n_live; beam++) {
        const struct hypothesis *const live = &source->live[beam];
        if (beam == 0 || live->row != live[-1].row) {
            const float *const logits = row_logits(search, live->row);
            const struct log_softmax terms = search->row_log_softmax[live->row];
            for (int32_t token = 0; token < search->vocab_size; token++)
                search->scores[token] = (logits[token] - terms.max) - terms.log_sum;
            apply_rules(search, source, live);
        }
        rank_continuations(search, &n, beam, live->score);
    }
    return n;
}

/* child = the candidate's hypothesis with its token; their buffers differ. */
static void extend(const struct search *search, struct hypothesis *child, const struct source_search *source,
                   struct candidate candidate) {
    const struct hypothesis *const parent = &source->live[candidate.beam];
    memcpy(child->tokens, parent->tokens, sizeof *child->tokens * ((size_t)parent->len + 1));
    memcpy(child->logprobs, parent->logprobs, sizeof *child->logprobs * (size_t)parent->len);
    child->len = parent->len;
    child->row = parent->row;
    append(search, child, candidate.token, candidate.score);
}

/* What a new finished hypothesis has to beat. */
static float worst_finished(const struct search *search, const struct source_search *source) {
    const int32_t n_beams = search->params->num_beams;
    return source->n_finished == n_beams ? source->finished[n_beams - 1].score : HOPELESS;
}

/* Adds a hypothesis that has just ended to the finished ones, if it is good enough. */
static void finish(const struct search *search, struct source_search *source, struct candidate ended) {
    if (!(ended.score > worst_finished(search, source))) return;
    int32_t i =
        source->n_finished < search->params->num_beams ? source->n_finished++ : source->n_finished - 1;
    extend(search, &source->finished[i], source, ended);
    for (; i > 0 && source->finished[i - 1].score < source->finished[i].score; i--) {
        const struct hypothesis better = source->finished[i];
        source->finished[i] = source->finished[i - 1];
        source->finished[i - 1] = better;
    }
}

/* Whether a live hypothesis could still enter the finished ones, by the rule that early_stopping selects. */
static bool can_improve(const struct search *search, const struct source_search *source) {
    const es2s_generate_params *const params = search->params;
    const bool full = source->n_finished == params->num_beams;
    if (full && params->early_stopping == ES2S_EARLY_STOPPING_TRUE) return false;
    const bool longest = params->early_stopping == ES2S_EARLY_STOPPING_NEVER && params->length_penalty > 0;
    const int32_t len = longest ? params->max_new_tokens : search->n_generated;
    const float best = source->live[0].score / (float)es2s_length_power(len, params->length_penalty);
    return best > worst_finished(search, source);
}

/* One step of beam search. Returns whether the result is settled. */
static bool step_beams(struct search *search, struct source_search *source) {
    const es2s_generate_params *const params = search->params;
    const int32_t n_candidates = rank_candidates(search, source);
    if (search->candidates[0].score == -INFINITY) return true; // the rules forbid every continuation

    const float penalty = (float)es2s_length_power(search->n_generated, params->length_penalty);
    int32_t n_survivors = 0;
    for (int32_t i = 0; i < n_candidates; i++) {
        struct candidate candidate = search->candidates[i];
        const float sum = candidate.score;
        if (ends(search, candidate.token)) {
            candidate.score = sum / penalty;
            if (i < params->num_beams) finish(search, source, candidate);
            candidate.score = sum + HOPELESS;
        }
        rank(search->survivors, &n_survivors, params->num_beams, candidate);
    }
    for (int32_t i = 0; i < n_survivors; i++)
        extend(search, &source->next[i], source, search->survivors[i]);
    struct hypothesis *const extended = source->live;
    source->live = source->next;
    source->next = extended;
    source->n_live = n_survivors;
    if (search->n_generated < params->max_new_tokens) return !can_improve(search, source);
    if (source->n_finished > 0) source->n_live = 0; // all have ended; these were not good enough
    return true;
}

/* ============================================ Results ============================================ */

/* Number of tokens that the first result is sure to begin with: those that the best finished hypothesis,
 * which is the first result unless a live one overtakes it, shares with every live one. */
static int32_t stable_len(const struct source_search *source) {
    const struct hypothesis *const first = result(source, 0);
    int32_t len = first->len;
    for (int32_t beam = 0; beam < source->n_live; beam++) {
        int32_t shared = source->n_streamed;
        while (shared < len && source->live[beam].tokens[1 + shared] == first->tokens[1 + shared])
            shared++;
        len = shared;
    }
    return len;
}

/* Hands on_tokens the first `len` tokens of the first result, less those that it has. Once it has asked to
 * stop it is not called again. */
static void stream(struct search *search, struct source_search *source, int32_t len) {
    const es2s_generate_params *const params = search->params;
    const int32_t n_new = len - source->n_streamed;
    if (!params->on_tokens || search->stopped || n_new <= 0) return;
    const int32_t *const tokens = result(source, 0)->tokens + 1 + source->n_streamed;
    source->n_streamed = len;
    search->stopped = params->on_tokens(params->user, source->source, tokens, n_new) != 0;
}

/* Ends the search for a source: writes its results and streams the rest of the first one. */
static void close_source(struct search *search, struct source_search *source) {
    const es2s_generate_params *const params = search->params;
    for (int32_t beam = 0; beam < source->n_live; beam++) {
        struct hypothesis *const live = &source->live[beam];
        if (live->len > 0) live->score /= (float)es2s_length_power(live->len, params->length_penalty);
    }
    const size_t max_len = (size_t)params->max_new_tokens;
    const int32_t filler = params->pad_token_id >= 0 ? params->pad_token_id : params->eos_token_id;
    for (int32_t i = 0; i < params->num_return_sequences; i++) {
        const struct hypothesis *const h = result(source, i);
        const size_t out = (size_t)source->source * (size_t)params->num_return_sequences + (size_t)i;
        search->lens_out[out] = h->len;
        search->scores_out[out] = h->score;
        for (size_t j = 0; j < max_len; j++) {
            const bool generated = j < (size_t)h->len;
            search->tokens_out[out * max_len + j] = generated ? h->tokens[1 + j] : filler;
            if (search->logprobs_out)
                search->logprobs_out[out * max_len + j] = generated ? h->logprobs[j] : 0;
        }
        if (search->finish_reasons_out) search->finish_reasons_out[out] = finish_reason(search, h);
    }
    stream(search, source, result(source, 0)->len);
}

/* ============================================ Search ============================================= */

/* Whether the caller wants what is there now. */
static bool interrupted(struct search *search) {
    const es2s_generate_params *const params = search->params;
    const int64_t elapsed_ms = (es2s_clock_ns() - search->start_ns) / 1000000;
    if (search->stopped || (params->cancel && *params->cancel))
        search->interruption = ES2S_FINISH_CANCELLED;
    else if (params->deadline_ms >= 0 && elapsed_ms >= params->deadline_ms)
        search->interruption = ES2S_FINISH_DEADLINE;
    return search->interruption != NOT_INTERRUPTED;
}

es2s_status es2s_search_run(es2s_session *s, const es2s_generate_params *params, int32_t *tokens_out,
                            int32_t *lens_out, float *scores_out, float *logprobs_out,
                            int32_t *finish_reasons_out) {
    struct search search = {.session = s,
                            .params = params,
                            .vocab_size = s->model->dims.vocab_size,
                            .start_ns = es2s_clock_ns(),
                            .n_active = s->n_sources,
                            .interruption = NOT_INTERRUPTED,
                            .tokens_out = tokens_out,
                            .lens_out = lens_out,
                            .scores_out = scores_out,
                            .logprobs_out = logprobs_out,
                            .finish_reasons_out = finish_reasons_out};
    es2s_arena arena = {.base = s->search_scratch};
    take_scratch(&search, &arena, s->n_sources, params->num_beams, s->max_source_len, params->max_new_tokens);
    for (int32_t i = 0; i < s->n_sources; i++)
        start_source(&search, i);

    es2s_decoder_begin(s);
    while (search.n_active > 0 && !interrupted(&search)) {
        step_decoder(&search);
        int32_t n_open = 0;
        for (int32_t i = 0; i < search.n_active; i++) {
            struct source_search *const source = &search.active[i];
            const bool settled =
                params->num_beams == 1 ? step_greedily(&search, source) : step_beams(&search, source);
            if (search.status != ES2S_OK) return search.status;
            if (settled) {
                close_source(&search, source);
            } else {
                stream(&search, source, stable_len(source));
                search.active[n_open++] = *source;
            }
        }
        search.n_active = n_open;
    }
    for (int32_t i = 0; i < search.n_active; i++)
        close_source(&search, &search.active[i]);
    return ES2S_OK;
}
