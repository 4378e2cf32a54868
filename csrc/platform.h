/*
 * What the C core needs from an operating system: platform_posix.c, and platform_linux.c for what POSIX does
 * not have, with es2s_available_memory of the public header. Nothing else includes a header beyond libc's.
 */
#ifndef ES2S_PLATFORM_H
#define ES2S_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "edge_s2s.h"

/* ---- CPU ---- */

/* What the system says this ARM CPU can run, on all its cores; all 0 elsewhere. */
typedef struct es2s_arm_features {
    int neon, dotprod, i8mm, sha2;
} es2s_arm_features;

es2s_arm_features es2s_cpu_arm_features(void);

enum { ES2S_MAX_CPUS = 1024 };

typedef struct es2s_cpus {
    uint64_t bits[ES2S_MAX_CPUS / 64];
} es2s_cpus;

/* Of the CPUs that the calling thread may use, those with at least four fifths of the speed of the fastest.
 * Returns how many; 0 where the system does not tell. `folder` is ES2S_CPU_FOLDER, or that of a test. */
#define ES2S_CPU_FOLDER "/sys/devices/system/cpu"
int32_t es2s_fast_cpus(const char *folder, es2s_cpus *cpus_out);

/* Keeps the calling thread to these CPUs; false if the system does not. */
bool es2s_thread_keep_to(const es2s_cpus *cpus);

/* ---- memory ---- */

/* Uninitialised bytes at a multiple of 64, or NULL. */
void *es2s_alloc(size_t size);

/* The same, on huge pages where the system has them: for what is read all the time. A core that reads its 40
 * MB through pages of 4 KiB spends half of the time on finding them. */
void *es2s_alloc_hot(size_t size);

/* Accepts NULL. */
void es2s_free(void *block);

/* OUT_OF_MEMORY, with what is needed and what is left, before the system would have to end a process. Below 1
 * MiB nobody looks. */
es2s_status es2s_check_memory(const char *what, uint64_t n_bytes);

/* ---- files ---- */

typedef struct es2s_mapping {
    const void *data;
    size_t size;
} es2s_mapping;

/* Maps a regular file read-only. Fails with ES2S_IO. */
es2s_status es2s_file_map(const char *path, es2s_mapping *mapping_out);

/* Whether something is at this path, and whether it is a folder. */
bool es2s_path_exists(const char *path);
bool es2s_is_folder(const char *path);

/* Accepts an empty mapping. */
void es2s_file_unmap(es2s_mapping *mapping);

/* Asks Linux for huge pages. */
void es2s_prefer_huge_pages(void *block, size_t size);

/* Tells Linux that this process does without these bytes of a read-only mapping for now, so that they do not
 * count as its memory; a later read takes them from the file again. */
void es2s_mapping_let_go(const void *data, size_t size);

/* ---- time ---- */

/* Nanoseconds since some moment; never goes backwards. */
int64_t es2s_clock_ns(void);

/* ---- threads ---- */

typedef struct es2s_thread es2s_thread;

/* NULL if the system refuses. */
es2s_thread *es2s_thread_start(void (*run)(void *arg), void *arg);

/* Waits until `run` has returned, then frees the thread. */
void es2s_thread_join(es2s_thread *thread);

/* Lets another thread run on this core. */
void es2s_thread_yield(void);

/* Tells the core that this is a spin loop: nanoseconds, less power. */
void es2s_thread_pause(void);

/* A lock and a condition to wait for under it. */
typedef struct es2s_monitor es2s_monitor;

/* NULL if the system refuses. */
es2s_monitor *es2s_monitor_create(void);
void es2s_monitor_lock(es2s_monitor *monitor);
void es2s_monitor_unlock(es2s_monitor *monitor);

/* Unlocks, sleeps until es2s_monitor_wake_all (or for no reason), locks again. Call it in a loop. */
void es2s_monitor_wait(es2s_monitor *monitor);
void es2s_monitor_wake_all(es2s_monitor *monitor);

/* Accepts NULL. */
void es2s_monitor_free(es2s_monitor *monitor);

#endif
