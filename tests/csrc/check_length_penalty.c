/* Powers and logarithms against long double libm. */
#include "length_penalty.h"

#include "check.h"

static void powers_are_within_their_limit(void) {
    for (int32_t length = 1; length <= 4096; length += 1 + length / 64) {
        for (double exponent = -20; exponent <= 20; exponent += 0.0371) {
            const long double expected = powl(length, exponent);
            if (expected < 1e-30L || expected > 1e30L) continue;
            check_case("%d ** %g", length, exponent);
            CHECK(fabsl(es2s_length_power(length, exponent) / expected - 1) < 3e-14L);
        }
    }
}

static void integer_powers_that_a_double_can_hold_are_exact(void) {
    for (int32_t length = 1; length <= 4096; length++) {
        double expected = 1;
        for (int32_t exponent = 0; expected <= 9007199254740992.0 && exponent <= 16; exponent++) {
            check_case("%d ** %d", length, exponent);
            CHECK(es2s_length_power(length, exponent) == expected);
            CHECK(es2s_length_power(length, -exponent) == 1 / expected);
            expected *= length;
        }
    }
}

static void enormous_exponents_saturate(void) {
    CHECK(es2s_length_power(2, 1e300) == INFINITY);
    CHECK(es2s_length_power(2, -1e300) == 0);
    CHECK(es2s_length_power(1, 1e300) == 1);
}

static void logarithms_round_to_the_right_float(void) {
    for (float x = 1; x < 1e7F; x *= 1.0003F) {
        check_case("log(%a)", (double)x);
        CHECK((float)es2s_log((double)x) == (float)logl(x));
    }
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"powers_are_within_their_limit", powers_are_within_their_limit, 0},
        {"integer_powers_that_a_double_can_hold_are_exact", integer_powers_that_a_double_can_hold_are_exact,
         0},
        {"enormous_exponents_saturate", enormous_exponents_saturate, 0},
        {"logarithms_round_to_the_right_float", logarithms_round_to_the_right_float, 0}};
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
