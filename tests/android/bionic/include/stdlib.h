#pragma once
#include <stddef.h>
void *malloc(size_t size);
void free(void *block);
int posix_memalign(void **block, size_t alignment, size_t size);
unsigned long long strtoull(const char *s, char **end, int base);
