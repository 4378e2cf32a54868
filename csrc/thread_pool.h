/*
 * Worker threads of a model, for one call at a time.
 *
 *     es2s_thread_pool *pool = es2s_thread_pool_try_acquire(model->pool);    // NULL: another session has it
 *     es2s_thread_pool_run(pool, job, arg, n_items);                         // NULL: the caller does all the
 * work es2s_thread_pool_release(pool);
 */
#ifndef ES2S_THREAD_POOL_H
#define ES2S_THREAD_POOL_H

#include <stdint.h>

#include "platform.h"

typedef struct es2s_thread_pool es2s_thread_pool;

/* Does item `item`. `thread` is below the pool's n_threads, and no two items run with the same one at a time.
 */
typedef void es2s_job(void *arg, int32_t item, int32_t thread);

/* n_threads counts the caller: n_threads - 1 workers start and sleep, and keep to `cpus` where these are
 * given. NULL if the system refuses one. */
es2s_thread_pool *es2s_thread_pool_create(int32_t n_threads, const es2s_cpus *cpus);

/* No call may be running. Accepts NULL. */
void es2s_thread_pool_free(es2s_thread_pool *pool);

/* The pool, or NULL if it is in use. Never waits. Accepts NULL. */
es2s_thread_pool *es2s_thread_pool_try_acquire(es2s_thread_pool *pool);

/* Accepts NULL. */
void es2s_thread_pool_release(es2s_thread_pool *pool);

/* Returns when items 0..n_items-1 are done. The pool was acquired, or is NULL. */
void es2s_thread_pool_run(es2s_thread_pool *pool, es2s_job *job, void *arg, int32_t n_items);

/* Threads that work on a job, the caller included. NULL: 1. */
int32_t es2s_thread_pool_size(const es2s_thread_pool *pool);

#endif
