// Spends its CPU time on two paths of ten calls each and in a recursion, and says at the end how much on each, by the thread's
// own CPU clock. Arguments: seconds, threads, and any of "signal" (a timer interrupts, whose handler works too), "fork" (all is done by
// a child without exec), "library PATH" (the path "left" goes through a function of that library, opened after a while), "long" (each
// path is stayed on for a hundred times as long at a stretch).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static volatile unsigned long sink;
static _Thread_local unsigned long spent[4];
static unsigned long totals[4];
static unsigned long by_handler;
static double seconds;
static int stretch = 1;
static int (*through)(int (*)(int), int);

static unsigned long now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000ul + at.tv_nsec;
}

static APART int work(int units) {
    for (long i = 0; i < units * 1000l; i++)
        sink += i * i;
    return units + (int)(sink & 1);
}

#define LINK(side, at, next) \
    static APART int side##at(int units) { return side##next(units) + (int)(sink & 1); }
#define CHAIN(side) \
    LINK(side, 8, 9) LINK(side, 7, 8) LINK(side, 6, 7) LINK(side, 5, 6) LINK(side, 4, 5) LINK(side, 3, 4) LINK(side, 2, 3) \
    LINK(side, 1, 2)

static APART int left9(int units) { return (through ? through(work, units) : work(units)) + (int)(sink & 1); }
static APART int right9(int units) { return work(units) + (int)(sink & 1); }
CHAIN(left)
CHAIN(right)

static APART int down(int depth, int units) {
    if (depth == 0)
        return work(units);
    // The result is needed here, so that this is no jump.
    return down(depth - 1, units) + (int)(sink & 1);
}

static APART void handler_works(void) { work(20); }

static void on_signal(int number) {
    (void)number;
    unsigned long before = now(CLOCK_THREAD_CPUTIME_ID);
    handler_works();
    by_handler += now(CLOCK_THREAD_CPUTIME_ID) - before;
}

// Half to one and a half times as much, never twice the same: turns of one length can keep step with who samples them.
static int about(int units) {
    static _Thread_local unsigned state = 1;
    state = state * 1103515245u + 12345u;
    return units * stretch / 100 * (50 + (int)(state >> 16) % 101);
}

static void *run(void *nothing) {
    unsigned long end = now(CLOCK_MONOTONIC) + (unsigned long)(seconds * 1e9);
    unsigned long at = now(CLOCK_THREAD_CPUTIME_ID), begun = at;
    while (now(CLOCK_MONOTONIC) < end) {
        unsigned long handled = by_handler;
        left1(about(600));
        unsigned long next = now(CLOCK_THREAD_CPUTIME_ID);
        spent[0] += next - at - (by_handler - handled);
        at = next, handled = by_handler;
        right1(about(300));
        next = now(CLOCK_THREAD_CPUTIME_ID);
        spent[1] += next - at - (by_handler - handled);
        at = next, handled = by_handler;
        down(200, about(100));
        next = now(CLOCK_THREAD_CPUTIME_ID);
        spent[2] += next - at - (by_handler - handled);
        at = next;
    }
    spent[3] = at - begun;
    for (int i = 0; i < 4; i++)
        __atomic_fetch_add(&totals[i], spent[i], __ATOMIC_RELAXED);
    return nothing;
}

int main(int count, char **arguments) {
    seconds = atof(arguments[1]);
    int threads = atoi(arguments[2]);
    for (int i = 3; i < count; i++) {
        if (!strcmp(arguments[i], "signal")) {
            struct itimerval often = {{0, 5000}, {0, 5000}};
            signal(SIGPROF, on_signal);
            setitimer(ITIMER_PROF, &often, NULL);
        } else if (!strcmp(arguments[i], "fork")) {
            pid_t child = fork();
            if (child != 0) {
                printf("pid=%d\n", child);
                fflush(stdout);
                waitpid(child, NULL, 0);
                return 0;
            }
        } else if (!strcmp(arguments[i], "long")) {
            stretch = 100;
        } else if (!strcmp(arguments[i], "library")) {
            usleep(300000);
            void *library = dlopen(arguments[++i], RTLD_NOW);
            through = library ? (int (*)(int (*)(int), int))dlsym(library, "through_library") : NULL;
            if (!through)
                return 1;
        }
    }
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    pthread_t all[64];
    for (int i = 1; i < threads; i++)
        pthread_create(&all[i], NULL, run, NULL);
    run(NULL);
    for (int i = 1; i < threads; i++)
        pthread_join(all[i], NULL);
    printf("left=%lu right=%lu down=%lu handler=%lu all=%lu\n", totals[0], totals[1], totals[2], by_handler, totals[3]);
    return 0;
}
