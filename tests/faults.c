/* Preloaded into a process: counts its file operations below a folder, and at the n-th kills the
   process, half of what it writes written, or lets the operation fail with an errno.

       cc -shared -fPIC -o faults.so faults.c -ldl

   Operations: open for writing, write, truncate, allocate, fsync, rename, link, unlink, mkdir, rmdir.
   Of writes to one file in a row, every `stride`-th counts, the first first: a Parquet file has hundreds. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t folder_length;
static long counted, the_nth;
static int the_errno; /* 0: kill */
static int last_fd, stride = 1;
static long in_a_row;

/* Begin to count below `path`; at the `nth` operation (0: never) fail with `error`, or die. */
void arm(const char *path, long nth, int error, int of_writes) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    counted = 0;
    the_nth = nth;
    the_errno = error;
    stride = of_writes;
    last_fd = -1;
}

long operations(void) { return counted; }

static int is_below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length);
}

static int is_below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!folder_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(path);
}

static int is_below_at(int fd, const char *path) {
    return path[0] == '/' || fd == AT_FDCWD ? is_below(path) : is_below_fd(fd);
}

/* `fd`: of the file written to; -1: it is another operation. */
static int is_the_nth(int fd) {
    in_a_row = fd >= 0 && fd == last_fd ? in_a_row + 1 : 0;
    last_fd = fd;
    if (in_a_row % stride) return 0;
    return __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST) == the_nth;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define DIE() (kill(getpid(), SIGKILL), pause())
#define FAIL_IF(condition, fd, half)                                                             \
    if ((condition) && is_the_nth(fd)) {                                                         \
        if (!the_errno) {                                                                          \
            half;                                                                                  \
            DIE();                                                                                 \
        }                                                                                          \
        errno = the_errno;                                                                         \
        return -1;                                                                                 \
    }
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND))
#define MODE(flags)                                                                                \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                       \
        va_list arguments;                                                                         \
        va_start(arguments, flags);                                                                \
        mode = va_arg(arguments, int);                                                             \
        va_end(arguments);                                                                         \
    }
#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        MODE(flags)                                                                                \
        FAIL_IF(WRITES(flags) && is_below(path), -1, )                                         \
        return REAL(name)(path, flags, mode);                                                      \
    }
#define OPENAT(name)                                                                               \
    int name(int fd, const char *path, int flags, ...) {                                           \
        MODE(flags)                                                                                \
        FAIL_IF(WRITES(flags) && is_below_at(fd, path), -1, )                                  \
        return REAL(name)(fd, path, flags, mode);                                                  \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    FAIL_IF(is_below_fd(fd), fd, REAL(write)(fd, data, size / 2))
    return REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    FAIL_IF(is_below_fd(fd), fd, REAL(pwrite)(fd, data, size / 2, at))
    return REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    FAIL_IF(is_below_fd(fd), fd, REAL(pwrite64)(fd, data, size / 2, at))
    return REAL(pwrite64)(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
    FAIL_IF(is_below_fd(fd), fd, )
    return REAL(writev)(fd, data, count);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    FAIL_IF(is_below_fd(to), to, REAL(sendfile)(to, from, at, size > 16 ? 16 : size))
    return REAL(sendfile)(to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    FAIL_IF(is_below_fd(to), to, REAL(sendfile64)(to, from, at, size > 16 ? 16 : size))
    return REAL(sendfile64)(to, from, at, size);
}
int ftruncate(int fd, off_t size) {
    FAIL_IF(is_below_fd(fd), -1, )
    return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    FAIL_IF(is_below_fd(fd), -1, )
    return REAL(ftruncate64)(fd, size);
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    FAIL_IF(is_below_fd(fd), -1, )
    return REAL(fallocate)(fd, mode, at, size);
}
int fsync(int fd) {
    FAIL_IF(is_below_fd(fd), -1, )
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    FAIL_IF(is_below_fd(fd), -1, )
    return REAL(fdatasync)(fd);
}
int rename(const char *from, const char *to) {
    FAIL_IF(is_below(to), -1, )
    return REAL(rename)(from, to);
}
int renameat(int f, const char *from, int t, const char *to) {
    FAIL_IF(is_below_at(t, to), -1, )
    return REAL(renameat)(f, from, t, to);
}
int link(const char *from, const char *to) {
    FAIL_IF(is_below(to), -1, )
    return REAL(link)(from, to);
}
int symlink(const char *from, const char *to) {
    FAIL_IF(is_below(to), -1, )
    return REAL(symlink)(from, to);
}
int unlink(const char *path) {
    FAIL_IF(is_below(path), -1, )
    return REAL(unlink)(path);
}
int unlinkat(int fd, const char *path, int flags) {
    FAIL_IF(is_below_at(fd, path), -1, )
    return REAL(unlinkat)(fd, path, flags);
}
int mkdir(const char *path, mode_t mode) {
    FAIL_IF(is_below(path), -1, )
    return REAL(mkdir)(path, mode);
}
int mkdirat(int fd, const char *path, mode_t mode) {
    FAIL_IF(is_below_at(fd, path), -1, )
    return REAL(mkdirat)(fd, path, mode);
}
int rmdir(const char *path) {
    FAIL_IF(is_below(path), -1, )
    return REAL(rmdir)(path);
}
