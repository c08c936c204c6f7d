/* Makes one system call fail, fall short, or be the process's last, among those on files below one folder.
 *
 * Preloaded; it passes everything through until it is armed: by fault_arm() from the process itself, or in a program that
 * is started, by FAULT="FOLDER|CALL|K|WHAT|STICKY|FIRED" in its environment.
 *   CALL   one of the names below, or "any"
 *   K      which of those calls, counted from 1; 0 only counts
 *   WHAT   a number of errno; -1: half of the bytes; -2: SIGKILL
 *   STICKY 1: all such calls from the K-th on, as a disk that stays full
 *   FIRED  a file outside of FOLDER that is created when it happens; where it exists already, nothing happens, so that of
 *          several processes one is hit
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { OPEN, WRITE, FSYNC, RENAME, UNLINK, FTRUNCATE, READ, MMAP, CLOSE, MKDIR, CALLS };
static const char *const names[CALLS] = {
    "open", "write", "fsync", "rename", "unlink", "ftruncate", "read", "mmap", "close", "mkdir"};
enum verdict { PASS, FAIL, SHORT };

static struct {
    char folder[PATH_MAX], fired[PATH_MAX];
    int call, what, sticky, hit, live;
    long k, all, each[CALLS];
} fault;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

void fault_arm(const char *folder, const char *call, long k, int what, int sticky, const char *fired)
{
    memset(&fault, 0, sizeof fault);
    snprintf(fault.folder, sizeof fault.folder, "%s", folder);
    snprintf(fault.fired, sizeof fault.fired, "%s", fired);
    fault.call = -1;
    for (int i = 0; i < CALLS; i++)
        if (!strcmp(call, names[i]))
            fault.call = i;
    fault.k = k;
    fault.what = what;
    fault.sticky = sticky;
    fault.live = 1;
}

void fault_disarm(void) { fault.live = 0; }

long fault_count(const char *call)
{
    for (int i = 0; i < CALLS; i++)
        if (!strcmp(call, names[i]))
            return fault.each[i];
    return fault.all;
}

__attribute__((constructor)) static void from_environment(void)
{
    const char *said = getenv("FAULT");
    if (!said)
        return;
    char folder[PATH_MAX], call[32], fired[PATH_MAX];
    long k;
    int what, sticky;
    if (sscanf(said, "%4095[^|]|%31[^|]|%ld|%d|%d|%4095[^|]", folder, call, &k, &what, &sticky, fired) == 6)
        fault_arm(folder, call, k, what, sticky, fired);
}

static int below(const char *path)
{
    char whole[2 * PATH_MAX];
    if (!path)
        return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here))
            return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    size_t n = strlen(fault.folder);
    return !strncmp(path, fault.folder, n) && (path[n] == '/' || !path[n]);
}

static int ours(int fd)
{
    char link[64], path[PATH_MAX];
    if (!fault.live || fd < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    return below(path);
}

static int named(int folder, const char *path)
{
    if (!fault.live || !path)
        return 0;
    return path[0] == '/' || folder == AT_FDCWD ? below(path) : ours(folder);
}

static int first_to_fire(void)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, fault.fired, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0)
        return 0;
    syscall(SYS_close, fd);
    return 1;
}

static enum verdict happens(enum call call)
{
    enum verdict verdict = PASS;
    pthread_mutex_lock(&guard);
    fault.all++;
    fault.each[call]++;
    long n = fault.call < 0 ? fault.all : fault.call == (int)call ? fault.each[call] : 0;
    if (fault.k && n && (n == fault.k || (fault.sticky && n > fault.k)) && (fault.hit || first_to_fire())) {
        fault.hit = 1;
        if (fault.what == -2)
            raise(SIGKILL);
        verdict = fault.what == -1 ? SHORT : FAIL;
    }
    pthread_mutex_unlock(&guard);
    if (verdict == FAIL)
        errno = fault.what;
    return verdict;
}

#define NEXT(name)                                                                                                     \
    static __typeof__(name) *next;                                                                                     \
    if (!next)                                                                                                         \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define TRY(condition, call, failed)                                                                                   \
    enum verdict verdict = (condition) ? happens(call) : PASS;                                                         \
    if (verdict == FAIL)                                                                                               \
    return failed
#define HALF(size)                                                                                                     \
    if (verdict == SHORT && (size) > 1)                                                                                \
    (size) /= 2

/* reading and writing */
#define BYTES(name, call, buffer, ...)                                                                                 \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        TRY(ours(fd), call, -1);                                                                                       \
        HALF(size);                                                                                                    \
        return next(fd, buffer, size, ##__VA_ARGS__);                                                                  \
    }
ssize_t write(int fd, const void *data, size_t size) BYTES(write, WRITE, data)
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) BYTES(pwrite, WRITE, data, at)
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) BYTES(pwrite64, WRITE, data, at)
ssize_t read(int fd, void *data, size_t size) BYTES(read, READ, data)
ssize_t pread(int fd, void *data, size_t size, off_t at) BYTES(pread, READ, data, at)
ssize_t pread64(int fd, void *data, size_t size, off64_t at) BYTES(pread64, READ, data, at)

