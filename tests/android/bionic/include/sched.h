#pragma once
#include <stddef.h>
#include <string.h>
#include <sys/types.h>
/* As in bionic: 1,024 CPUs in a 64-bit process, 32 in a 32-bit one. */
#ifdef __LP64__
#define CPU_SETSIZE 1024
#else
#define CPU_SETSIZE 32
#endif
#define ES2S_WORD (8 * sizeof(unsigned long))
typedef struct {
    unsigned long bits[CPU_SETSIZE / ES2S_WORD];
} cpu_set_t;
#define CPU_ZERO(set) memset((set), 0, sizeof *(set))
#define CPU_SET(cpu, set) ((set)->bits[(size_t)(cpu) / ES2S_WORD] |= 1UL << ((size_t)(cpu) % ES2S_WORD))
#define CPU_ISSET(cpu, set) ((int)((set)->bits[(size_t)(cpu) / ES2S_WORD] >> ((size_t)(cpu) % ES2S_WORD) & 1))
int sched_getaffinity(pid_t thread, size_t size, cpu_set_t *set);
int sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *set);
int sched_yield(void);
