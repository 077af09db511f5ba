// Waits in known ways on known paths, and says how long each took, while another thread moves it from processor to processor.
// Begins at the first byte of input. Arguments: seconds; a file to write to disk, if it shall wait for that too.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static volatile unsigned long sink;
static volatile int over;
static int pipes[2];
static int file = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static unsigned long now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000ul + at.tv_nsec;
}

static APART void sleeps(void) { usleep(17000), sink++; }

// Many waits that are each far shorter than a sample stands for.
static APART void naps(void) {
    for (int i = 0; i < 40; i++)
        usleep(200), sink++;
}

static APART void reads_pipe(void) {
    char bytes[64];
    // The first read takes what has gathered, so that the second waits.
    sink += read(pipes[0], bytes, sizeof bytes);
    sink += read(pipes[0], bytes, sizeof bytes);
}

static APART void takes_lock(void) {
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
    sink++;
}

static APART void writes_disk(void) {
    static char bytes[1 << 18];
    if (file >= 0 && (pwrite(file, bytes, sizeof bytes, 0) != sizeof bytes || fdatasync(file)))
        _exit(2);
    sink++;
}

static APART void works(void) {
    for (long i = 0; i < 8000000; i++)
        sink += i * i;
}

static void *writes_pipe(void *nothing) {
    while (!over) {
        usleep(23000);
        if (write(pipes[1], "x", 1) != 1)
            break;
    }
    return nothing;
}

static void *holds_lock(void *nothing) {
    while (!over) {
        pthread_mutex_lock(&lock);
        usleep(11000);
        pthread_mutex_unlock(&lock);
        usleep(1000);
    }
    return nothing;
}

static void *moves(void *target) {
    int processors = sysconf(_SC_NPROCESSORS_ONLN);
    for (int at = 0; !over; at++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(at % processors, &one);
        pthread_setaffinity_np(*(pthread_t *)target, sizeof one, &one);
        usleep(3000);
    }
    return target;
}

int main(int count, char **arguments) {
    if (count > 2 && (file = open(arguments[2], O_RDWR | O_CREAT, 0600)) < 0)
        return 2;
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    unsigned long end = now(CLOCK_MONOTONIC) + (unsigned long)(atof(arguments[1]) * 1e9);
    pthread_t self = pthread_self(), others[3];
    if (pipe(pipes))
        return 1;
    pthread_create(&others[0], NULL, writes_pipe, NULL);
    pthread_create(&others[1], NULL, holds_lock, NULL);
    pthread_create(&others[2], NULL, moves, &self);
    long spent[6] = {0};
    void (*ways[6])(void) = {sleeps, naps, reads_pipe, takes_lock, works, writes_disk};
    unsigned long begun = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
    while (now(CLOCK_MONOTONIC) < end)
        for (int i = 0; i < 6; i++) {
            unsigned long wall = now(CLOCK_MONOTONIC), own = now(CLOCK_THREAD_CPUTIME_ID);
            ways[i]();
            spent[i] += now(CLOCK_MONOTONIC) - wall - (now(CLOCK_THREAD_CPUTIME_ID) - own);
        }
    unsigned long wall = now(CLOCK_MONOTONIC) - begun;
    cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    over = 1;
    printf("sleeps=%ld naps=%ld reads_pipe=%ld takes_lock=%ld works=%ld writes_disk=%ld wall=%lu cpu=%lu\n", spent[0],
           spent[1], spent[2], spent[3], spent[4], spent[5], wall, cpu);
    fflush(stdout);
    _exit(0);
}
