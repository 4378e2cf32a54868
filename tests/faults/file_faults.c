/*
 * A shared object to preload: makes the k-th file-system call below one folder fail, stop half-way or kill
 * the process, and writes down what every call did.
 *
 *     cc -shared -fPIC -o file_faults.so file_faults.c -ldl
 *     faults_arm("/the/folder", log_fd, k, FAULT_ERROR, ENOSPC)    through ctypes, in the process itself
 *
 * The log has one line a call that changes the disk, for a simulated power cut:
 *     create PATH | mkdir PATH | write PATH N_BYTES | fsync PATH | rename FROM TO | unlink PATH | rmdir PATH
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FAULT_NONE, FAULT_ERROR, FAULT_SHORT, FAULT_KILL };

static struct {
    char root[PATH_MAX];
    size_t root_len; /* 0: not armed */
    int log_fd;      /* -1: no log */
    int n_calls, fault_at, fault, error;
    const char *hit; /* the call that a fault hit, or NULL */
} faults = {.log_fd = -1};

void faults_arm(const char *root, int log_fd, int fault_at, int fault, int error);
int faults_n_calls(void);
const char *faults_hit(void);

void faults_arm(const char *root, int log_fd, int fault_at, int fault, int error) {
    snprintf(faults.root, sizeof faults.root, "%s", root);
    faults.root_len = strlen(faults.root);
    faults.log_fd = log_fd;
    faults.fault_at = fault_at;
    faults.fault = fault;
    faults.error = error;
    faults.n_calls = 0;
    faults.hit = NULL;
}

int faults_n_calls(void) {
    return faults.n_calls;
}

const char *faults_hit(void) {
    return faults.hit;
}

/* ---- which calls count ---- */

static int is_below(const char *path) {
    return faults.root_len != 0 && path && strncmp(path, faults.root, faults.root_len) == 0;
}

/* The path of a descriptor, in `path`; whether it is below the folder. */
static int path_of(int fd, char path[PATH_MAX]) {
    if (faults.root_len == 0 || fd < 0) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = '\0';
    return is_below(path);
}

/* The same for a path relative to a directory that is open. */
static int path_at(int dir_fd, const char *path, char out[PATH_MAX]) {
    if (faults.root_len == 0 || !path) return 0;
    if (path[0] == '/' || dir_fd == AT_FDCWD) {
        snprintf(out, PATH_MAX, "%s", path);
        return is_below(out);
    }
    char folder[PATH_MAX];
    if (!path_of(dir_fd, folder)) return 0;
    const int n = snprintf(out, PATH_MAX, "%s/%s", folder, path);
    return n > 0 && n < PATH_MAX;
}

/* ---- what happens to them ---- */

/* Counts a call. Whether it has to fail; errno is set then. */
static int fails(const char *call) {
    if (faults.n_calls++ != faults.fault_at || faults.fault == FAULT_SHORT) return 0;
    if (faults.fault == FAULT_KILL) kill(getpid(), SIGKILL);
    if (faults.fault != FAULT_ERROR) return 0;
    faults.hit = call;
    errno = faults.error;
    return 1;
}

/* Of a call that was just counted: how much of `size` bytes it may move. */
static size_t allowed(const char *call, size_t size) {
    if (faults.n_calls - 1 != faults.fault_at || faults.fault != FAULT_SHORT || size < 2) return size;
    faults.hit = call;
    return size / 2;
}

static void write_down(const char *what, const char *path, const char *more) {
    if (faults.log_fd < 0) return;
    char line[2 * PATH_MAX + 32];
    const int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", what, path, more);
    const int saved = errno;
    dprintf(faults.log_fd, "%.*s", n, line); /* its own write is not below the folder */
    errno = saved;
}

#define REAL(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

