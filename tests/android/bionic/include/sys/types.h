#pragma once
typedef long off_t; /* as in bionic: 32 bits in a 32-bit process */
#ifdef __LP64__
typedef long ssize_t;
#else
typedef int ssize_t;
#endif
typedef int pid_t;
