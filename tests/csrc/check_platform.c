/* What Linux tells about cores and memory, from trees of files as its systems have them. */
#ifdef __linux__
#define _GNU_SOURCE
#include <sched.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check_status.h"
#include "platform.h"
#include "thread_pool.h"

static char root[] = "/tmp/es2s_platform_XXXXXX";

/* Writes root/path, with the folders that it needs. */
static void put(const char *path, const char *text) {
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *slash = whole + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(whole, 0700);
        *slash = '/';
    }
    FILE *const file = fopen(whole, "w");
    CHECK(file != NULL);
    if (!file) return;
    fputs(text, file);
    fclose(file);
}

/* A tree of its own for each test. */
static void start(void) {
    strcpy(root, "/tmp/es2s_platform_XXXXXX");
    CHECK(mkdtemp(root) != NULL);
}

static void finish(void) {
    char command[600];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    CHECK(system(command) == 0);
}

enum { MIB = 1 << 20 };

static void memory_is_what_the_system_has(void) {
    start();
    CHECK(es2s_available_memory(root) == UINT64_MAX); /* nobody tells */
    put("proc/meminfo", "MemTotal:  1000000 kB\nMemFree: 1 kB\nMemAvailable:     2048 kB\nBuffers: 9 kB\n");
    CHECK(es2s_available_memory(root) == 2 * MIB);
    put("proc/meminfo", "MemTotal:  1000000 kB\nMemAvailable: ?\n");
    CHECK(es2s_available_memory(root) == 0);
    put("proc/meminfo", "");
    CHECK(es2s_available_memory(root) == UINT64_MAX);
    finish();
}

static void groups_of_version_2_limit_it_and_give_cached_files_back(void) {
    start();
    put("proc/meminfo", "MemAvailable: 1048576 kB\n");
    put("proc/self/cgroup", "0::/user.slice/app.scope\n");
    const char *const top = "sys/fs/cgroup/user.slice";
    char path[256];
    snprintf(path, sizeof path, "%s/app.scope/memory.max", top);
    put(path, "max\n");
    snprintf(path, sizeof path, "%s/app.scope/memory.current", top);
    put(path, "4096\n");
    CHECK(es2s_available_memory(root) == (uint64_t)1024 * MIB); /* no limit */
    snprintf(path, sizeof path, "%s/memory.max", top);
    put(path, "402653184\n"); /* 384 MiB, of the group above */
    snprintf(path, sizeof path, "%s/memory.current", top);
    put(path, "314572800\n"); /* 300 MiB */
    CHECK(es2s_available_memory(root) == (uint64_t)84 * MIB);
    snprintf(path, sizeof path, "%s/memory.stat", top);
    put(path, "anon 1\nfile 7\ninactive_file 104857600\nactive_file 52428800\n"); /* 100 and 50 MiB */
    CHECK(es2s_available_memory(root) == (uint64_t)234 * MIB);
    snprintf(path, sizeof path, "%s/memory.current", top);
    put(path, "943718400\n"); /* more than the limit, as after it was lowered */
    CHECK(es2s_available_memory(root) == 0);
    finish();
}

