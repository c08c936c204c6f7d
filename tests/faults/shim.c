/* Lets the k-th call of one kind fail, or kills the process there. Loaded with LD_PRELOAD.

   Counted are the calls on files below one folder, by the process that read the settings: at loading, and again by
   fault_configure() (a process that has forked configures itself anew). A descriptor is traced to its file through
   /proc/self/fd at each call, so that copies of descriptors and folders' descriptors need no bookkeeping.

     FAULT_FOLDER   the folder; without it nothing is counted
     FAULT_CALL     the kind of call: one of `names` below
     FAULT_AT       k, counted from 1; 0 or unset: only count
     FAULT_WHAT     an errno as a number, SHORT (half of what was asked for) or KILL (a write is torn in the middle)
     FAULT_STICKY   1: every later call of the kind fails too, as on a full disk
     FAULT_LOG      a file that gets a line when the fault strikes

   What is written is never synced for real: a killed process loses nothing that it wrote, and the campaign is about
   what the system answers. Calls that the C library makes inside itself are not seen, except fread and fwrite. */
#define _GNU_SOURCE
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { OPEN, WRITE, PWRITE, FSYNC, RENAME, UNLINK, TRUNCATE, READ, PREAD, MMAP, CLOSE, MKDIR, CALLS };
static const char *const names[CALLS] = {"open", "write", "pwrite", "fsync", "rename", "unlink",
                                         "ftruncate", "read", "pread", "mmap", "close", "mkdir"};
enum { NOTHING = 0, SHORT = -1, KILL = -2 }; /* positive: an errno */

static char folder[PATH_MAX];
static size_t folder_length;
static int call_to_fail, what, sticky;
static unsigned long at, counts[CALLS];
static char log_path[PATH_MAX];
static pid_t owner;

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) void fault_configure(void) {
    const char *given = getenv("FAULT_FOLDER"), *call = getenv("FAULT_CALL"), *kind = getenv("FAULT_WHAT");
    const char *k = getenv("FAULT_AT"), *all = getenv("FAULT_STICKY"), *log = getenv("FAULT_LOG");
    owner = given ? getpid() : 0;
    snprintf(folder, sizeof folder, "%s", given ? given : "");
    folder_length = strlen(folder);
    snprintf(log_path, sizeof log_path, "%s", log ? log : "");
    call_to_fail = -1;
    for (int i = 0; i < CALLS; i++) {
        counts[i] = 0;
        if (call && !strcmp(call, names[i])) call_to_fail = i;
    }
    at = k ? strtoul(k, NULL, 10) : 0;
    sticky = all && *all == '1';
    what = !kind ? NOTHING : !strcmp(kind, "SHORT") ? SHORT : !strcmp(kind, "KILL") ? KILL : atoi(kind);
}

/* How often a kind of call has been made. */
unsigned long fault_count(const char *call) {
    for (int i = 0; i < CALLS; i++)
        if (!strcmp(call, names[i])) return counts[i];
    return 0;
}

static int is_inside(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static int file_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int is_ours(void) { return owner && owner == (pid_t)syscall(SYS_getpid); }

static int inside_fd(int fd) {
    char path[PATH_MAX];
    int before = errno, inside = is_ours() && fd >= 0 && file_of(fd, path) && is_inside(path);
    errno = before;
    return inside;
}

static int inside_path(int dir, const char *path) {
    char base[PATH_MAX], whole[2 * PATH_MAX];
    int before = errno, inside = 0;
    if (is_ours() && path) {
        if (*path == '/') inside = is_inside(path);
        else if (dir == AT_FDCWD ? getcwd(base, sizeof base) != NULL : file_of(dir, base)) {
            snprintf(whole, sizeof whole, "%s/%s", base, path);
            inside = is_inside(whole);
        }
    }
    errno = before;
    return inside;
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

static void tell(enum call call, unsigned long number) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %lu\n", names[call], number);
    long fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, length);
    syscall(SYS_close, fd);
}

/* What befalls this call: NOTHING, SHORT, an errno; KILL only where the caller tears its write first. */
static int fault(enum call call) {
    unsigned long number = __atomic_add_fetch(&counts[call], 1, __ATOMIC_SEQ_CST);
    if ((int)call != call_to_fail || !at || number < at || (number > at && !sticky)) return NOTHING;
    tell(call, number);
    if (what == KILL && call != WRITE && call != PWRITE) die();
    return what;
}

/* Fails a call that has no length: an errno, or nothing. */
static int refused(enum call call, int inside) {
    int found = inside ? fault(call) : NOTHING;
    if (found <= 0) return 0;
    errno = found;
    return 1;
}

/* The bytes that a call with a length may move: all, half or (-1, with errno) none. */
static ssize_t granted(enum call call, int fd, size_t size, int *kill) {
    int found = inside_fd(fd) ? fault(call) : NOTHING;
    *kill = found == KILL;
    if (found > 0) {
        errno = found;
        return -1;
    }
    return found == NOTHING || size < 2 ? (ssize_t)size : (ssize_t)(size / 2);
}

