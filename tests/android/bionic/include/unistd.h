#pragma once
#include <stddef.h>
#include <sys/types.h>
#define _SC_PAGESIZE 39
int close(int fd);
long sysconf(int name);
ssize_t read(int fd, void *out, size_t size);
