/*
 * The kept tokens are a list in the order of their ids. A warper computes which of them stay and closes the
 * gaps, so after top_k all else is done on k tokens, and nothing is ever sorted further than it is read:
 * tokens are taken from a heap, best first, until there are enough.
 *
 * transformers breaks ties as its sort happens to; here the lower id comes first.
 */
#include "sampling.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "length_penalty.h"

/* ============================================ Randomness ========================================= */

/* Philox4x32-10: ten rounds of two 32 x 32 -> 64 bit products. */
static void philox(uint32_t counter[4], uint64_t seed) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ key0, (uint32_t)b,
                                  (uint32_t)(a >> 32) ^ counter[3] ^ key1, (uint32_t)a};
        memcpy(counter, next, sizeof next);
        key0 += 0x9E3779B9u; // golden ratio
        key1 += 0xBB67AE85u; // sqrt(3) - 1
    }
}

double es2s_random_uniform(es2s_random_index index) {
    uint32_t words[4] = {index.step, index.draw, index.beam, index.token};
    philox(words, index.seed);
    const uint64_t bits = ((uint64_t)words[0] << 32 | words[1]) >> 12;
    return ((double)bits + 0.5) * 0x1p-52;
}

/* ========================================== Kept tokens ========================================== */

void es2s_sampler_take(es2s_sampler *sampler, es2s_arena *arena, int32_t vocab_size) {
    const uint64_t n = (uint64_t)vocab_size;
    sampler->tokens = es2s_arena_take(arena, n, sizeof *sampler->tokens);
    sampler->scores = es2s_arena_take(arena, n, sizeof *sampler->scores);
    sampler->probs = es2s_arena_take(arena, n, sizeof *sampler->probs);
    sampler->keys = es2s_arena_take(arena, n, sizeof *sampler->keys);
    sampler->heap = es2s_arena_take(arena, n, sizeof *sampler->heap);
}

/* Lists the tokens that are not forbidden, at their temperature. NaN counts as forbidden. */
static int32_t list_allowed(const es2s_sampler *s, const float *scores, int32_t vocab_size) {
    const float temperature = (float)s->params->temperature;
    int32_t n = 0;
    for (int32_t token = 0; token < vocab_size; token++) {
        if (!(scores[token] > -INFINITY)) continue;
        s->tokens[n] = token;
        s->scores[n++] = scores[token] / temperature;
    }
    return n;
}

static void keep(const es2s_sampler *s, int32_t to, int32_t from) {
    s->tokens[to] = s->tokens[from];
    s->scores[to] = s->scores[from];
}

static void set_probabilities(const es2s_sampler *s, int32_t n) {
    memcpy(s->probs, s->scores, (size_t)n * sizeof *s->probs);
    s->kernels->softmax(s->probs, (size_t)n);
}

/* ============================================== Heap ============================================= */

static bool comes_before(const float *keys, int32_t a, int32_t b) {
    return keys[a] < keys[b] || (keys[a] == keys[b] && a < b);
}

