/*
 * The micro-benchmark program of the side-by-side runner: one static program
 * whose rows are each one thing a kernel does for a process. It knows nothing
 * about where it runs, so the same file runs natively and in any sandbox.
 *
 *   micro bench [--budget-ms N] [--dir DIR] [--lower FILE] [--rows A,B]
 *   micro list          names of the rows, one a line
 *   micro noop          exit at once (what the exec rows start)
 *   micro sleep N       sleep N seconds (what the memory row looks at)
 *
 * `bench` prints one line a row, `name<TAB>ns_per_op`, or
 * `name<TAB>!what failed: why`; a row that fails does not stop the others.
 * DIR must be writable. FILE is one that existed before the sandbox started
 * (at least 64 KiB); without it the *_lower rows are left out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define BATCHES 5

static const char *self_path;
static const char *lower_path;
static char scratch[1024];
static char failure[256];

/* Remembers why a row failed; always returns -1 so that rows can `return fail(...)`. */
static int fail(const char *what)
{
    snprintf(failure, sizeof failure, "%s: %s", what, strerror(errno));
    return -1;
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void scratch_path(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", scratch, name);
}

/* ---- calls that ask the kernel nothing ---- */

static volatile long sink;

static int run_getppid(uint64_t n)
{
    while (n--)
        sink = getppid();
    return 0;
}

/*
 * The *_syscall rows and clock_call go through libc's syscall(): the number is a
 * variable of that one place. A platform that answers calls without leaving the
 * guest process may know the other places better than this one.
 */
static int run_getppid_syscall(uint64_t n)
{
    while (n--)
        sink = syscall(SYS_getppid);
    return 0;
}

static int run_getuid_syscall(uint64_t n)
{
    while (n--)
        sink = syscall(SYS_getuid);
    return 0;
}

static int run_sched_yield(uint64_t n)
{
    while (n--)
        if (sched_yield())
            return fail("sched_yield");
    return 0;
}

static int run_getpid(uint64_t n)
{
    while (n--)
        sink = getpid();
    return 0;
}

static int run_clock_vdso(uint64_t n)
{
    struct timespec ts;
    while (n--)
        if (clock_gettime(CLOCK_MONOTONIC, &ts))
            return fail("clock_gettime");
    return 0;
}

static int run_clock_call(uint64_t n)
{
    struct timespec ts;
    while (n--)
        if (syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts))
            return fail("clock_gettime");
    return 0;
}

/* ---- one file descriptor ---- */

static int fd = -1;
static char buffer[64 * 1024];

static int close_fd(void)
{
    if (fd >= 0)
        close(fd);
    fd = -1;
    return 0;
}

static int open_zero(void)
{
    fd = open("/dev/zero", O_RDONLY);
    return fd < 0 ? fail("open /dev/zero") : 0;
}

static int open_null(void)
{
    fd = open("/dev/null", O_WRONLY);
    return fd < 0 ? fail("open /dev/null") : 0;
}

static int make_file(const char *name)
{
    char path[4096];
    scratch_path(path, sizeof path, name);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return fail("create file");
    memset(buffer, 'x', sizeof buffer);
    if (write(fd, buffer, sizeof buffer) != (ssize_t)sizeof buffer)
        return fail("fill file");
    return 0;
}

static int open_file(void)
{
    return make_file("file");
}

static int open_lower(void)
{
    fd = open(lower_path, O_RDONLY);
    return fd < 0 ? fail("open lower file") : 0;
}

static int run_read_zero(uint64_t n)
{
    while (n--)
        if (read(fd, buffer, 1) != 1)
            return fail("read");
    return 0;
}

static int run_read_zero_syscall(uint64_t n)
{
    while (n--)
        if (syscall(SYS_read, fd, buffer, 1UL) != 1)
            return fail("read");
    return 0;
}

static int run_write_null(uint64_t n)
{
    while (n--)
        if (write(fd, buffer, 1) != 1)
            return fail("write");
    return 0;
}

static int run_pread(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (pread(fd, buffer, PAGE, (off_t)((i % 16) * PAGE)) != (ssize_t)PAGE)
            return fail("pread");
    return 0;
}

static int run_pwrite(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (pwrite(fd, buffer, PAGE, (off_t)((i % 16) * PAGE)) != (ssize_t)PAGE)
            return fail("pwrite");
    return 0;
}

