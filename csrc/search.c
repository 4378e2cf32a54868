/*
 * The loop over steps, for all sources of a call, and its results; greedy search and sampling.
 *
 * Greedy search keeps one hypothesis per source and adds the best token until EOS or the longest length.
 * Sampling adds one that it draws, and keeps as many hypotheses as it returns. What beam search does in a
 * step is in beam_search.c.
 *
 * A group whose result is settled needs no rows any more, and a source leaves the batch once all of its
 * groups are, so the flags by which transformers freezes such a source while its neighbours go on are not
 * needed.
 */
#include "search.h"

#include <math.h>
#include <string.h>

#include "arena.h"
#include "decoder.h"
#include "error.h"
#include "length_penalty.h"
#include "logits.h"
#include "search_state.h"

enum { NOT_INTERRUPTED = -1 };

/* ============================================= Memory ============================================ */

/* n_hypotheses: that live at a time, of a source. */
static void take_scratch(struct search *search, es2s_arena *arena, int32_t n_sources, int32_t n_hypotheses,
                         int32_t max_draft_tokens, int32_t max_source_len, int32_t max_len) {
    const int32_t longest = max_source_len > max_len ? max_source_len : max_len;
    const uint64_t n_rows = (uint64_t)n_sources * (uint64_t)n_hypotheses;
    const uint64_t n_step_rows =
        n_rows > (uint64_t)max_draft_tokens ? n_rows : (uint64_t)max_draft_tokens + 1;
    search->active = es2s_arena_take(arena, (uint64_t)n_sources, sizeof *search->active);
    search->groups = es2s_arena_take(arena, n_rows, sizeof *search->groups);
    search->hypotheses = es2s_arena_take(arena, 3 * n_rows, sizeof *search->hypotheses);
    search->tokens = es2s_arena_take(arena, 3 * n_rows, sizeof(int32_t) * ((size_t)max_len + 1));
    search->logprobs = es2s_arena_take(arena, 3 * n_rows, sizeof(float) * (size_t)max_len);
    search->candidates = es2s_arena_take(arena, 2 * (uint64_t)n_hypotheses, sizeof *search->candidates);
    search->survivors = es2s_arena_take(arena, (uint64_t)n_hypotheses, sizeof *search->survivors);
    search->chosen = es2s_arena_take(arena, (uint64_t)n_hypotheses, sizeof *search->chosen);
    search->results = es2s_arena_take(arena, 2 * (uint64_t)n_hypotheses, sizeof *search->results);
    search->scores = es2s_arena_take(arena, (uint64_t)search->vocab_size, sizeof *search->scores);
    search->rule_scratch = es2s_arena_take(arena, (uint64_t)longest, sizeof *search->rule_scratch);
    search->row_tokens = es2s_arena_take(arena, n_step_rows, sizeof *search->row_tokens);
    search->row_sources = es2s_arena_take(arena, n_step_rows, sizeof *search->row_sources);
    search->row_parents = es2s_arena_take(arena, n_rows, sizeof *search->row_parents);
    search->row_log_softmax = es2s_arena_take(arena, n_step_rows, sizeof *search->row_log_softmax);
    es2s_sampler_take(&search->sampler, arena, search->vocab_size);
}

size_t es2s_search_scratch_bytes(int32_t vocab_size, int32_t max_batch, int32_t max_beams,
                                 int32_t max_draft_tokens, int32_t max_source_len, int32_t max_target_len) {
    struct search search = {.vocab_size = vocab_size};
    es2s_arena arena = {0};
    take_scratch(&search, &arena, max_batch, max_beams, max_draft_tokens, max_source_len, max_target_len);
    return arena.used;
}

/* ========================================== Hypotheses =========================================== */

