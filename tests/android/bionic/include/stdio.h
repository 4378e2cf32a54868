#pragma once
#include <stdarg.h>
#include <stddef.h>
int snprintf(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int vsnprintf(char *out, size_t size, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
