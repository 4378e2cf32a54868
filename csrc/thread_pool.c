/*
 * A job is a list of items, of which each thread has a part. It takes its own one by one, in order, because
 * what it reads ahead should be for itself, and then those that others have left. The caller takes until none
 * is left and then waits only for workers that are inside an item: a worker that sleeps, or that the system
 * has put aside, delays nothing. Which thread does an item does not change its result.
 *
 * ticket is odd while a job is open. A worker enters with n_inside + 1 and looks at the ticket again; the
 * caller closes the ticket and then looks at n_inside. In the single order of these sequentially consistent
 * operations one of them sees the other, so the job is never replaced under a worker's hands. n_asleep and
 * the ticket work the same way: either the worker sees the open job before it sleeps, or the caller sees that
 * it has to wake it.
 */
#include "thread_pool.h"

#include <stdatomic.h>
#include <stdbool.h>

#include "platform.h"

/* Between two jobs of a step lie microseconds, between two steps about a hundred: a worker spins, then
 * yields, and sleeps when the call is over. */
enum { SPINS = 50, YIELDS = 200 };

typedef struct worker {
    _Alignas(64) atomic_int next_item; /* of its part; in a line of the cache of its own */
    int32_t end_item;
    int32_t thread;
    es2s_thread_pool *pool;
    es2s_thread *handle; /* NULL: the caller */
} worker;

struct es2s_thread_pool {
    int32_t n_threads;
    bool is_pinned;
    es2s_cpus cpus;
    atomic_flag acquired;

    es2s_job *job;
    void *arg;
    atomic_uint ticket;
    atomic_int n_inside;
    atomic_int n_asleep;
    atomic_bool stop;
    es2s_monitor *monitor;
    worker workers[]; /* [n_threads] the caller is the first */
};

static void take_items(es2s_thread_pool *pool, int32_t thread) {
    for (int32_t i = 0; i < pool->n_threads; i++) {
        worker *const w = &pool->workers[(thread + i) % pool->n_threads];
        for (int32_t item; (item = atomic_fetch_add(&w->next_item, 1)) < w->end_item;)
            pool->job(pool->arg, item, thread);
    }
}

/* Whether there is something to do: a job other than `last`, or the end. */
static bool is_called(es2s_thread_pool *pool, unsigned last) {
    const unsigned ticket = atomic_load(&pool->ticket);
    return (ticket % 2 == 1 && ticket != last) || atomic_load(&pool->stop);
}

static void wait_for_call(es2s_thread_pool *pool, unsigned last) {
    for (int i = 0; i < SPINS; i++) {
        if (is_called(pool, last)) return;
        es2s_thread_pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        if (is_called(pool, last)) return;
        es2s_thread_yield();
    }
    es2s_monitor_lock(pool->monitor);
    atomic_fetch_add(&pool->n_asleep, 1);
    while (!is_called(pool, last))
        es2s_monitor_wait(pool->monitor);
    atomic_fetch_sub(&pool->n_asleep, 1);
    es2s_monitor_unlock(pool->monitor);
}

static void run_worker(void *arg) {
    const worker *self = arg;
    es2s_thread_pool *pool = self->pool;
    if (pool->is_pinned) es2s_thread_keep_to(&pool->cpus); /* where that fails, it is only slower */
    unsigned last = 0;
    while (wait_for_call(pool, last), !atomic_load(&pool->stop)) {
        atomic_fetch_add(&pool->n_inside, 1);
        const unsigned ticket = atomic_load(&pool->ticket);
        if (ticket % 2 == 1) {
            take_items(pool, self->thread);
            last = ticket;
        }
        atomic_fetch_sub(&pool->n_inside, 1);
    }
}

static void wake_sleepers(es2s_thread_pool *pool) {
    if (atomic_load(&pool->n_asleep) == 0) return;
    es2s_monitor_lock(pool->monitor);
    es2s_monitor_wake_all(pool->monitor);
    es2s_monitor_unlock(pool->monitor);
}

es2s_thread_pool *es2s_thread_pool_create(int32_t n_threads, const es2s_cpus *cpus) {
    es2s_thread_pool *pool = es2s_alloc(sizeof *pool + (size_t)n_threads * sizeof pool->workers[0]);
    if (!pool) return NULL;
    *pool = (es2s_thread_pool){.is_pinned = cpus != NULL, .acquired = ATOMIC_FLAG_INIT};
    if (cpus) pool->cpus = *cpus;
    atomic_init(&pool->ticket, 0);
    atomic_init(&pool->n_inside, 0);
    atomic_init(&pool->n_asleep, 0);
    atomic_init(&pool->stop, false);
    pool->monitor = es2s_monitor_create();
    if (!pool->monitor) goto fail;
    for (int32_t thread = 0; thread < n_threads; thread++) {
        worker *w = &pool->workers[thread];
        *w = (worker){.pool = pool, .thread = thread};
        atomic_init(&w->next_item, 0);
        if (thread > 0 && !(w->handle = es2s_thread_start(run_worker, w))) goto fail;
        pool->n_threads++;
    }
    return pool;

fail:
    es2s_thread_pool_free(pool);
    return NULL;
}

void es2s_thread_pool_free(es2s_thread_pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stop, true);
    if (pool->monitor) wake_sleepers(pool);
    for (int32_t thread = 1; thread < pool->n_threads; thread++)
        es2s_thread_join(pool->workers[thread].handle);
    es2s_monitor_free(pool->monitor);
    es2s_free(pool);
}

es2s_thread_pool *es2s_thread_pool_try_acquire(es2s_thread_pool *pool) {
    return pool && !atomic_flag_test_and_set(&pool->acquired) ? pool : NULL;
}

void es2s_thread_pool_release(es2s_thread_pool *pool) {
    if (pool) atomic_flag_clear(&pool->acquired);
}

void es2s_thread_pool_run(es2s_thread_pool *pool, es2s_job *job, void *arg, int32_t n_items) {
    if (!pool || n_items == 1) {
        for (int32_t item = 0; item < n_items; item++)
            job(arg, item, 0);
        return;
    }
    pool->job = job;
    pool->arg = arg;
    for (int32_t thread = 0, begin = 0; thread < pool->n_threads; thread++) {
        worker *const w = &pool->workers[thread];
        atomic_store_explicit(&w->next_item, begin, memory_order_relaxed); /* the ticket publishes it */
        begin = w->end_item = (int32_t)((int64_t)n_items * (thread + 1) / pool->n_threads);
    }
    atomic_fetch_add(&pool->ticket, 1);
    wake_sleepers(pool);
    take_items(pool, 0);
    atomic_fetch_add(&pool->ticket, 1);
    for (int i = 0; atomic_load(&pool->n_inside) > 0; i++)
        i < SPINS ? es2s_thread_pause() : es2s_thread_yield();
}

int32_t es2s_thread_pool_size(const es2s_thread_pool *pool) {
    return pool ? pool->n_threads : 1;
}
