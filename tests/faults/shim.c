/* System calls that fail: LD_PRELOAD this, then call fault_arm(). Calls on files below a folder are counted; one of them fails.
 *
 * kind 0: nothing fails, calls are listed      kind 1: ENOSPC, and so does every later call that takes room
 * kind 2: EIO                                  kind 3: EINTR, once
 * kind 4: half of what was asked for (reads and writes)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, FULL, BROKEN, INTERRUPTED, HALF };
enum { TAKES_ROOM = 1, INTERRUPTIBLE = 2, DIVISIBLE = 4 };

static char folder[PATH_MAX];
static int kind = NOTHING, log_file = -1;
static long wanted;
static atomic_long seen;
static atomic_int full;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void fault_arm(const char *below, long at, int how, int log) {
    strncpy(folder, below, sizeof folder - 1);
    wanted = at;
    kind = how;
    log_file = log;
    seen = 0;
    full = 0;
}

/* Whether this call fails: 0, an error number, or -1 for half of it. */
static int fault(const char *name, const char *path, int what) {
    if (!folder[0] || !path || strncmp(path, folder, strlen(folder)) != 0) return 0;
    long number = ++seen;
    if (log_file >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path + strlen(folder));
        if (REAL(write)(log_file, line, length) < 0) abort();
    }
    if (kind == FULL && (full || number == wanted) && (what & TAKES_ROOM)) {
        full = 1;
        return ENOSPC;
    }
    if (number != wanted) return 0;
    if (kind == BROKEN) return EIO;
    if (kind == INTERRUPTED && (what & INTERRUPTIBLE)) return EINTR;
    if (kind == HALF && (what & DIVISIBLE)) return -1;
    return 0;
}

static int fault_of(const char *name, int file, int what) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fault(name, path, what);
}

#define FAIL(found) do { if (found > 0) { errno = found; return -1; } } while (0)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        int found = fault("open", path, INTERRUPTIBLE | (flags & O_CREAT ? TAKES_ROOM : 0)); FAIL(found); \
        return REAL(name)(path, flags, mode); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        int found = fault("openat", path, INTERRUPTIBLE | (flags & O_CREAT ? TAKES_ROOM : 0)); FAIL(found); \
        return REAL(name)(at, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int file, void *to, size_t size) {
    int found = fault_of("read", file, INTERRUPTIBLE | DIVISIBLE); FAIL(found);
    return REAL(read)(file, to, found < 0 ? (size + 1) / 2 : size);
}

ssize_t write(int file, const void *from, size_t size) {
    int found = fault_of("write", file, INTERRUPTIBLE | DIVISIBLE | TAKES_ROOM); FAIL(found);
    return REAL(write)(file, from, found < 0 ? (size + 1) / 2 : size);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int file, const void *from, size_t size, offset_type at) { \
        int found = fault_of("pwrite", file, INTERRUPTIBLE | DIVISIBLE | TAKES_ROOM); FAIL(found); \
        return REAL(name)(file, from, found < 0 ? (size + 1) / 2 : size, at); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PREADV(name, offset_type) \
    ssize_t name(int file, const struct iovec *parts, int count, offset_type at) { \
        int found = fault_of("preadv", file, INTERRUPTIBLE | DIVISIBLE); FAIL(found); \
        struct iovec first = parts[0]; \
        if (found < 0) first.iov_len = (first.iov_len + 1) / 2; \
        return REAL(name)(file, found < 0 ? &first : parts, found < 0 ? 1 : count, at); }
PREADV(preadv, off_t)
PREADV(preadv64, off64_t)

int fsync(int file) {
    int found = fault_of("fsync", file, INTERRUPTIBLE | TAKES_ROOM); FAIL(found);
    return REAL(fsync)(file);
}

#define TRUNCATE(name, offset_type) \
    int name(int file, offset_type size) { \
        int found = fault_of("ftruncate", file, INTERRUPTIBLE | TAKES_ROOM); FAIL(found); \
        return REAL(name)(file, size); }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

/* Answers with the error's number, and errno is not set. */
#define ALLOCATE(name, offset_type) \
    int name(int file, offset_type at, offset_type size) { \
        int found = fault_of("fallocate", file, INTERRUPTIBLE | TAKES_ROOM); \
        return found > 0 ? found : REAL(name)(file, at, size); }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

int rename(const char *from, const char *to) {
    int found = fault("rename", from, TAKES_ROOM); FAIL(found);
    return REAL(rename)(from, to);
}

int link(const char *from, const char *to) {
    int found = fault("link", from, TAKES_ROOM); FAIL(found);
    return REAL(link)(from, to);
}

int unlink(const char *path) {
    int found = fault("unlink", path, 0); FAIL(found);
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    int found = fault("mkdir", path, TAKES_ROOM); FAIL(found);
    return REAL(mkdir)(path, mode);
}
