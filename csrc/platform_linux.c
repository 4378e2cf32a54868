/* What Linux and Android have beyond POSIX: which cores are fast, how much memory is left, and huge pages and
 * letting go of pages. Elsewhere nobody tells, and nothing is limited. */
#ifdef __linux__
#define _GNU_SOURCE /* CPU sets, madvise */
#endif

#include "platform.h"

#ifdef __linux__
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_PATH = 4096, MAX_TEXT = 8192 }; /* files of /proc and /sys that are read are shorter */

/* A small file as a string; false, and an empty one, if it cannot be read. */
static bool read_text(const char *path, char *text, size_t capacity) {
    text[0] = '\0';
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t n = 0;
    for (ssize_t got; n + 1 < capacity && (got = read(fd, text + n, capacity - 1 - n)) > 0;)
        n += (size_t)got;
    close(fd);
    text[n] = '\0';
    return n > 0;
}

/* The number in folder/name; UINT64_MAX if there is none, such as "max". */
static uint64_t read_number(const char *folder, const char *name) {
    char path[MAX_PATH], text[64];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || n >= MAX_PATH || !read_text(path, text, sizeof text)) return UINT64_MAX;
    char *end;
    const unsigned long long number = strtoull(text, &end, 10);
    return end == text ? UINT64_MAX : number;
}

/* The number behind `key` at the beginning of a line, or `otherwise`. */
static uint64_t find_number(const char *text, const char *key, uint64_t otherwise) {
    const size_t n_key = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, n_key) == 0) return strtoull(line + n_key, NULL, 10);
    }
    return otherwise;
}

/* ---- CPU ---- */

static uint64_t speed_of(const char *folder, int32_t cpu) {
    char path[MAX_PATH];
    const int n = snprintf(path, sizeof path, "%s/cpu%d", folder, cpu);
    if (n < 0 || n >= MAX_PATH) return 0;
    uint64_t speed = read_number(path, "cpu_capacity");
    if (speed == UINT64_MAX) speed = read_number(path, "cpufreq/cpuinfo_max_freq");
    return speed == UINT64_MAX ? 0 : speed;
}

int32_t es2s_fast_cpus(const char *folder, es2s_cpus *cpus_out) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
    uint64_t speeds[ES2S_MAX_CPUS] = {0}, fastest = 0;
    for (int32_t cpu = 0; cpu < ES2S_MAX_CPUS; cpu++) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        speeds[cpu] = speed_of(folder, cpu);
        if (speeds[cpu] > fastest) fastest = speeds[cpu];
    }
    *cpus_out = (es2s_cpus){0};
    int32_t n_fast = 0;
    for (int32_t cpu = 0; cpu < ES2S_MAX_CPUS && fastest > 0; cpu++) {
        if (speeds[cpu] < fastest - fastest / 5) continue;
        cpus_out->bits[cpu / 64] |= (uint64_t)1 << cpu % 64;
        n_fast++;
    }
    return n_fast;
}

bool es2s_thread_keep_to(const es2s_cpus *cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int32_t cpu = 0; cpu < ES2S_MAX_CPUS; cpu++)
        if (cpus->bits[cpu / 64] >> cpu % 64 & 1) CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0; /* 0: the calling thread */
}

/* ---- memory ---- */

/* What a control group has left of its limit. Cached pages of files count as used there, and are given back
 * before the limit is reached. */
static uint64_t left_in_group(const char *folder, bool is_v2) {
    const uint64_t limit = read_number(folder, is_v2 ? "memory.max" : "memory.limit_in_bytes");
    const uint64_t used = read_number(folder, is_v2 ? "memory.current" : "memory.usage_in_bytes");
    if (limit == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX;
    char path[MAX_PATH], text[MAX_TEXT];
    const int n = snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (n < 0 || n >= MAX_PATH || !read_text(path, text, sizeof text)) text[0] = '\0';
    uint64_t cached = find_number(text, is_v2 ? "inactive_file " : "total_inactive_file ", 0);
    cached += find_number(text, is_v2 ? "active_file " : "total_active_file ", 0);
    const uint64_t kept = used > cached ? used - cached : 0;
    return limit > kept ? limit - kept : 0;
}

/* The least that the groups from `path` up have left. A container may see its own group as the topmost one.
 */
static uint64_t left_in_groups(const char *root, char *path, bool is_v2) {
    uint64_t left = UINT64_MAX;
    for (;;) {
        char folder[MAX_PATH];
        const char *const mount = is_v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
        const int n = snprintf(folder, sizeof folder, "%s%s%s", root, mount, path);
        if (n >= 0 && n < MAX_PATH) {
            const uint64_t here = left_in_group(folder, is_v2);
            if (here < left) left = here;
        }
        char *const last = strrchr(path, '/');
        if (!last) return left;
        *last = '\0';
    }
}

/* Whether a comma-separated list has this word. */
static bool has_word(const char *list, const char *word) {
    const size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n)
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == '\0')) return true;
    return false;
}

uint64_t es2s_available_memory(const char *root) {
    char path[MAX_PATH], text[MAX_TEXT];
    if (!root) root = "";
    uint64_t left = UINT64_MAX;
    int n = snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (n >= 0 && n < MAX_PATH && read_text(path, text, sizeof text)) {
        const uint64_t kib = find_number(text, "MemAvailable:", UINT64_MAX);
        if (kib < UINT64_MAX / 1024) left = kib * 1024;
    }
    n = snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (n < 0 || n >= MAX_PATH || !read_text(path, text, sizeof text)) return left;
    for (char *line = text, *next; line; line = next) { /* id:controllers:path */
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        char *const controllers = strchr(line, ':');
        char *const group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group = '\0';
        const bool is_v2 = controllers[1] == '\0';
        if (!is_v2 && !has_word(controllers + 1, "memory")) continue;
        const uint64_t here = left_in_groups(root, group + 1, is_v2);
        if (here < left) left = here;
    }
    return left;
}

void es2s_release_memory(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

void es2s_prefer_huge_pages(void *block, size_t size) {
    madvise(block, size, MADV_HUGEPAGE);
}

/* Whole pages only: their neighbours may be needed. */
void es2s_mapping_let_go(const void *data, size_t size) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data;
    const uintptr_t first = (begin + page - 1) / page * page, end = (begin + size) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
}

#else

int32_t es2s_fast_cpus(const char *folder, es2s_cpus *cpus_out) {
    (void)folder;
    *cpus_out = (es2s_cpus){0};
    return 0;
}

bool es2s_thread_keep_to(const es2s_cpus *cpus) {
    (void)cpus;
    return false;
}

uint64_t es2s_available_memory(const char *root) {
    (void)root;
    return UINT64_MAX;
}

void es2s_release_memory(void) {
}

void es2s_prefer_huge_pages(void *block, size_t size) {
    (void)block;
    (void)size;
}

void es2s_mapping_let_go(const void *data, size_t size) {
    (void)data;
    (void)size;
}

#endif