/* All hypotheses begin as the prompt alone. As those of a group are equal, all but the first are hopeless. */
static void start_group(const struct search *search, struct group *group, size_t first, const int32_t *prefix,
                        int32_t n_prefix) {
    const size_t max_new_tokens = (size_t)search->params->max_new_tokens;
    const int32_t size = search->group_size;
    struct hypothesis *const hypotheses = search->hypotheses + first;
    for (int32_t i = 0; i < 3 * size; i++) {
        int32_t *const prompt = search->tokens + (first + i) * ((size_t)search->max_len + 1);
        prompt[0] = search->params->decoder_start_token_id;
        for (int32_t t = 0; t < n_prefix; t++)
            prompt[1 + t] = prefix[t];
        hypotheses[i] = (struct hypothesis){.tokens = prompt + n_prefix,
                                            .logprobs = search->logprobs + (first + i) * max_new_tokens,
                                            .score = i == 0 ? 0 : ES2S_HOPELESS};
    }
    *group = (struct group){
        .live = hypotheses, .next = hypotheses + size, .finished = hypotheses + 2 * size, .n_live = size};
}

static void start_source(const struct search *search, int32_t source, const int32_t *prefix,
                         int32_t n_prefix) {
    const size_t first = (size_t)source * (size_t)search->n_groups;
    for (size_t g = first; g < first + (size_t)search->n_groups; g++)
        start_group(search, &search->groups[g], g * 3 * (size_t)search->group_size, prefix, n_prefix);
    int32_t i = source;
    for (; i > 0 && search->active[i - 1].n_prompt <= n_prefix; i--)
        search->active[i] = search->active[i - 1];
    search->active[i] =
        (struct source_search){.source = source, .n_prompt = 1 + n_prefix, .groups = search->groups + first};
}

/* int32[n_prompt + len]: the prompt, then what was generated. */
static const int32_t *history(const struct source_search *source, const struct hypothesis *h) {
    return h->tokens - (source->n_prompt - 1);
}

bool es2s_search_ends(const struct search *search, int32_t token) {
    return token == search->params->eos_token_id || search->n_generated == search->params->max_new_tokens;
}

static int32_t finish_reason(const struct search *search, const struct hypothesis *h) {
    if (search->interruption != NOT_INTERRUPTED) return search->interruption;
    return h->len > 0 && h->tokens[h->len] == search->params->eos_token_id ? ES2S_FINISH_EOS
                                                                           : ES2S_FINISH_LENGTH;
}

/* ============================================ One step =========================================== */

const float *es2s_search_logits(const struct search *search, int32_t row) {
    return search->session->logits + (size_t)row * (size_t)search->vocab_size;
}

struct log_softmax es2s_search_log_softmax(const struct search *search, const float *logits) {
    float max, sum;
    search->session->model->kernels.log_softmax_terms(logits, (size_t)search->vocab_size, &max, &sum);
    return (struct log_softmax){.max = max, .log_sum = (float)es2s_log((double)sum)};
}

/* Gives each live hypothesis of a group a decoder row. */
static void place_group(struct search *search, const struct source_search *source, struct group *group,
                        int32_t *n_rows) {
    for (int32_t i = 0; i < group->n_live; i++) {
        struct hypothesis *const live = &group->live[i];
        const bool is_first = *n_rows == 0 || search->row_sources[*n_rows - 1] != source->source;
        if (search->n_generated > 0 || is_first) { // hypotheses that are still equal share a row
            search->row_parents[*n_rows] = live->row;
            search->row_tokens[*n_rows] = live->tokens[live->len];
            search->row_sources[(*n_rows)++] = source->source;
        }
        live->row = *n_rows - 1;
    }
}

/* Adds rows for tokens that may follow the only row's, and returns their number. */
static int32_t draft(struct search *search, int32_t n_rows) {
    if (search->lookup.max_tokens == 0 || n_rows != 1) return 0;
    const struct source_search *const source = &search->active[0];
    const struct hypothesis *const live = &source->groups[0].live[0];
    const es2s_session *const s = search->session;
    const int32_t n_draft = es2s_prompt_lookup_draft(
        &search->lookup, history(source, live), source->n_prompt + live->len,
        s->source_ids + (size_t)source->source * (size_t)s->max_source_len, s->n_source_ids[source->source],
        search->params->max_new_tokens - search->n_generated - 1, search->row_tokens + 1);
    for (int32_t i = 1; i <= n_draft; i++)
        search->row_sources[i] = source->source;
    return n_draft;
}

static void run_log_softmax(void *arg, int32_t row, int32_t thread) {
    (void)thread;
    const struct search *const search = arg;
    search->row_log_softmax[row] = es2s_search_log_softmax(search, es2s_search_logits(search, row));
}

