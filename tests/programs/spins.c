// Is found on the path main, outer, inner: spends CPU time there, or waits there. Says that it is ready, and goes on until it is killed.
// Arguments: "spin", "spin MILLISECONDS" (of CPU time after the first byte of input, then it ends), "wait", "naps MILLISECONDS" (of CPU
// time after each 0.4 s), or "many NUMBER" (that many children, each of whom mostly waits).
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static volatile unsigned long sink;

static double used(void) {
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return at.tv_sec * 1e3 + at.tv_nsec / 1e6;
}

// How much at most; 0 is without end.
static APART int inner(double milliseconds) {
    do
        for (int i = 0; i < 100000; i++)
            sink += i;
    while (milliseconds == 0 || used() < milliseconds);
    return (int)(sink & 1);
}

static APART int outer(double milliseconds) { return inner(milliseconds) + (int)(sink & 1); }

static APART int waits(void) {
    while (!(sink & 1))
        sleep(3600);
    return (int)sink;
}

static void ready(void) {
    printf("ready\n");
    fflush(stdout);
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "many")) {
        for (int i = atoi(arguments[2]); i > 0; i--) {
            pid_t child = fork();
            if (child < 0)
                return 1;
            if (child == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                return waits();
            }
        }
        ready();
        return waits();
    }
    ready();
    if (!strcmp(arguments[1], "wait"))
        return waits();
    for (double until = 0; count > 2 && !strcmp(arguments[1], "naps");) {
        usleep(400000);
        outer(until = used() + atof(arguments[2]));
    }
    if (count > 2 && getchar() == EOF)
        return 1;
    return outer(count > 2 ? atof(arguments[2]) : 0) & 0;
}