static int open_counted(int dir_fd, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    const int counts = path_at(dir_fd, path, full);
    if (counts && fails("open")) return -1;
    const int is_new = counts && (flags & O_CREAT) && faccessat(dir_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    const int fd = REAL(openat64, dir_fd, path, flags, mode);
    if (fd >= 0 && is_new) write_down("create", full, "");
    return fd;
}

#define MODE(flags, mode)                                                                                    \
    do {                                                                                                     \
        if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                             \
            va_list list;                                                                                    \
            va_start(list, flags);                                                                           \
            mode = va_arg(list, mode_t);                                                                     \
            va_end(list);                                                                                    \
        }                                                                                                    \
    } while (0)

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode);
    return open_counted(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode);
    return open_counted(AT_FDCWD, path, flags, mode);
}

int openat(int dir_fd, const char *path, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode);
    return open_counted(dir_fd, path, flags, mode);
}

int openat64(int dir_fd, const char *path, int flags, ...) {
    mode_t mode = 0;
    MODE(flags, mode);
    return open_counted(dir_fd, path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX], n_bytes[32];
    const int counts = path_of(fd, path);
    if (counts && fails("write")) return -1;
    const ssize_t n = REAL(write, fd, data, counts ? allowed("write", size) : size);
    if (counts && n >= 0) {
        snprintf(n_bytes, sizeof n_bytes, "%zd", n);
        write_down("write", path, n_bytes);
    }
    return n;
}

ssize_t read(int fd, void *data, size_t size) {
    char path[PATH_MAX];
    const int counts = path_of(fd, path);
    if (counts && fails("read")) return -1;
    return REAL(read, fd, data, counts ? allowed("read", size) : size);
}

int fsync(int fd) {
    char path[PATH_MAX];
    const int counts = path_of(fd, path);
    if (counts && fails("fsync")) return -1;
    const int result = REAL(fsync, fd);
    if (counts && result == 0) write_down("fsync", path, "");
    return result;
}

/* A call with one path that changes the disk. */
#define ONE_PATH(what, path, call)                                                                           \
    do {                                                                                                     \
        const int counts = is_below(path);                                                                   \
        if (counts && fails(what)) return -1;                                                                \
        const int result = call;                                                                             \
        if (counts && result == 0) write_down(what, path, "");                                               \
        return result;                                                                                       \
    } while (0)

int mkdir(const char *path, mode_t mode) {
    ONE_PATH("mkdir", path, REAL(mkdir, path, mode));
}

int unlink(const char *path) {
    ONE_PATH("unlink", path, REAL(unlink, path));
}

int rmdir(const char *path) {
    ONE_PATH("rmdir", path, REAL(rmdir, path));
}

int rename(const char *from, const char *to) {
    const int counts = is_below(from) || is_below(to);
    if (counts && fails("rename")) return -1;
    const int result = REAL(rename, from, to);
    if (counts && result == 0) write_down("rename", from, to);
    return result;
}

/* ---- calls that only look ---- */

int stat64(const char *path, struct stat64 *out) {
    return is_below(path) && fails("stat") ? -1 : REAL(stat64, path, out);
}

int lstat64(const char *path, struct stat64 *out) {
    return is_below(path) && fails("lstat") ? -1 : REAL(lstat64, path, out);
}

int fstat64(int fd, struct stat64 *out) {
    char path[PATH_MAX];
    return path_of(fd, path) && fails("fstat") ? -1 : REAL(fstat64, fd, out);
}

int fstat(int fd, struct stat *out) {
    char path[PATH_MAX];
    return path_of(fd, path) && fails("fstat") ? -1 : REAL(fstat, fd, out);
}

/* Only what copies a descriptor. */
int fcntl64(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *); /* an integer fits as well */
    va_end(list);
    char path[PATH_MAX];
    if (command == F_DUPFD_CLOEXEC && path_of(fd, path) && fails("dup")) return -1;
    return REAL(fcntl64, fd, command, argument);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    char path[PATH_MAX];
    if (path_of(fd, path) && fails("mmap")) return MAP_FAILED;
    return REAL(mmap, address, size, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
    char path[PATH_MAX];
    if (path_of(fd, path) && fails("mmap")) return MAP_FAILED;
    return REAL(mmap64, address, size, protection, flags, fd, offset);
}

DIR *opendir(const char *path) {
    return is_below(path) && fails("opendir") ? NULL : REAL(opendir, path);
}
