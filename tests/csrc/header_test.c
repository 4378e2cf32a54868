/* The public header needs nothing before it. Compiled as C11 and as C++ by test_csrc.py. */
#include "edge_s2s.h"

int main(void) {
    return 0;
}
