#pragma once
/* Of no layout that a run would need: nothing here is run. */
typedef long pthread_t;
typedef struct {
    int opaque[10];
} pthread_mutex_t;
typedef struct {
    int opaque[12];
} pthread_cond_t;
typedef struct pthread_attr_t pthread_attr_t;
typedef long pthread_mutexattr_t;
typedef long pthread_condattr_t;
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int pthread_join(pthread_t thread, void **result);
int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int pthread_mutex_destroy(pthread_mutex_t *mutex);
int pthread_mutex_lock(pthread_mutex_t *mutex);
int pthread_mutex_unlock(pthread_mutex_t *mutex);
int pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attr);
int pthread_cond_destroy(pthread_cond_t *condition);
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int pthread_cond_broadcast(pthread_cond_t *condition);