/* Restores the order of heap[0..n) where only the one at i may be out of place. */
static void sift_down(int32_t *heap, int32_t n, int32_t i, const float *keys) {
    const int32_t moved = heap[i];
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && comes_before(keys, heap[child + 1], heap[child])) child++;
        if (!comes_before(keys, heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* A heap of 0..n-1: the one that comes first by its key is at the root. */
static void build_heap(int32_t *heap, int32_t n, const float *keys) {
    for (int32_t i = 0; i < n; i++)
        heap[i] = i;
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift_down(heap, n, i, keys);
}

static int32_t pop(int32_t *heap, int32_t *n, const float *keys) {
    const int32_t first = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0) sift_down(heap, *n, 0, keys);
    return first;
}

/* ============================================ Warpers ============================================ */

/* The k best and those equal to the last of them. */
static int32_t keep_top_k(const es2s_sampler *s, int32_t n, int32_t k) {
    if (k >= n) return n;
    build_heap(s->heap, k, s->scores); // the worst of the k best so far at the root
    for (int32_t i = k; i < n; i++) {
        if (!(s->scores[i] > s->scores[s->heap[0]])) continue;
        s->heap[0] = i;
        sift_down(s->heap, k, 0, s->scores);
    }
    const float worst = s->scores[s->heap[0]];
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (s->scores[i] >= worst) keep(s, n_kept++, i);
    return n_kept;
}

enum { TAKEN = -1 };

/* Closes the gaps between the tokens whose probability has been set to TAKEN. */
static int32_t keep_taken(const es2s_sampler *s, int32_t n) {
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (s->probs[i] == TAKEN) keep(s, n_kept++, i);
    return n_kept;
}

static void order_by_probability(const es2s_sampler *s, int32_t n) {
    set_probabilities(s, n);
    for (int32_t i = 0; i < n; i++)
        s->keys[i] = -s->probs[i];
    build_heap(s->heap, n, s->keys);
}

/* The most likely ones, until they have the probability top_p together (Holtzman et al. 2020). */
static int32_t keep_top_p(const es2s_sampler *s, int32_t n, int32_t min_to_keep) {
    order_by_probability(s, n);
    double sum = 0;
    for (int32_t left = n, taken = 0; left > 0 && (taken < min_to_keep || sum < s->params->top_p); taken++) {
        const int32_t i = pop(s->heap, &left, s->keys);
        sum += (double)s->probs[i];
        s->probs[i] = TAKEN;
    }
    return keep_taken(s, n);
}

/* Those at least min_p times as likely as the most likely one (Nguyen et al. 2024). */
static int32_t keep_min_p(const es2s_sampler *s, int32_t n, int32_t min_to_keep) {
    order_by_probability(s, n);
    const float least = (float)s->params->min_p * -s->keys[s->heap[0]];
    for (int32_t left = n, taken = 0; left > 0 && (taken < min_to_keep || !(s->probs[s->heap[0]] < least));
         taken++)
        s->probs[pop(s->heap, &left, s->keys)] = TAKEN;
    return keep_taken(s, n);
}

/* Those whose information is closest to the entropy, until they have the probability typical_p together, and
 * those as close as the last of them (Meister et al. 2023). */
static int32_t keep_typical(const es2s_sampler *s, int32_t n, int32_t min_to_keep) {
    float max, sum_exp;
    s->kernels->log_softmax_terms(s->scores, (size_t)n, &max, &sum_exp);
    const float log_sum = (float)es2s_log((double)sum_exp);
    set_probabilities(s, n);
    double entropy = 0;
    for (int32_t i = 0; i < n; i++) {
        s->keys[i] = (s->scores[i] - max) - log_sum;
        entropy -= (double)s->keys[i] * (double)s->probs[i];
    }
    for (int32_t i = 0; i < n; i++) {
        const float distance = -s->keys[i] - (float)entropy;
        s->keys[i] = distance < 0 ? -distance : distance;
    }
    build_heap(s->heap, n, s->keys);
    double sum = 0;
    float last = -1; // no distance
    for (int32_t left = n, taken = 0;
         left > 0 && (taken < min_to_keep || sum < s->params->typical_p || s->keys[s->heap[0]] == last);
         taken++) {
        const int32_t i = pop(s->heap, &left, s->keys);
        if (sum < s->params->typical_p) last = s->keys[i];
        sum += (double)s->probs[i];
        s->probs[i] = TAKEN;
    }
    return keep_taken(s, n);
}

/* Lists the tokens that the warpers keep; returns their number. */
static int32_t list_kept(const es2s_sampler *s, const float *scores, int32_t vocab_size,
                         int32_t min_to_keep) {
    const es2s_generate_params *const p = s->params;
    int32_t n = list_allowed(s, scores, vocab_size);
    if (n == 0) return 0;
    if (p->top_k > 0) n = keep_top_k(s, n, p->top_k > min_to_keep ? p->top_k : min_to_keep);
    if (p->top_p < 1) n = keep_top_p(s, n, min_to_keep);
    if (p->min_p > 0) n = keep_min_p(s, n, min_to_keep);
    if (p->typical_p < 1) n = keep_typical(s, n, min_to_keep);
    return n;
}

void es2s_sampling_warp(const es2s_sampler *s, float *scores, int32_t vocab_size, int32_t min_to_keep) {
    const int32_t n = list_kept(s, scores, vocab_size, min_to_keep);
    for (int32_t token = 0; token < vocab_size; token++)
        scores[token] = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        scores[s->tokens[i]] = s->scores[i];
}

/* ============================================== Draw ============================================= */

int32_t es2s_sampling_draw(const es2s_sampler *s, const float *scores, int32_t vocab_size,
                           es2s_random_index index) {
    const int32_t n = list_kept(s, scores, vocab_size, 1);
    if (n == 0) return 0; // as greedy search
    set_probabilities(s, n);
    double total = 0;
    for (int32_t i = 0; i < n; i++)
        total += (double)s->probs[i];
    const double target = es2s_random_uniform(index) * total;
    double sum = 0;
    int32_t drawn = 0; // the last likely one, where rounding lets `target` be `total`
    for (int32_t i = 0; i < n; i++) {
        if (!(s->probs[i] > 0)) continue;
        drawn = i;
        sum += (double)s->probs[i];
        if (sum > target) break;
    }
    return s->tokens[drawn];
}
