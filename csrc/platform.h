/*
 * What the C core needs from an operating system. One file per system implements it (platform_posix.c);
 * nothing else includes a header beyond libc's.
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
    int neon, dotprod, i8mm;
} es2s_arm_features;

es2s_arm_features es2s_cpu_arm_features(void);

/* ---- memory ---- */

/* Uninitialised bytes at a multiple of 64, or NULL. */
void *es2s_alloc(size_t size);

/* Accepts NULL. */
void es2s_free(void *block);

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
