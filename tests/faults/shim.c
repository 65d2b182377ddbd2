/* Faults below the C library, for the processes of one session (`pid` leads it) and files below one folder (`prefix`),
 * as told by a shared page. Calls that change files are counted; at the one that brings `left` to 0 the leader and the
 * caller are killed, the call fails, or hangs. The wall clock is off by `clock_ns` in every process that has this loaded. Python and SQLite both come by here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct page { /* control.py writes it: keep the two alike */
  volatile int64_t clock_ns, left, seen;
  volatile int32_t pid, mode, error, struck;
  char prefix[256], only[64];
};
enum { COUNT, KILL_BEFORE, KILL_AFTER, FAIL_ONCE, FAIL_ALL, HANG };

static struct page nothing, *page = &nothing;

__attribute__((constructor)) static void map_page(void) {
  const char *name = getenv("OVERLAID_TEST_FAULTS");
  int fd = name ? (int)open(name, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *there = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (there != MAP_FAILED) page = there;
}

static int concerns(const char *path) {
  return strncmp(path, page->prefix, strlen(page->prefix)) == 0 && (!page->only[0] || strstr(path, page->only));
}

static int ours(void) { return page->pid && page->pid == getsid(0); }

static void die(void) {
  kill(page->pid, SIGKILL);
  kill(getpid(), SIGKILL);
}

static int fd_concerns(int fd) {
  char link[32], path[512];
  if (!ours()) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return concerns(path);
}

static int path_concerns(const char *path) { return path && ours() && concerns(path); }

/* What is to happen to a call: 0 nothing, -1 it fails (errno is set), 1 kill after half of it. */
static int strike(int takes_space) {
  int saved = errno;
  __atomic_fetch_add(&page->seen, 1, __ATOMIC_SEQ_CST);
  switch (page->mode) {
    case COUNT: return 0;
    case FAIL_ALL:
      if (page->error == ENOSPC && !takes_space) return 0;
      page->struck = 1;
      errno = page->error;
      return -1;
    default: break;
  }
  if (page->mode == FAIL_ONCE && page->error == ENOSPC && !takes_space) return 0;
  if (__atomic_sub_fetch(&page->left, 1, __ATOMIC_SEQ_CST) != 0) return 0;
  page->struck = 1;
  switch (page->mode) {
    case KILL_BEFORE: die(); return 0;
    case KILL_AFTER: return 1;
    case FAIL_ONCE: page->mode = COUNT; errno = page->error; return -1;
    case HANG: while (page->mode == HANG) usleep(20000); errno = saved; return 0;
    default: return 0;
  }
}

#define REAL(name) ((__typeof__(&name))real_##name)
#define FIND(name) static void *real_##name; if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)
#define DIE() do { die(); } while (1)
#define AROUND(type, name, concerned, space, arguments, half) \
  FIND(name); \
  if (!(concerned)) return REAL(name) arguments; \
  int what = strike(space); \
  if (what < 0) return (type)-1; \
  if (what > 0) { if (REAL(name) half < 0) {} DIE(); } \
  return REAL(name) arguments

ssize_t write(int fd, const void *data, size_t n) {
  AROUND(ssize_t, write, fd_concerns(fd), 1, (fd, data, n), (fd, data, n / 2));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
  AROUND(ssize_t, pwrite, fd_concerns(fd), 1, (fd, data, n, at), (fd, data, n / 2, at));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  AROUND(ssize_t, pwrite64, fd_concerns(fd), 1, (fd, data, n, at), (fd, data, n / 2, at));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
  AROUND(ssize_t, writev, fd_concerns(fd), 1, (fd, parts, n), (fd, parts, n / 2));
}
int fsync(int fd) { AROUND(int, fsync, fd_concerns(fd), 0, (fd), (fd)); }
int fdatasync(int fd) { AROUND(int, fdatasync, fd_concerns(fd), 0, (fd), (fd)); }
int ftruncate(int fd, off_t n) { AROUND(int, ftruncate, fd_concerns(fd), 0, (fd, n), (fd, n)); }
int ftruncate64(int fd, off64_t n) { AROUND(int, ftruncate64, fd_concerns(fd), 0, (fd, n), (fd, n)); }
int rename(const char *from, const char *to) {
  AROUND(int, rename, path_concerns(to), 0, (from, to), (from, to));
}
int unlink(const char *path) { AROUND(int, unlink, path_concerns(path), 0, (path), (path)); }
int mkdir(const char *path, mode_t mode) { AROUND(int, mkdir, path_concerns(path), 1, (path, mode), (path, mode)); }

/* Opening for writing; on a full disk only a new file is refused. */
#define OPEN(name, path, call) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
  FIND(name); \
  if ((flags & (O_WRONLY | O_RDWR)) && !(flags & O_DIRECTORY) && path_concerns(path)) { \
    int what = strike((flags & O_CREAT) && access(path, F_OK) != 0); \
    if (what < 0) return -1; \
    if (what > 0) { if (REAL(name) call < 0) {} DIE(); } \
  } \
  return REAL(name) call

int open(const char *path, int flags, ...) { OPEN(open, path, (path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPEN(open64, path, (path, flags, mode)); }
int openat(int at, const char *path, int flags, ...) { OPEN(openat, path, (at, path, flags, mode)); }
int openat64(int at, const char *path, int flags, ...) { OPEN(openat64, path, (at, path, flags, mode)); }

int clock_gettime(clockid_t clock, struct timespec *now) {
  FIND(clock_gettime);
  int done = REAL(clock_gettime)(clock, now);
  if (done == 0 && page->clock_ns && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + page->clock_ns;
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
  }
  return done;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec there;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &there);
  now->tv_sec = there.tv_sec;
  now->tv_usec = there.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *out) {
  struct timespec there;
  clock_gettime(CLOCK_REALTIME, &there);
  if (out) *out = there.tv_sec;
  return there.tv_sec;
}
