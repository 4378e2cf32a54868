#pragma once
/* Of no layout that a run would need: nothing here is run. */
struct stat {
    unsigned st_mode;
    long long st_size;
};
#define S_ISREG(mode) (((mode)&0170000) == 0100000)
#define S_ISDIR(mode) (((mode)&0170000) == 0040000)
int stat(const char *path, struct stat *st);
int fstat(int fd, struct stat *st);