/* several pieces: where it is to fall short, half of the first */
#define PIECES(name, call, ...)                                                                                        \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        TRY(ours(fd), call, -1);                                                                                       \
        if (verdict == SHORT && count && pieces[0].iov_len > 1) {                                                      \
            struct iovec half = {pieces[0].iov_base, pieces[0].iov_len / 2};                                           \
            return next(fd, &half, 1, ##__VA_ARGS__);                                                                  \
        }                                                                                                              \
        return next(fd, pieces, count, ##__VA_ARGS__);                                                                 \
    }
ssize_t writev(int fd, const struct iovec *pieces, int count) PIECES(writev, WRITE)
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) PIECES(pwritev, WRITE, at)
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at) PIECES(pwritev64, WRITE, at)
ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t at, int flags) PIECES(pwritev2, WRITE, at, flags)
ssize_t pwritev64v2(int fd, const struct iovec *pieces, int count, off64_t at, int flags)
    PIECES(pwritev64v2, WRITE, at, flags)
ssize_t readv(int fd, const struct iovec *pieces, int count) PIECES(readv, READ)
ssize_t preadv(int fd, const struct iovec *pieces, int count, off_t at) PIECES(preadv, READ, at)
ssize_t preadv64(int fd, const struct iovec *pieces, int count, off64_t at) PIECES(preadv64, READ, at)
ssize_t preadv2(int fd, const struct iovec *pieces, int count, off_t at, int flags) PIECES(preadv2, READ, at, flags)
ssize_t preadv64v2(int fd, const struct iovec *pieces, int count, off64_t at, int flags)
    PIECES(preadv64v2, READ, at, flags)
ssize_t sendfile(int fd, int from, off_t *at, size_t size)
{
    NEXT(sendfile);
    TRY(ours(fd), WRITE, -1);
    HALF(size);
    return next(fd, from, at, size);
}
ssize_t sendfile64(int fd, int from, off64_t *at, size_t size)
{
    NEXT(sendfile64);
    TRY(ours(fd), WRITE, -1);
    HALF(size);
    return next(fd, from, at, size);
}
ssize_t copy_file_range(int from, off64_t *start, int fd, off64_t *at, size_t size, unsigned flags)
{
    NEXT(copy_file_range);
    TRY(ours(fd), WRITE, -1);
    HALF(size);
    return next(from, start, fd, at, size, flags);
}
size_t fwrite(const void *data, size_t one, size_t size, FILE *file)
{
    NEXT(fwrite);
    TRY(fault.live && ours(fileno(file)), WRITE, 0);
    HALF(size);
    return next(data, one, size, file);
}

/* on the disk, sizes, the end */
#define SIMPLE(name, call)                                                                                             \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        TRY(ours(fd), call, -1);                                                                                       \
        return next(fd);                                                                                               \
    }
int fsync(int fd) SIMPLE(fsync, FSYNC)
int fdatasync(int fd) SIMPLE(fdatasync, FSYNC)
int ftruncate(int fd, off_t size)
{
    NEXT(ftruncate);
    TRY(ours(fd), FTRUNCATE, -1);
    return next(fd, size);
}
int ftruncate64(int fd, off64_t size)
{
    NEXT(ftruncate64);
    TRY(ours(fd), FTRUNCATE, -1);
    return next(fd, size);
}
int close(int fd)
{
    NEXT(close);
    enum verdict verdict = ours(fd) ? happens(CLOSE) : PASS;
    int error = errno, done = next(fd); /* the descriptor is gone whatever close() returns */
    if (verdict != FAIL)
        return done;
    errno = error;
    return -1;
}
void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t at)
{
    NEXT(mmap);
    TRY(fd >= 0 && ours(fd), MMAP, MAP_FAILED);
    return next(where, size, protection, flags, fd, at);
}
void *mmap64(void *where, size_t size, int protection, int flags, int fd, off64_t at)
{
    NEXT(mmap64);
    TRY(fd >= 0 && ours(fd), MMAP, MAP_FAILED);
    return next(where, size, protection, flags, fd, at);
}

/* names */
int rename(const char *from, const char *to)
{
    NEXT(rename);
    TRY(named(AT_FDCWD, to), RENAME, -1);
    return next(from, to);
}
int renameat(int a, const char *from, int b, const char *to)
{
    NEXT(renameat);
    TRY(named(b, to), RENAME, -1);
    return next(a, from, b, to);
}
int unlink(const char *path)
{
    NEXT(unlink);
    TRY(named(AT_FDCWD, path), UNLINK, -1);
    return next(path);
}
int unlinkat(int folder, const char *path, int flags)
{
    NEXT(unlinkat);
    TRY(named(folder, path), UNLINK, -1);
    return next(folder, path, flags);
}
int rmdir(const char *path)
{
    NEXT(rmdir);
    TRY(named(AT_FDCWD, path), UNLINK, -1);
    return next(path);
}
int mkdir(const char *path, mode_t mode)
{
    NEXT(mkdir);
    TRY(named(AT_FDCWD, path), MKDIR, -1);
    return next(path, mode);
}
#define OPENING(name, folder, ...)                                                                                     \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        TRY(named(folder, path), OPEN, -1);                                                                            \
        return next(__VA_ARGS__, path, flags, mode);                                                                   \
    }
int openat(int folder, const char *path, int flags, ...) OPENING(openat, folder, folder)
int openat64(int folder, const char *path, int flags, ...) OPENING(openat64, folder, folder)
#undef OPENING
#define OPENING(name)                                                                                                  \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        TRY(named(AT_FDCWD, path), OPEN, -1);                                                                          \
        return next(path, flags, mode);                                                                                \
    }
int open(const char *path, int flags, ...) OPENING(open)
int open64(const char *path, int flags, ...) OPENING(open64)