static int run_fstat(uint64_t n)
{
    struct stat st;
    while (n--)
        if (fstat(fd, &st))
            return fail("fstat");
    return 0;
}

/* ---- paths ---- */

static char file_path[2048];

static int path_of_file(void)
{
    if (make_file("file"))
        return -1;
    close_fd();
    scratch_path(file_path, sizeof file_path, "file");
    return 0;
}

static int path_of_missing(void)
{
    scratch_path(file_path, sizeof file_path, "missing");
    return 0;
}

static int path_of_new(void)
{
    scratch_path(file_path, sizeof file_path, "new");
    return 0;
}

static int path_of_lower(void)
{
    snprintf(file_path, sizeof file_path, "%s", lower_path);
    return 0;
}

static int run_stat(uint64_t n)
{
    struct stat st;
    while (n--)
        if (stat(file_path, &st))
            return fail("stat");
    return 0;
}

static int run_stat_missing(uint64_t n)
{
    struct stat st;
    while (n--)
        if (stat(file_path, &st) != -1 || errno != ENOENT)
            return fail("stat of a missing file");
    return 0;
}

static int run_open_close(uint64_t n)
{
    while (n--) {
        int f = open(file_path, O_RDONLY);
        if (f < 0)
            return fail("open");
        close(f);
    }
    return 0;
}

static int run_create_unlink(uint64_t n)
{
    while (n--) {
        int f = open(file_path, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (f < 0)
            return fail("create");
        close(f);
        if (unlink(file_path))
            return fail("unlink");
    }
    return 0;
}

static int make_directory(void)
{
    char path[4096];
    scratch_path(file_path, sizeof file_path, "hundred");
    if (mkdir(file_path, 0700) && errno != EEXIST)
        return fail("mkdir");
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "%s/file-number-%d", file_path, i);
        int f = open(path, O_WRONLY | O_CREAT, 0600);
        if (f < 0)
            return fail("create");
        close(f);
    }
    fd = open(file_path, O_RDONLY | O_DIRECTORY);
    return fd < 0 ? fail("open directory") : 0;
}