/* --- names -------------------------------------------------------------------------------------------------- */

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(more, mode_t) : 0;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = mode_of(flags, more); \
        va_end(more); \
        return refused(OPEN, inside_path(AT_FDCWD, path)) ? -1 : real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int dir, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = mode_of(flags, more); \
        va_end(more); \
        return refused(OPEN, inside_path(dir, path)) ? -1 : real(dir, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return refused(RENAME, inside_path(AT_FDCWD, to)) ? -1 : real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return refused(RENAME, inside_path(to_dir, to)) ? -1 : real(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    return refused(RENAME, inside_path(to_dir, to)) ? -1 : real(from_dir, from, to_dir, to, flags);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return refused(UNLINK, inside_path(AT_FDCWD, path)) ? -1 : real(path);
}

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return refused(UNLINK, inside_path(dir, path)) ? -1 : real(dir, path, flags);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return refused(UNLINK, inside_path(AT_FDCWD, path)) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return refused(MKDIR, inside_path(AT_FDCWD, path)) ? -1 : real(path, mode);
}

int symlink(const char *target, const char *path) {
    REAL(int, "symlink", const char *, const char *);
    return refused(MKDIR, inside_path(AT_FDCWD, path)) ? -1 : real(target, path);
}

/* --- contents ------------------------------------------------------------------------------------------------- */

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int kill;
    ssize_t some = granted(WRITE, fd, size, &kill);
    ssize_t done = some < 0 ? -1 : real(fd, data, some);
    if (kill) die();
    return done;
}

size_t fwrite(const void *data, size_t size, size_t number, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    int kill;
    ssize_t some = granted(WRITE, fileno(file), number, &kill);
    size_t done = some < 0 ? 0 : real(data, size, some, file);
    if (kill) die();
    return done;
}

#define PWRITES(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        int kill; \
        ssize_t some = granted(PWRITE, fd, size, &kill); \
        ssize_t done = some < 0 ? -1 : real(fd, data, some, offset); \
        if (kill) die(); \
        return done; \
    }
PWRITES(pwrite, off_t)
PWRITES(pwrite64, off64_t)

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    int kill;
    ssize_t some = granted(READ, fd, size, &kill);
    return some < 0 ? -1 : real(fd, data, some);
}

size_t fread(void *data, size_t size, size_t number, FILE *file) {
    REAL(size_t, "fread", void *, size_t, size_t, FILE *);
    int kill;
    ssize_t some = granted(READ, fileno(file), number, &kill);
    return some < 0 ? 0 : real(data, size, some, file);
}

#define PREADS(name, offset_type) \
    ssize_t name(int fd, void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, void *, size_t, offset_type); \
        int kill; \
        ssize_t some = granted(PREAD, fd, size, &kill); \
        return some < 0 ? -1 : real(fd, data, some, offset); \
    }
PREADS(pread, off_t)
PREADS(pread64, off64_t)

/* Of several pieces the first alone is read, or half of it. */
static ssize_t first_piece(int fd, const struct iovec *pieces, off64_t offset, int *whole) {
    int kill;
    ssize_t some = granted(PREAD, fd, pieces->iov_len, &kill);
    *whole = some == (ssize_t)pieces->iov_len;
    return some < 0 || *whole ? some : syscall(SYS_pread64, fd, pieces->iov_base, (size_t)some, offset);
}

#define PREADVS(name, offset_type) \
    ssize_t name(int fd, const struct iovec *pieces, int number, offset_type offset) { \
        REAL(ssize_t, #name, int, const struct iovec *, int, offset_type); \
        int whole; \
        ssize_t done = first_piece(fd, pieces, offset, &whole); \
        return done < 0 || !whole ? done : real(fd, pieces, number, offset); \
    }
PREADVS(preadv, off_t)
PREADVS(preadv64, off64_t)

#define PREADV2S(name, offset_type) \
    ssize_t name(int fd, const struct iovec *pieces, int number, offset_type offset, int flags) { \
        REAL(ssize_t, #name, int, const struct iovec *, int, offset_type, int); \
        int whole; \
        ssize_t done = first_piece(fd, pieces, offset, &whole); \
        return done < 0 || !whole ? done : real(fd, pieces, number, offset, flags); \
    }
PREADV2S(preadv2, off_t)
PREADV2S(preadv64v2, off64_t)

#define TRUNCATES(name, offset_type) \
    int name(int fd, offset_type length) { \
        REAL(int, #name, int, offset_type); \
        return refused(TRUNCATE, inside_fd(fd)) ? -1 : real(fd, length); \
    }
TRUNCATES(ftruncate, off_t)
TRUNCATES(ftruncate64, off64_t)

#define MMAPS(name, offset_type) \
    void *name(void *address, size_t size, int protection, int flags, int fd, offset_type offset) { \
        REAL(void *, #name, void *, size_t, int, int, int, offset_type); \
        int inside = !(flags & MAP_ANONYMOUS) && inside_fd(fd); \
        return refused(MMAP, inside) ? MAP_FAILED : real(address, size, protection, flags, fd, offset); \
    }
MMAPS(mmap, off_t)
MMAPS(mmap64, off64_t)

int fsync(int fd) {
    REAL(int, "fsync", int);
    int inside = inside_fd(fd);
    return refused(FSYNC, inside) ? -1 : inside ? 0 : real(fd);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    int inside = inside_fd(fd);
    return refused(FSYNC, inside) ? -1 : inside ? 0 : real(fd);
}

void sync(void) {}

/* A descriptor is gone after close(), whatever it says. */
int close(int fd) {
    REAL(int, "close", int);
    int failed = refused(CLOSE, inside_fd(fd)), why = errno, done = real(fd);
    if (!failed) return done;
    errno = why;
    return -1;
}