static void groups_of_version_1_do_so_too_also_where_a_container_hides_their_path(void) {
    start();
    put("proc/meminfo", "MemAvailable: 1048576 kB\n");
    put("proc/self/cgroup", "5:devices:/x\n4:cpu,memory:/docker/abc\n3:memoryless:/y\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "402653184\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "209715200\n");
    put("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 10485760\n");
    CHECK(es2s_available_memory(root) == (uint64_t)194 * MIB);
    put("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "104857600\n");
    put("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "52428800\n");
    CHECK(es2s_available_memory(root) == (uint64_t)50 * MIB);
    put("proc/self/cgroup", "4:memory\nnonsense\n:\n");
    CHECK(es2s_available_memory(root) == (uint64_t)1024 * MIB);
    finish();
}

static void a_heap_that_was_released_serves_on(void) {
    char *kept = malloc(100);
    CHECK(kept != NULL);
    strcpy(kept, "kept");
    for (size_t n = 0; n < 1000; n++) /* both sizes that a heap has in it and those that the system is asked for */
        free(malloc(n * 1000));
    es2s_release_memory();
    CHECK(strcmp(kept, "kept") == 0);
    free(kept);
}

static void what_is_needed_is_compared_with_what_is_left(void) {
    CHECK(es2s_available_memory(NULL) > MIB);
    SUCCEEDS(es2s_check_memory("model", 1000));
    SUCCEEDS(es2s_check_memory("model", MIB));
    if (es2s_available_memory(NULL) == UINT64_MAX) return;
    REFUSES(ES2S_OUT_OF_MEMORY, "session: needs 4194305 MiB of memory, ",
            es2s_check_memory("session", (uint64_t)1 << 42));
    CHECK(strstr(es2s_last_error(), " MiB are left") != NULL);
}

#ifdef __linux__
static int32_t fast_of(const char *name, const char *const *speeds, es2s_cpus *cpus) {
    start();
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    int32_t i = 0;
    for (int32_t cpu = 0; cpu < ES2S_MAX_CPUS; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || !speeds[i]) continue;
        char path[256];
        snprintf(path, sizeof path, "cpu%d/%s", cpu, name);
        put(path, speeds[i++]);
    }
    const int32_t n = es2s_fast_cpus(root, cpus);
    finish();
    return n;
}

/* This machine may have one core: the second speed is then not there. */
static void fast_cores_are_found_by_capacity_or_frequency(void) {
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    const bool has_two = CPU_COUNT(&allowed) >= 2;
    es2s_cpus cpus;
    const char *const big_little[] = {"1024\n", "446\n", NULL}, *const near[] = {"1000\n", "800\n", NULL};
    const char *const nonsense[] = {"fast\n", "\n", NULL};
    CHECK(fast_of("cpu_capacity", big_little, &cpus) == 1);
    CHECK(fast_of("cpufreq/cpuinfo_max_freq", big_little, &cpus) == 1);
    CHECK(fast_of("cpu_capacity", near, &cpus) == (has_two ? 2 : 1));
    CHECK(fast_of("cpu_capacity", nonsense, &cpus) == 0);
    CHECK(es2s_fast_cpus("/nowhere", &cpus) == 0);
}

typedef struct seen {
    int32_t n_cpus[3];
} seen;

/* That it is no longer in memory, tests/test_memory.py sees: emulators do not do as they are told. */
static void a_mapping_that_was_let_go_is_read_again(void) {
    start();
    char text[20001], path[600];
    for (size_t i = 0; i < sizeof text - 1; i++)
        text[i] = (char)('a' + i % 23);
    text[sizeof text - 1] = '\0';
    put("file", text);
    snprintf(path, sizeof path, "%s/file", root);
    es2s_mapping file = {0};
    SUCCEEDS(es2s_file_map(path, &file));
    CHECK(file.size == sizeof text - 1);
    const uint8_t *const data = file.data;
    static const size_t PARTS[][2] = {{0, 0}, {0, 1}, {1, 19999}, {4096, 8192}, {5000, 100}, {0, 20000}};
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS && data; i++) {
        es2s_mapping_let_go(data + PARTS[i][0], PARTS[i][1]);
        CHECK(memcmp(data, text, file.size) == 0);
    }
    es2s_file_unmap(&file);
    finish();
}

static void look(void *arg, int32_t item, int32_t thread) {
    (void)item;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) ((seen *)arg)->n_cpus[thread] = CPU_COUNT(&set);
    for (int64_t end = es2s_clock_ns() + 100000; es2s_clock_ns() < end;) /* so that others get an item, too */
        es2s_thread_yield();
}

static void workers_keep_to_the_cores_that_they_are_given_and_the_caller_does_not(void) {
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    es2s_cpus one = {0};
    int32_t cpu = 0;
    while (!CPU_ISSET(cpu, &allowed))
        cpu++;
    one.bits[cpu / 64] = (uint64_t)1 << cpu % 64;
    es2s_thread_pool *const pool = es2s_thread_pool_try_acquire(es2s_thread_pool_create(3, &one));
    CHECK(pool != NULL);
    seen s = {{0}};
    for (int i = 0; i < 2000 && (s.n_cpus[1] == 0 || s.n_cpus[2] == 0); i++)
        es2s_thread_pool_run(pool, look, &s, 30);
    CHECK(s.n_cpus[0] == CPU_COUNT(&allowed));
    CHECK(s.n_cpus[1] == 1 && s.n_cpus[2] == 1);
    es2s_thread_pool_free(pool);
    const es2s_cpus none = {0};
    CHECK(!es2s_thread_keep_to(&none)); /* and nothing has changed */
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0 && s.n_cpus[0] == CPU_COUNT(&allowed));
}
#endif

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"memory_is_what_the_system_has", memory_is_what_the_system_has, 0},
        {"groups_of_version_2_limit_it_and_give_cached_files_back",
         groups_of_version_2_limit_it_and_give_cached_files_back, 0},
        {"groups_of_version_1_do_so_too_also_where_a_container_hides_their_path",
         groups_of_version_1_do_so_too_also_where_a_container_hides_their_path, 0},
        {"a_heap_that_was_released_serves_on", a_heap_that_was_released_serves_on, 0},
        {"what_is_needed_is_compared_with_what_is_left", what_is_needed_is_compared_with_what_is_left, 0},
#ifdef __linux__
        {"fast_cores_are_found_by_capacity_or_frequency", fast_cores_are_found_by_capacity_or_frequency, 0},
        {"a_mapping_that_was_let_go_is_read_again", a_mapping_that_was_let_go_is_read_again, 0},
        {"workers_keep_to_the_cores_that_they_are_given_and_the_caller_does_not",
         workers_keep_to_the_cores_that_they_are_given_and_the_caller_does_not, 0},
#endif
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
