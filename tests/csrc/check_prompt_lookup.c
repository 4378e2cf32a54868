/* Drafts are what followed the last tokens before, and end where they do not pay. */
#include "prompt_lookup.h"

#include <string.h>

#include "check.h"

#define N(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static const int32_t SOURCE[] = {5, 6, 7, 8, 9, 6, 7, 10, 11};

static int32_t draft(es2s_prompt_lookup *lookup, const int32_t *history, int32_t n, int32_t room,
                     int32_t *out) {
    return es2s_prompt_lookup_draft(lookup, history, n, SOURCE, N(SOURCE), room, out);
}

static void the_longest_and_latest_match_goes_on(void) {
    es2s_prompt_lookup lookup = {.max_tokens = 4};
    int32_t out[16];
    const int32_t two[] = {0, 6, 7}, three[] = {5, 6, 7}, one[] = {0, 8}, end[] = {10, 11};
    CHECK(draft(&lookup, two, N(two), 16, out) == 2 && out[0] == 10 && out[1] == 11); /* the latest 6, 7 */
    CHECK(draft(&lookup, three, N(three), 16, out) == 3 && out[0] == 8 && out[1] == 9);
    CHECK(draft(&lookup, one, N(one), 16, out) == 0); /* one token is no match */
    CHECK(draft(&lookup, end, N(end), 16, out) == 0); /* nothing follows */
    CHECK(draft(&lookup, three, 1, 16, out) == 0);
    CHECK(draft(&lookup, two, N(two), 1, out) == 1 && out[0] == 10);
    CHECK(draft(&lookup, two, N(two), 0, out) == 0);
    CHECK(draft(&lookup, two, N(two), -1, out) == 0);
}

static void the_output_itself_is_looked_at_where_the_source_has_nothing(void) {
    es2s_prompt_lookup lookup = {.max_tokens = 4};
    int32_t out[16];
    const int32_t history[] = {20, 21, 22, 23, 20, 21};
    CHECK(draft(&lookup, history, N(history), 16, out) == 3);
    CHECK(out[0] == 22 && out[1] == 23 && out[2] == 20);
    CHECK(es2s_prompt_lookup_draft(&lookup, history, N(history), NULL, 0, 16, out) == 3);
}

static void drafts_grow_with_success_and_start_again_after_a_failure(void) {
    es2s_prompt_lookup lookup = {.max_tokens = 7};
    int32_t out[16];
    const int32_t history[] = {5, 6, 7};
    static const int32_t sizes[] = {3, 3, 6, 6}; /* 3, then 7, of 6 tokens that follow */
    es2s_prompt_lookup_learn(&lookup, 100, 0, 0);
    for (int32_t i = 0; i < N(sizes); i++) {
        check_case("draft %d", i);
        CHECK(draft(&lookup, history, N(history), 16, out) == sizes[i]);
        es2s_prompt_lookup_learn(&lookup, 100, sizes[i], sizes[i]);
    }
    CHECK(draft(&lookup, history, N(history), 16, out) == 6);
    es2s_prompt_lookup_learn(&lookup, 100, 6, 0);
    CHECK(draft(&lookup, history, N(history), 16, out) == 3);

    es2s_prompt_lookup short_one = {.max_tokens = 6}; /* 7 would be too many */
    es2s_prompt_lookup_learn(&short_one, 100, 0, 0);
    for (int32_t i = 0; i < 4; i++) {
        CHECK(draft(&short_one, history, N(history), 16, out) == 3);
        es2s_prompt_lookup_learn(&short_one, 100, 3, 3);
    }
    es2s_prompt_lookup shortest = {.max_tokens = 2};
    CHECK(draft(&shortest, history, N(history), 16, out) == 2);
}

/* Drafts of two tokens, `accepted` of which are right, in steps that take so many percent of a plain one. */
static int32_t drafts_until_given_up(int32_t accepted, int64_t percent) {
    es2s_prompt_lookup lookup = {.max_tokens = 2};
    es2s_prompt_lookup_learn(&lookup, 1000000, 0, 0);
    es2s_prompt_lookup_learn(&lookup, 5000000, 0, 0); /* something else ran then */
    int32_t n = 0;
    while (lookup.max_tokens > 0 && n < 100) {
        es2s_prompt_lookup_learn(&lookup, 10000 * percent, 2, accepted);
        n++;
    }
    return n;
}

static void what_does_not_pay_is_given_up_after_a_window(void) {
    CHECK(drafts_until_given_up(0, 101) == ES2S_LOOKUP_WINDOW);
    CHECK(drafts_until_given_up(1, 201) == ES2S_LOOKUP_WINDOW);
    CHECK(drafts_until_given_up(1, 199) == 100);
    CHECK(drafts_until_given_up(2, 299) == 100);
    es2s_prompt_lookup off = {.max_tokens = 0};
    int32_t out[16];
    const int32_t history[] = {5, 6, 7};
    CHECK(draft(&off, history, N(history), 16, out) == 0);
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"the_longest_and_latest_match_goes_on", the_longest_and_latest_match_goes_on, 0},
        {"the_output_itself_is_looked_at_where_the_source_has_nothing",
         the_output_itself_is_looked_at_where_the_source_has_nothing, 0},
        {"drafts_grow_with_success_and_start_again_after_a_failure",
         drafts_grow_with_success_and_start_again_after_a_failure, 0},
        {"what_does_not_pay_is_given_up_after_a_window", what_does_not_pay_is_given_up_after_a_window, 0}};
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