/* Every live hypothesis has a decoder row, which then reads its last token. */
static void step_decoder(struct search *search) {
    int32_t n_rows = 0;
    for (int32_t i = 0; i < search->n_active; i++)
        for (int32_t g = 0; g < search->n_groups; g++) {
            struct group *const group = &search->active[i].groups[g];
            if (!group->is_settled) place_group(search, &search->active[i], group, &n_rows);
        }
    es2s_session *const s = search->session;
    if (search->n_generated > 0) es2s_decoder_reorder(s, search->row_parents, n_rows);
    search->n_draft = draft(search, n_rows);
    const int64_t start_ns = es2s_clock_ns();
    if (search->n_draft > 0)
        es2s_decoder_step_ahead(s, search->row_tokens, search->row_sources, 1 + search->n_draft, s->logits);
    else
        es2s_decoder_step(s, search->row_tokens, search->row_sources, n_rows, s->logits);
    search->step_ns = es2s_clock_ns() - start_ns;
    s->n_steps++;
    search->n_generated++;
    es2s_thread_pool *const pool = es2s_thread_pool_try_acquire(s->model->pool);
    es2s_thread_pool_run(pool, run_log_softmax, search, n_rows);
    es2s_thread_pool_release(pool);
}

/* Hands search->scores to the caller; sets search->status. */
static void process_logits(struct search *search, const struct source_search *source,
                           const struct hypothesis *live) {
    const es2s_generate_params *const params = search->params;
    if (!params->logits_processor || search->status != ES2S_OK) return;
    if (params->logits_processor(params->user, source->source, history(source, live),
                                 source->n_prompt + live->len, search->scores, search->vocab_size) != 0) {
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

void es2s_search_rule(struct search *search, const struct source_search *source,
                      const struct hypothesis *live) {
    const es2s_session *const s = search->session;
    const es2s_rule_context context = {.history = history(source, live),
                                       .n_history = source->n_prompt + live->len,
                                       .n_prompt = source->n_prompt,
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
    return (es2s_search_logits(search, row)[token] - terms.max) - terms.log_sum;
}

void es2s_search_append(const struct search *search, struct hypothesis *h, int32_t token, float score) {
    h->logprobs[h->len++] = logprob(search, h->row, token);
    h->tokens[h->len] = token;
    h->score = score;
}

es2s_random_index es2s_search_random_index(const struct search *search, const struct source_search *source) {
    const uint64_t *const seeds = search->params->seeds;
    return (es2s_random_index){.seed = seeds ? seeds[source->source] : 0,
                               .step = (uint32_t)search->n_generated - 1};
}

/* Adds one token, the best or a drawn one, to the hypothesis of a group of one. */
static void step_alone(struct search *search, const struct source_search *source, struct group *group) {
    struct hypothesis *const live = &group->live[0];
    const size_t vocab_size = (size_t)search->vocab_size;
    memcpy(search->scores, es2s_search_logits(search, live->row), vocab_size * sizeof *search->scores);
    es2s_search_rule(search, source, live);
    int32_t token;
    if (search->params->do_sample) {
        es2s_random_index index = es2s_search_random_index(search, source);
        index.draw = (uint32_t)(group - source->groups);
        token = es2s_sampling_draw(&search->sampler, search->scores, search->vocab_size, index);
    } else {
        token = (int32_t)search->session->model->kernels.argmax(search->scores, vocab_size);
    }
    es2s_search_append(search, live, token, live->score + logprob(search, live->row, token));
    group->is_settled = es2s_search_ends(search, token);
}

/* Tokens of the draft that the decoder has read, as long as each is the one that the search has chosen. */
static void follow_draft(struct search *search, const struct source_search *source, struct group *group) {
    struct hypothesis *const live = &group->live[0];
    while (!group->is_settled && search->status == ES2S_OK && live->row < search->n_draft &&
           live->tokens[live->len] == search->row_tokens[live->row + 1]) {
        live->row++;
        search->row_log_softmax[live->row] =
            es2s_search_log_softmax(search, es2s_search_logits(search, live->row));
        search->n_generated++;
        step_alone(search, source, group);
    }
    es2s_prompt_lookup_learn(&search->lookup, search->step_ns, search->n_draft, live->row);
}

/* Returns whether the result is settled. */
static bool step_source(struct search *search, const struct source_search *source) {
    bool is_settled = true;
    search->n_chosen = 0;
    for (int32_t g = 0; g < search->n_groups; g++) {
        struct group *const group = &source->groups[g];
        if (search->params->num_beams > 1)
            es2s_beam_search_step(search, source, group);
        else if (!group->is_settled) {
            step_alone(search, source, group);
            if (search->lookup.max_tokens > 0) follow_draft(search, source, group);
        }
        is_settled &= group->is_settled;
    }
    return is_settled;
}

/* ============================================ Results ============================================ */

static const struct hypothesis NO_RESULT = {.score = ES2S_HOPELESS};

/* Inserts a hypothesis behind those from `begin` on that are no worse. */
static void insert(const struct hypothesis **results, int32_t begin, int32_t *n, const struct hypothesis *h) {
    int32_t i = (*n)++;
    for (; i > begin && results[i - 1]->score < h->score; i--)
        results[i] = results[i - 1];
    results[i] = h;
}

/* Fills search->results with the source's if the search ended now: finished hypotheses, best first, then live
 * ones, then nothing; but the sequences that were drawn in the order of their numbers. */
static const struct hypothesis *const *list_results(struct search *search,
                                                    const struct source_search *source) {
    int32_t n = 0;
    for (int32_t g = 0; g < search->n_groups; g++)
        for (int32_t i = 0; i < source->groups[g].n_finished; i++)
            insert(search->results, 0, &n, &source->groups[g].finished[i]);
    const int32_t n_finished = n;
    for (int32_t g = 0; g < search->n_groups; g++)
        for (int32_t i = 0; i < source->groups[g].n_live; i++)
            insert(search->results, search->is_sampling ? n : n_finished, &n, &source->groups[g].live[i]);
    while (n < search->params->num_return_sequences)
        search->results[n++] = &NO_RESULT;
    return search->results;
}

/* Number of tokens that the first result is sure to begin with: those that the best finished hypothesis,
 * which is the first result unless a live one overtakes it, shares with every live one. */
static int32_t stable_len(const struct search *search, const struct source_search *source,
                          const struct hypothesis *first) {
    int32_t len = first->len;
    if (search->is_sampling) return len;
    for (int32_t g = 0; g < search->n_groups; g++)
        for (int32_t i = 0; i < source->groups[g].n_live; i++) {
            const int32_t *const tokens = source->groups[g].live[i].tokens;
            int32_t shared = source->n_streamed;
            while (shared < len && tokens[1 + shared] == first->tokens[1 + shared])
                shared++;
            len = shared;
        }
    return len;
}

/* Hands on_tokens the first `len` tokens of the first result, less those that it has. Once it has asked to
 * stop it is not called again. */
static void stream(struct search *search, struct source_search *source, const struct hypothesis *first,
                   int32_t len) {
    const es2s_generate_params *const params = search->params;
    const int32_t n_new = len - source->n_streamed;
    if (search->stopped || n_new <= 0) return;
    const int32_t *const tokens = first->tokens + 1 + source->n_streamed;
    source->n_streamed = len;
    search->stopped = params->on_tokens(params->user, source->source, tokens, n_new) != 0;
}

static void stream_what_is_stable(struct search *search, struct source_search *source) {
    if (!search->params->on_tokens) return;
    const struct hypothesis *const first = list_results(search, source)[0];
    stream(search, source, first, stable_len(search, source, first));
}

/* Ends the search for a source: writes its results and streams the rest of the first one. */
static void close_source(struct search *search, struct source_search *source) {
    const es2s_generate_params *const params = search->params;
    for (int32_t g = 0; g < search->n_groups; g++)
        for (int32_t i = 0; i < source->groups[g].n_live; i++) {
            struct hypothesis *const live = &source->groups[g].live[i];
            if (live->len > 0)
                live->score /= (float)es2s_length_power(live->len, params->length_penalty);
            else if (search->interruption == NOT_INTERRUPTED) /* the rules left no first token */
                live->score = ES2S_HOPELESS;
        }
    const size_t max_len = (size_t)params->max_new_tokens;
    const int32_t filler = params->pad_token_id >= 0 ? params->pad_token_id : params->eos_token_id;
    const struct hypothesis *const *const results = list_results(search, source);
    for (int32_t i = 0; i < params->num_return_sequences; i++) {
        const struct hypothesis *const h = results[i];
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
    if (params->on_tokens) stream(search, source, results[0], results[0]->len);
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

/* Starts every source, longest prompt first. */
static void start_sources(struct search *search) {
    const int32_t *prefix = search->params->prefix_ids, *const lens = search->params->prefix_lens;
    for (int32_t i = 0; i < search->n_active; i++) {
        const int32_t n_prefix = lens ? lens[i] : 0;
        start_source(search, i, prefix, n_prefix);
        if (n_prefix > 0) prefix += n_prefix;
    }
}

/* Reads each prompt but for its last token, which the first step reads. Row i is that of active source i, so
 * those with more to read are the first rows, and the others wait behind them. */
static void read_prompts(struct search *search) {
    int32_t n_rows = search->n_active;
    for (int32_t i = 0; i < n_rows; i++)
        search->row_sources[i] = search->active[i].source;
    for (int32_t t = 0; !interrupted(search); t++) {
        while (n_rows > 0 && search->active[n_rows - 1].n_prompt - 1 <= t)
            n_rows--;
        if (n_rows == 0) return;
        for (int32_t i = 0; i < n_rows; i++)
            search->row_tokens[i] = history(&search->active[i], &search->active[i].groups[0].live[0])[t];
        es2s_decoder_step(search->session, search->row_tokens, search->row_sources, n_rows, NULL);
    }
}

/* Tokens of the longest prefix. */
static int32_t longest_prefix(const es2s_generate_params *params, int32_t n_sources) {
    int32_t longest = 0;
    for (int32_t i = 0; params->prefix_lens && i < n_sources; i++)
        if (params->prefix_lens[i] > longest) longest = params->prefix_lens[i];
    return longest;
}

es2s_status es2s_search_run(es2s_session *s, const es2s_generate_params *params, int32_t *tokens_out,
                            int32_t *lens_out, float *scores_out, float *logprobs_out,
                            int32_t *finish_reasons_out) {
    const bool is_sampling = params->do_sample && params->num_beams == 1;
    const int32_t n_groups = is_sampling ? params->num_return_sequences : params->num_beam_groups;
    const bool is_greedy = !is_sampling && params->num_beams == 1;
    struct search search = {.session = s,
                            .params = params,
                            .vocab_size = s->model->dims.vocab_size,
                            .n_groups = n_groups,
                            .group_size = is_sampling ? 1 : params->num_beams / n_groups,
                            .is_sampling = is_sampling,
                            .max_len = longest_prefix(params, s->n_sources) + params->max_new_tokens,
                            .start_ns = es2s_clock_ns(),
                            .n_active = s->n_sources,
                            .interruption = NOT_INTERRUPTED,
                            .lookup = {.max_tokens = is_greedy ? params->prompt_lookup_num_tokens : 0},
                            .tokens_out = tokens_out,
                            .lens_out = lens_out,
                            .scores_out = scores_out,
                            .logprobs_out = logprobs_out,
                            .finish_reasons_out = finish_reasons_out};
    search.sampler.kernels = &s->model->kernels;
    search.sampler.params = params;
    es2s_arena arena = {.base = s->search_scratch};
    take_scratch(&search, &arena, s->n_sources, n_groups * search.group_size, s->max_draft_tokens,
                 s->max_source_len, search.max_len);
    start_sources(&search);

    s->n_steps = 0;
    es2s_decoder_begin(s);
    read_prompts(&search);
    while (search.n_active > 0 && !interrupted(&search)) {
        step_decoder(&search);
        int32_t n_open = 0;
        for (int32_t i = 0; i < search.n_active; i++) {
            struct source_search *const source = &search.active[i];
            const bool is_settled = step_source(&search, source);
            if (search.status != ES2S_OK) return search.status;
            if (is_settled) {
                close_source(&search, source);
            } else {
                stream_what_is_stable(&search, source);
                search.active[n_open++] = *source;
            }
        }
        search.n_active = n_open;
    }
    for (int32_t i = 0; i < search.n_active; i++)
        close_source(&search, &search.active[i]);
    return ES2S_OK;
}
