/* File operations that fail or kill on demand, for LD_PRELOAD; benchmarks/faults.py uses it.

   Operations on paths under a folder are counted once `faults_arm` was called; the one with the number
   asked for fails with `error`, or if that is 0 kills the process, a write after half of its bytes. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long count = 0, target = -1;
static int failure = 0, log_fd = -1;

void faults_arm(const char *under, long number, int error, int log) {
    strncpy(folder, under, sizeof folder - 1);
    count = 0, target = number, failure = error, log_fd = log;
}

long faults_count(void) { return count; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_ours(const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int at(int dir, const char *path, char *whole) {
    if (!folder[0]) return 0;
    if (path[0] == '/' || dir == AT_FDCWD) return strncpy(whole, path, PATH_MAX - 1), is_ours(path);
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, whole, PATH_MAX - 1);
    if (n < 0) return 0;
    whole[n] = 0;
    if (path[0]) strncat(whole, "/", PATH_MAX - n - 1), strncat(whole, path, PATH_MAX - n - 2);
    return is_ours(whole);
}

/* 1: this operation is to fail; errno is set. */
static int hit(const char *what, const char *path, int fd, const void *bytes, size_t size) {
    long number = count++;
    if (log_fd >= 0) dprintf(log_fd, "%ld %s %s\n", number, what, path + strlen(folder));
    if (number != target) return 0;
    if (failure) return errno = failure, 1;
    if (bytes && size > 1) (void)!REAL(write)(fd, bytes, size / 2);
    kill(getpid(), SIGKILL);
    return 1;
}

#define FAIL_AT(dir, path, what) \
    do { char whole[PATH_MAX] = ""; if (at(dir, path, whole) && hit(what, whole, -1, 0, 0)) return -1; } while (0)
#define FAIL_FD(fd, what, bytes, size) \
    do { char whole[PATH_MAX] = ""; if (at(fd, "", whole) && hit(what, whole, fd, bytes, size)) return -1; } while (0)
#define MODE \
    mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, mode_t); va_end(l); }

int open(const char *path, int flags, ...) { MODE; FAIL_AT(AT_FDCWD, path, "open"); return REAL(open)(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; FAIL_AT(AT_FDCWD, path, "open"); return REAL(open64)(path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE; FAIL_AT(dir, path, "open"); return REAL(openat)(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE; FAIL_AT(dir, path, "open"); return REAL(openat64)(dir, path, flags, mode); }
static int fopen_fails(const char *path) { FAIL_AT(AT_FDCWD, path, "fopen"); return 0; }
FILE *fopen(const char *path, const char *mode) { return fopen_fails(path) ? NULL : REAL(fopen)(path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fopen_fails(path) ? NULL : REAL(fopen64)(path, mode); }
ssize_t write(int fd, const void *bytes, size_t size) { FAIL_FD(fd, "write", bytes, size); return REAL(write)(fd, bytes, size); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t to) { FAIL_FD(fd, "pwrite", 0, 0); return REAL(pwrite)(fd, bytes, size, to); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t to) { FAIL_FD(fd, "pwrite", 0, 0); return REAL(pwrite64)(fd, bytes, size, to); }
ssize_t writev(int fd, const struct iovec *parts, int n) { FAIL_FD(fd, "writev", n ? parts->iov_base : 0, n ? parts->iov_len : 0); return REAL(writev)(fd, parts, n); }
int ftruncate(int fd, off_t size) { FAIL_FD(fd, "ftruncate", 0, 0); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { FAIL_FD(fd, "ftruncate", 0, 0); return REAL(ftruncate64)(fd, size); }
int fsync(int fd) { FAIL_FD(fd, "fsync", 0, 0); return REAL(fsync)(fd); }
int fdatasync(int fd) { FAIL_FD(fd, "fsync", 0, 0); return REAL(fdatasync)(fd); }
int rename(const char *from, const char *to) { FAIL_AT(AT_FDCWD, to, "rename"); return REAL(rename)(from, to); }
int renameat(int d, const char *from, int e, const char *to) { FAIL_AT(e, to, "rename"); return REAL(renameat)(d, from, e, to); }
int unlink(const char *path) { FAIL_AT(AT_FDCWD, path, "unlink"); return REAL(unlink)(path); }
int unlinkat(int dir, const char *path, int flags) { FAIL_AT(dir, path, "unlink"); return REAL(unlinkat)(dir, path, flags); }
int rmdir(const char *path) { FAIL_AT(AT_FDCWD, path, "rmdir"); return REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { FAIL_AT(AT_FDCWD, path, "mkdir"); return REAL(mkdir)(path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { FAIL_AT(dir, path, "mkdir"); return REAL(mkdirat)(dir, path, mode); }