static int run_getdents(uint64_t n)
{
    while (n--) {
        long got, total = 0;
        if (lseek(fd, 0, SEEK_SET))
            return fail("lseek");
        while ((got = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
            total += got;
        if (got < 0 || total < 100 * 24)
            return fail("getdents64");
    }
    return 0;
}

/* ---- two processes that answer each other ---- */

static int ours[2], theirs[2]; /* [0] read end, [1] write end, as seen from here */
static pid_t peer = -1;

static int end_peer(void)
{
    int status;
    close(ours[0]);
    if (ours[1] != ours[0])
        close(ours[1]);
    if (peer > 0)
        waitpid(peer, &status, 0);
    peer = -1;
    return 0;
}

/* The child: echoes single bytes until the other side closes. */
static void echo(int in, int out)
{
    char c;
    while (read(in, &c, 1) == 1)
        if (write(out, &c, 1) != 1)
            break;
    _exit(0);
}

static int start_pipe_peer(void)
{
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        return fail("pipe");
    peer = fork();
    if (peer < 0)
        return fail("fork");
    if (peer == 0) {
        close(there[1]);
        close(back[0]);
        echo(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    ours[0] = back[0];
    ours[1] = there[1];
    return 0;
}

static int unix_pair(int pair[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ? fail("socketpair") : 0;
}

/* Both ends of a connection over loopback. */
static int tcp_pair(int pair[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof at;
    int on = 1;
    int server = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (server < 0)
        return fail("socket");
    if (bind(server, (struct sockaddr *)&at, len) || listen(server, 1))
        return fail("listen");
    if (getsockname(server, (struct sockaddr *)&at, &len))
        return fail("getsockname");
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (pair[0] < 0 || connect(pair[0], (struct sockaddr *)&at, len))
        return fail("connect");
    pair[1] = accept(server, NULL, NULL);
    if (pair[1] < 0)
        return fail("accept");
    close(server);
    for (int i = 0; i < 2; i++)
        if (setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
            return fail("TCP_NODELAY");
    return 0;
}

static int start_peer(int make(int[2]))
{
    int pair[2];
    if (make(pair))
        return -1;
    peer = fork();
    if (peer < 0)
        return fail("fork");
    if (peer == 0) {
        close(pair[0]);
        echo(pair[1], pair[1]);
    }
    close(pair[1]);
    ours[0] = ours[1] = pair[0];
    return 0;
}

static int start_socket_peer(void)
{
    return start_peer(unix_pair);
}

static int start_tcp_peer(void)
{
    return start_peer(tcp_pair);
}

/* Both ends are ours: what is written is there to be read, nobody waits. */
static int open_own_pipe(void)
{
    return pipe(ours) ? fail("pipe") : 0;
}

static int open_own_sockets(void)
{
    return socketpair(AF_UNIX, SOCK_STREAM, 0, ours) ? fail("socketpair") : 0;
}

static pthread_t pipe_thread;

static void *pipe_answer(void *argument)
{
    char c;
    while (read(theirs[0], &c, 1) == 1)
        if (write(theirs[1], &c, 1) != 1)
            break;
    return argument;
}

static int start_pipe_thread(void)
{
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        return fail("pipe");
    ours[0] = back[0];
    ours[1] = there[1];
    theirs[0] = there[0];
    theirs[1] = back[1];
    errno = pthread_create(&pipe_thread, NULL, pipe_answer, NULL);
    return errno ? fail("pthread_create") : 0;
}

/* The thread's read returns 0 once the write end is closed. */
static int end_pipe_thread(void)
{
    close(ours[1]);
    int error = pthread_join(pipe_thread, NULL);
    close(ours[0]);
    close(theirs[0]);
    close(theirs[1]);
    return error;
}

static int run_pingpong(uint64_t n)
{
    char c = 'p';
    while (n--)
        if (write(ours[1], &c, 1) != 1 || read(ours[0], &c, 1) != 1)
            return fail("ping-pong");
    return 0;
}

/* A child that writes 64 KiB blocks as long as somebody reads them. */
static int start_writer(int make(int[2]))
{
    if (make(theirs))
        return -1;
    peer = fork();
    if (peer < 0)
        return fail("fork");
    if (peer == 0) {
        close(theirs[0]);
        signal(SIGPIPE, SIG_DFL);
        while (write(theirs[1], buffer, sizeof buffer) > 0)
            ;
        _exit(0);
    }
    close(theirs[1]);
    ours[0] = ours[1] = theirs[0];
    return 0;
}

static int make_pipe(int ends[2])
{
    return pipe(ends) ? fail("pipe") : 0;
}

static int start_pipe_writer(void)
{
    return start_writer(make_pipe);
}

static int start_socket_writer(void)
{
    return start_writer(unix_pair);
}

static int start_tcp_writer(void)
{
    return start_writer(tcp_pair);
}

static int run_64k(uint64_t n)
{
    uint64_t left = n * sizeof buffer;
    while (left > 0) {
        ssize_t got = read(ours[0], buffer, left < sizeof buffer ? left : sizeof buffer);
        if (got <= 0)
            return fail("read from the writer");
        left -= (uint64_t)got;
    }
    return 0;
}

/* ---- memory ---- */

static int map_and_touch(size_t size)
{
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return fail("mmap");
    /* Huge pages would turn the page rows into a lottery. */
    if (size > PAGE)
        madvise(p, size, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < size; i += PAGE)
        ((volatile char *)p)[i] = 1;
    return munmap(p, size) ? fail("munmap") : 0;
}

static int run_mmap_page(uint64_t n)
{
    while (n--)
        if (map_and_touch(PAGE))
            return -1;
    return 0;
}

static int run_mmap_1m(uint64_t n)
{
    while (n--)
        if (map_and_touch(1 << 20))
            return -1;
    return 0;
}

/* One operation is one page of a 16 MiB mapping; see `unit` in the table. */
static int run_page_fault(uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 4096)
        if (map_and_touch(16 << 20))
            return -1;
    return 0;
}

static char *protected_page;

static int map_page(void)
{
    protected_page =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (protected_page == MAP_FAILED)
        return fail("mmap");
    protected_page[0] = 1;
    return 0;
}

static int unmap_page(void)
{
    return munmap(protected_page, PAGE);
}

static int run_mprotect(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (mprotect(protected_page, PAGE, i & 1 ? PROT_READ | PROT_WRITE : PROT_READ))
            return fail("mprotect");
    return 0;
}

/* ---- processes and threads ---- */

static int wait_for(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid)
        return fail("waitpid");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        errno = ECHILD;
        return fail("the child failed");
    }
    return 0;
}

static int run_fork(uint64_t n)
{
    while (n--) {
        pid_t pid = fork();
        if (pid < 0)
            return fail("fork");
        if (pid == 0)
            _exit(0);
        if (wait_for(pid))
            return -1;
    }
    return 0;
}

#define LARGE (80UL << 20)
static char *large = MAP_FAILED;

/* What a fork has to copy the tables of. Small pages, so that it is the same everywhere. */
static int touch_large(void)
{
    large = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (large == MAP_FAILED)
        return fail("mmap");
    madvise(large, LARGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < LARGE; i += PAGE)
        ((volatile char *)large)[i] = 1;
    return 0;
}

static int unmap_large(void)
{
    return large == MAP_FAILED ? 0 : munmap(large, LARGE);
}

static int run_fork_exec(uint64_t n)
{
    char *const arguments[] = {(char *)self_path, "noop", NULL};
    char *const environment[] = {NULL};
    while (n--) {
        pid_t pid = fork();
        if (pid < 0)
            return fail("fork");
        if (pid == 0) {
            execve(self_path, arguments, environment);
            _exit(127);
        }
        if (wait_for(pid))
            return -1;
    }
    return 0;
}

static int run_spawn(uint64_t n)
{
    char *const arguments[] = {(char *)self_path, "noop", NULL};
    char *const environment[] = {NULL};
    while (n--) {
        pid_t pid;
        errno = posix_spawn(&pid, self_path, NULL, NULL, arguments, environment);
        if (errno)
            return fail("posix_spawn");
        if (wait_for(pid))
            return -1;
    }
    return 0;
}

static void *thread_nothing(void *argument)
{
    return argument;
}

static int run_thread(uint64_t n)
{
    while (n--) {
        pthread_t thread;
        errno = pthread_create(&thread, NULL, thread_nothing, NULL);
        if (errno)
            return fail("pthread_create");
        errno = pthread_join(thread, NULL);
        if (errno)
            return fail("pthread_join");
    }
    return 0;
}

static _Atomic uint32_t turn; /* 0: ours, 1: the thread's, 2: end */
static pthread_t futex_thread;

static void futex_wait_while(uint32_t value)
{
    while (atomic_load(&turn) == value)
        syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_set(uint32_t value)
{
    atomic_store(&turn, value);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_answer(void *argument)
{
    for (;;) {
        futex_wait_while(0);
        if (atomic_load(&turn) == 2)
            return argument;
        futex_set(0);
    }
}

static int start_futex_thread(void)
{
    atomic_store(&turn, 0);
    errno = pthread_create(&futex_thread, NULL, futex_answer, NULL);
    return errno ? fail("pthread_create") : 0;
}

static int end_futex_thread(void)
{
    futex_set(2);
    return pthread_join(futex_thread, NULL);
}

static int run_futex(uint64_t n)
{
    while (n--) {
        futex_set(1);
        futex_wait_while(1);
    }
    return 0;
}

/*
 * A ring of threads: each sleeps on a word of its own until the one before it
 * wakes it, and wakes the next. One operation is one such hop.
 */
#define RING 64
#define RING_STACK (64UL * 1024)

static struct seat {
    _Atomic uint32_t word; /* 0: sleep, 1: the token is here, 2: end */
    char apart[60];        /* a cache line each */
} seats[RING];
static pthread_t ring[RING];
static int ring_threads;
static _Atomic uint32_t ring_done;
static _Atomic uint64_t hops_left;

static void word_wait(_Atomic uint32_t *word)
{
    while (atomic_load(word) == 0)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void word_wake(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *ring_member(void *argument)
{
    struct seat *own = argument;
    struct seat *next = own + 1 == seats + RING ? seats : own + 1;
    for (;;) {
        word_wait(&own->word);
        if (atomic_load(&own->word) == 2)
            return NULL;
        atomic_store(&own->word, 0);
        if (atomic_fetch_sub(&hops_left, 1) == 1)
            word_wake(&ring_done, 1);
        else
            word_wake(&next->word, 1);
    }
}

static int start_ring(void)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, RING_STACK);
    for (ring_threads = 0; ring_threads < RING; ring_threads++) {
        atomic_store(&seats[ring_threads].word, 0);
        errno = pthread_create(&ring[ring_threads], &small, ring_member, &seats[ring_threads]);
        if (errno)
            return fail("pthread_create");
    }
    return 0;
}

static int end_ring(void)
{
    for (int i = 0; i < ring_threads; i++) {
        word_wake(&seats[i].word, 2);
        pthread_join(ring[i], NULL);
    }
    return 0;
}

static int run_ring(uint64_t n)
{
    atomic_store(&hops_left, n);
    atomic_store(&ring_done, 0);
    word_wake(&seats[0].word, 1);
    word_wait(&ring_done);
    return 0;
}

/* ---- signals ---- */

static volatile sig_atomic_t signals_seen;

static void count_signal(int number)
{
    (void)number;
    signals_seen++;
}

static int set_handler(void)
{
    struct sigaction action = {.sa_handler = count_signal};
    return sigaction(SIGUSR1, &action, NULL) ? fail("sigaction") : 0;
}

static int run_signal(uint64_t n)
{
    pid_t pid = getpid();
    while (n--) {
        sig_atomic_t before = signals_seen;
        if (kill(pid, SIGUSR1))
            return fail("kill");
        if (signals_seen == before) {
            errno = ETIME;
            return fail("the signal did not arrive");
        }
    }
    return 0;
}

/* ---- the table ---- */

struct row {
    const char *name;
    int (*setup)(void);
    int (*run)(uint64_t n);
    int (*teardown)(void);
    uint64_t unit; /* iterations are multiples of this; 0 means 1 */
    int lower;     /* needs --lower */
};

static const struct row rows[] = {
    {"getppid", NULL, run_getppid, NULL, 0, 0},
    {"getppid_syscall", NULL, run_getppid_syscall, NULL, 0, 0},
    {"getpid", NULL, run_getpid, NULL, 0, 0},
    {"getuid_syscall", NULL, run_getuid_syscall, NULL, 0, 0},
    {"sched_yield", NULL, run_sched_yield, NULL, 0, 0},
    {"clock_vdso", NULL, run_clock_vdso, NULL, 0, 0},
    {"clock_call", NULL, run_clock_call, NULL, 0, 0},
    {"read_zero", open_zero, run_read_zero, close_fd, 0, 0},
    {"read_zero_syscall", open_zero, run_read_zero_syscall, close_fd, 0, 0},
    {"write_null", open_null, run_write_null, close_fd, 0, 0},
    {"pread_4k", open_file, run_pread, close_fd, 0, 0},
    {"pwrite_4k", open_file, run_pwrite, close_fd, 0, 0},
    {"pread_4k_lower", open_lower, run_pread, close_fd, 0, 1},
    {"fstat", open_file, run_fstat, close_fd, 0, 0},
    {"stat", path_of_file, run_stat, NULL, 0, 0},
    {"stat_lower", path_of_lower, run_stat, NULL, 0, 1},
    {"stat_missing", path_of_missing, run_stat_missing, NULL, 0, 0},
    {"open_close", path_of_file, run_open_close, NULL, 0, 0},
    {"open_close_lower", path_of_lower, run_open_close, NULL, 0, 1},
    {"create_unlink", path_of_new, run_create_unlink, NULL, 0, 0},
    {"getdents_100", make_directory, run_getdents, close_fd, 0, 0},
    {"pipe_self", open_own_pipe, run_pingpong, end_peer, 0, 0},
    {"socket_self", open_own_sockets, run_pingpong, end_peer, 0, 0},
    {"pipe_pingpong", start_pipe_peer, run_pingpong, end_peer, 0, 0},
    {"pipe_pingpong_threads", start_pipe_thread, run_pingpong, end_pipe_thread, 0, 0},
    {"pipe_64k", start_pipe_writer, run_64k, end_peer, 0, 0},
    {"socket_pingpong", start_socket_peer, run_pingpong, end_peer, 0, 0},
    {"socket_64k", start_socket_writer, run_64k, end_peer, 0, 0},
    {"tcp_pingpong", start_tcp_peer, run_pingpong, end_peer, 0, 0},
    {"tcp_64k", start_tcp_writer, run_64k, end_peer, 0, 0},
    {"futex_pingpong", start_futex_thread, run_futex, end_futex_thread, 0, 0},
    {"futex_ring_64", start_ring, run_ring, end_ring, RING, 0},
    {"signal_self", set_handler, run_signal, NULL, 0, 0},
    {"mmap_touch_4k", NULL, run_mmap_page, NULL, 0, 0},
    {"mmap_touch_1m", NULL, run_mmap_1m, NULL, 0, 0},
    {"page_fault", NULL, run_page_fault, NULL, 4096, 0},
    {"mprotect", map_page, run_mprotect, unmap_page, 0, 0},
    {"thread_create", NULL, run_thread, NULL, 0, 0},
    {"fork_wait", NULL, run_fork, NULL, 0, 0},
    {"fork_wait_80m", touch_large, run_fork, unmap_large, 0, 0},
    {"fork_exec_wait", NULL, run_fork_exec, NULL, 0, 0},
    {"spawn_wait", NULL, run_spawn, NULL, 0, 0},
};
#define ROWS (sizeof rows / sizeof rows[0])

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/*
 * Finds how many operations fill a fifth of the budget (doubling, which is
 * also the warm-up), times five such batches and reports the median batch.
 */
static int measure(const struct row *row, uint64_t budget_ns, double *result)
{
    uint64_t unit = row->unit ? row->unit : 1, target = budget_ns / BATCHES, n = unit;
    double batches[BATCHES];
    for (;;) {
        uint64_t start = now_ns();
        if (row->run(n))
            return -1;
        uint64_t took = now_ns() - start;
        if (took >= target)
            break;
        if (took >= target / 8) {
            n = n * target / took / unit * unit;
            break;
        }
        n *= 2;
    }
    if (n < unit)
        n = unit;
    for (int i = 0; i < BATCHES; i++) {
        uint64_t start = now_ns();
        if (row->run(n))
            return -1;
        batches[i] = (double)(now_ns() - start) / (double)n;
    }
    qsort(batches, BATCHES, sizeof batches[0], by_size);
    *result = batches[BATCHES / 2];
    return 0;
}

/* Is `name` one of the comma-separated words of `list`? */
static int wanted(const char *list, const char *name)
{
    size_t length = strlen(name);
    if (!list)
        return 1;
    for (const char *p = list; p; p = strchr(p, ',')) {
        if (*p == ',')
            p++;
        if (!strncmp(p, name, length) && (p[length] == ',' || p[length] == '\0'))
            return 1;
    }
    return 0;
}

static int bench(int count, char **arguments)
{
    uint64_t budget_ms = 50;
    const char *directory = "/tmp", *list = NULL;
    for (int i = 0; i + 1 < count; i += 2) {
        if (!strcmp(arguments[i], "--budget-ms"))
            budget_ms = strtoull(arguments[i + 1], NULL, 10);
        else if (!strcmp(arguments[i], "--dir"))
            directory = arguments[i + 1];
        else if (!strcmp(arguments[i], "--lower"))
            lower_path = arguments[i + 1];
        else if (!strcmp(arguments[i], "--rows"))
            list = arguments[i + 1];
        else {
            fprintf(stderr, "micro: unknown option %s\n", arguments[i]);
            return 2;
        }
    }
    if (count % 2) {
        fprintf(stderr, "micro: %s needs a value\n", arguments[count - 1]);
        return 2;
    }
    snprintf(scratch, sizeof scratch, "%s/micro-XXXXXX", directory);
    if (!mkdtemp(scratch)) {
        fprintf(stderr, "micro: mkdtemp %s: %s\n", scratch, strerror(errno));
        return 1;
    }
    int failed = 0;
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        double ns;
        if (!wanted(list, row->name) || (row->lower && !lower_path))
            continue;
        failure[0] = '\0';
        int bad = row->setup && row->setup();
        if (!bad)
            bad = measure(row, budget_ms * 1000000, &ns);
        if (row->teardown)
            row->teardown();
        if (bad)
            printf("%s\t!%s\n", row->name, failure);
        else
            printf("%s\t%.1f\n", row->name, ns);
        fflush(stdout);
        failed |= bad;
    }
    /* Tidy up what the rows made; what is missing is not an error. */
    char path[4096];
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "%s/hundred/file-number-%d", scratch, i);
        unlink(path);
    }
    scratch_path(path, sizeof path, "hundred");
    rmdir(path);
    scratch_path(path, sizeof path, "file");
    unlink(path);
    rmdir(scratch);
    return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    self_path = argv[0];
    if (!strcmp(command, "noop"))
        return 0;
    if (!strcmp(command, "list")) {
        for (size_t i = 0; i < ROWS; i++)
            puts(rows[i].name);
        return 0;
    }
    if (!strcmp(command, "sleep")) {
        sleep(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
        return 0;
    }
    if (!strcmp(command, "bench"))
        return bench(argc - 2, argv + 2);
    fprintf(stderr, "usage: micro bench|list|noop|sleep ...\n");
    return 2;
}
