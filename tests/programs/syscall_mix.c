// A known number of known syscalls. Arguments: getppid pipe missing sleeps bad_close
//
// getppid    calls of getppid, half of them by a second thread, a quarter by a forked child
// pipe       one-byte writes to a pipe, each followed by its read
// missing    openat of a file that is not there: ENOENT
// sleeps     nanosleep of 1 ms each
// bad_close  close of -1: EBADF
//
// Says how long the sleeps took together, measured just outside of them: sleep_ns=N
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void ask_parent(long times) {
    while (times-- > 0)
        syscall(SYS_getppid);
}

static void *thread(void *times) {
    ask_parent((long)times);
    return NULL;
}

static long long now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time); // answered by the vDSO, not a syscall
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 6)
        return 2;
    long getppid_count = atol(arguments[1]), pipe_count = atol(arguments[2]), missing = atol(arguments[3]);
    long sleeps = atol(arguments[4]), bad_close = atol(arguments[5]);

    long by_thread = getppid_count / 2, by_child = getppid_count / 4;
    pthread_t other;
    if (pthread_create(&other, NULL, thread, (void *)by_thread) || pthread_join(other, NULL))
        return 1;
    pid_t child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        ask_parent(by_child);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status)
        return 1;
    ask_parent(getppid_count - by_thread - by_child);

    int ends[2];
    char byte = 0;
    if (pipe(ends))
        return 1;
    for (long i = 0; i < pipe_count; i++)
        if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
            return 1;
    for (long i = 0; i < missing; i++)
        if (syscall(SYS_openat, AT_FDCWD, "/nonexistent/file", O_RDONLY) != -1 || errno != ENOENT)
            return 1;
    long long sleep_ns = 0;
    for (long i = 0; i < sleeps; i++) {
        struct timespec millisecond = {0, 1000000};
        long long begin = now_ns();
        if (syscall(SYS_nanosleep, &millisecond, NULL))
            return 1;
        sleep_ns += now_ns() - begin;
    }
    for (long i = 0; i < bad_close; i++)
        if (syscall(SYS_close, -1) != -1 || errno != EBADF)
            return 1;
    printf("sleep_ns=%lld\n", sleep_ns);
    return 0;
}
