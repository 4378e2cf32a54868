#pragma once
#include <stddef.h>
#include <sys/types.h>
#define PROT_READ 1
#define MAP_PRIVATE 2
#define MAP_FAILED ((void *)-1)
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int munmap(void *at, size_t size);
#define MADV_DONTNEED 4
#define MADV_HUGEPAGE 14
int madvise(void *at, size_t size, int advice);
