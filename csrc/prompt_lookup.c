#include "prompt_lookup.h"

#include <string.h>

enum {
    MIN_NGRAM = 2, /* tokens that must match: fewer match by chance */
    MAX_NGRAM = 3,
    /* A draft is read together with the last token, and kernels take four rows at a time: 3, 7, 15. */
    FIRST_DRAFT = 3
};

/* Tokens behind an occurrence of the history's last n tokens in text, which begin at the returned place; 0 =
 * none. The latest occurrence counts: texts go on where they are. */
static int32_t find(const int32_t *text, int32_t n_text, const int32_t *last, int32_t n) {
    for (int32_t end = n_text - 1; end >= n; end--)
        if (text[end - 1] == last[n - 1] && memcmp(text + end - n, last, (size_t)n * sizeof *last) == 0)
            return end;
    return 0;
}

int32_t es2s_prompt_lookup_draft(es2s_prompt_lookup *lookup, const int32_t *history, int32_t n_history,
                                 const int32_t *source, int32_t n_source, int32_t room, int32_t *draft) {
    if (lookup->max_tokens == 0) return 0;
    if (lookup->n_tokens == 0) lookup->n_tokens = FIRST_DRAFT;
    if (lookup->n_tokens > lookup->max_tokens) lookup->n_tokens = lookup->max_tokens;
    if (room > lookup->n_tokens) room = lookup->n_tokens;
    for (int32_t n = MAX_NGRAM; n >= MIN_NGRAM && room > 0; n--) {
        if (n_history < n) continue;
        const int32_t *const last = history + n_history - n;
        const int32_t *text = source;
        int32_t n_text = n_source, begin = find(source, n_source, last, n);
        if (begin == 0) {
            text = history;
            n_text = n_history;
            begin = find(history, n_history, last, n);
        }
        if (begin == 0) continue;
        const int32_t n_draft = n_text - begin < room ? n_text - begin : room;
        memcpy(draft, text + begin, (size_t)n_draft * sizeof *draft);
        return n_draft;
    }
    return 0;
}

void es2s_prompt_lookup_learn(es2s_prompt_lookup *lookup, int64_t step_ns, int32_t n_drafted,
                              int32_t n_accepted) {
    if (n_drafted == 0) {
        if (lookup->plain_ns == 0 || step_ns < lookup->plain_ns) lookup->plain_ns = step_ns;
        return;
    }
    lookup->n_whole = n_accepted == n_drafted ? lookup->n_whole + 1 : 0;
    if (lookup->n_whole == 2) {
        if (2 * lookup->n_tokens + 1 <= lookup->max_tokens) lookup->n_tokens = 2 * lookup->n_tokens + 1;
        lookup->n_whole = 0;
    } else if (n_accepted == 0) {
        lookup->n_tokens = FIRST_DRAFT;
    }
    lookup->n_drafts++;
    lookup->n_accepted += n_accepted;
    lookup->drafted_ns += step_ns;
    if (lookup->n_drafts < ES2S_LOOKUP_WINDOW) return;
    /* Without drafts, each of these tokens would have been a step of its own. */
    const int64_t saved_ns = (int64_t)(lookup->n_drafts + lookup->n_accepted) * lookup->plain_ns;
    if (lookup->drafted_ns > saved_ns) lookup->max_tokens = 0;
    lookup->n_drafts = lookup->n_accepted = 0;
    lookup->drafted_ns = 0;
}
