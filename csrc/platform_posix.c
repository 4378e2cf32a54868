/* Linux, Android, macOS, iOS. */
#ifdef __APPLE__
#define _DARWIN_C_SOURCE /* sys/sysctl.h needs types that POSIX alone hides */
#else
#define _POSIX_C_SOURCE 200809L
#endif

#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "error.h"

#if defined(__linux__) && defined(__aarch64__)
/* The kernel's numbers, not the names of its headers, which may be older than the kernel. */
es2s_arm_features es2s_cpu_arm_features(void) {
    const unsigned long hwcap = getauxval(16 /* AT_HWCAP */), hwcap2 = getauxval(26 /* AT_HWCAP2 */);
    return (es2s_arm_features){
        .neon = 1,
        .dotprod = (hwcap >> 20 & 1) != 0, /* HWCAP_ASIMDDP */
        .i8mm = (hwcap2 >> 13 & 1) != 0,   /* HWCAP2_I8MM */
        .sha2 = (hwcap >> 6 & 1) != 0,     /* HWCAP_SHA2 */
    };
}
#elif defined(__linux__) && defined(__arm__)
es2s_arm_features es2s_cpu_arm_features(void) {
    return (es2s_arm_features){.neon = (getauxval(16 /* AT_HWCAP */) >> 12 & 1) != 0}; /* HWCAP_NEON */
}
#elif defined(__APPLE__) && defined(__aarch64__)
static int has_feature(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}

es2s_arm_features es2s_cpu_arm_features(void) {
    return (es2s_arm_features){
        .neon = 1,
        .dotprod = has_feature("hw.optional.arm.FEAT_DotProd"),
        .i8mm = has_feature("hw.optional.arm.FEAT_I8MM"),
        .sha2 = has_feature("hw.optional.arm.FEAT_SHA256"),
    };
}
#else
es2s_arm_features es2s_cpu_arm_features(void) {
    return (es2s_arm_features){0};
}
#endif

void *es2s_alloc(size_t size) {
    void *block = NULL;
    return posix_memalign(&block, 64, size) == 0 ? block : NULL;
}

void *es2s_alloc_hot(size_t size) {
    const size_t huge_page = 2 << 20;
    if (size < huge_page) return es2s_alloc(size);
    void *block = NULL;
    if (posix_memalign(&block, huge_page, size) != 0) return NULL;
    es2s_prefer_huge_pages(block, size);
    return block;
}

void es2s_free(void *block) {
    free(block);
}

es2s_status es2s_check_memory(const char *what, uint64_t n_bytes) {
    if (n_bytes < 1 << 20) return ES2S_OK;
    const uint64_t left = es2s_available_memory(NULL);
    if (n_bytes <= left) return ES2S_OK;
    return es2s_fail(ES2S_OUT_OF_MEMORY, "%s: needs %llu MiB of memory, %llu MiB are left", what,
                     (unsigned long long)(n_bytes >> 20) + 1, (unsigned long long)(left >> 20));
}

static es2s_status fail_io(const char *path, const char *what, int error) {
    char reason[128];
    if (strerror_r(error, reason, sizeof reason) != 0) reason[0] = '\0';
    return es2s_fail(ES2S_IO, "%s: %s: %s", path, what, reason);
}

bool es2s_path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool es2s_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

es2s_status es2s_file_map(const char *path, es2s_mapping *mapping_out) {
    /* Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail_io(path, "cannot open", errno);

    es2s_status status = ES2S_OK;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        status = fail_io(path, "cannot read its size", errno);
    } else if (!S_ISREG(st.st_mode)) {
        status = es2s_fail(ES2S_IO, "%s: expected a regular file", path);
    } else if (st.st_size == 0) {
        status = es2s_fail(ES2S_IO, "%s: the file is empty", path);
    } else if ((uint64_t)st.st_size > SIZE_MAX) {
        status = es2s_fail(ES2S_IO, "%s: larger than the address space", path);
    } else {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = fail_io(path, "cannot map", errno);
        else
            *mapping_out = (es2s_mapping){.data = data, .size = (size_t)st.st_size};
    }
    close(fd);
    return status;
}

void es2s_file_unmap(es2s_mapping *mapping) {
    if (mapping->size != 0) munmap((void *)(uintptr_t)mapping->data, mapping->size);
    *mapping = (es2s_mapping){0};
}

int64_t es2s_clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct es2s_thread {
    pthread_t id;
    void (*run)(void *arg);
    void *arg;
};

static void *run_thread(void *self) {
    es2s_thread *thread = self;
    thread->run(thread->arg);
    return NULL;
}

es2s_thread *es2s_thread_start(void (*run)(void *arg), void *arg) {
    es2s_thread *thread = es2s_alloc(sizeof *thread);
    if (!thread) return NULL;
    thread->run = run;
    thread->arg = arg;
    if (pthread_create(&thread->id, NULL, run_thread, thread) != 0) {
        es2s_free(thread);
        return NULL;
    }
    return thread;
}

void es2s_thread_join(es2s_thread *thread) {
    pthread_join(thread->id, NULL);
    es2s_free(thread);
}

void es2s_thread_yield(void) {
    sched_yield();
}

void es2s_thread_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

struct es2s_monitor {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
};

es2s_monitor *es2s_monitor_create(void) {
    es2s_monitor *monitor = es2s_alloc(sizeof *monitor);
    if (!monitor) return NULL;
    if (pthread_mutex_init(&monitor->mutex, NULL) != 0) {
        es2s_free(monitor);
        return NULL;
    }
    if (pthread_cond_init(&monitor->condition, NULL) != 0) {
        pthread_mutex_destroy(&monitor->mutex);
        es2s_free(monitor);
        return NULL;
    }
    return monitor;
}

void es2s_monitor_lock(es2s_monitor *monitor) {
    pthread_mutex_lock(&monitor->mutex);
}

void es2s_monitor_unlock(es2s_monitor *monitor) {
    pthread_mutex_unlock(&monitor->mutex);
}

void es2s_monitor_wait(es2s_monitor *monitor) {
    pthread_cond_wait(&monitor->condition, &monitor->mutex);
}

void es2s_monitor_wake_all(es2s_monitor *monitor) {
    pthread_cond_broadcast(&monitor->condition);
}

void es2s_monitor_free(es2s_monitor *monitor) {
    if (!monitor) return;
    pthread_cond_destroy(&monitor->condition);
    pthread_mutex_destroy(&monitor->mutex);
    es2s_free(monitor);
}
