#pragma once
#include <stdint.h>
#define PRId32 "d"
#define PRIu32 "u"
#ifdef __LP64__
#define PRId64 "ld"
#define PRIu64 "lu"
#else
#define PRId64 "lld"
#define PRIu64 "llu"
#endif
