// Takes SIGHUP in the way that is said and says "got" for each: "handler", "signalfd" or "sigwait"; "ignore" does not take it.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static volatile sig_atomic_t got;

static void handle(int signal) {
    (void)signal;
    got++;
}

int main(int count, char **arguments) {
    const char *way = count > 1 ? arguments[1] : "";
    sigset_t set, none;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    if (!strcmp(way, "ignore")) {
        signal(SIGHUP, SIG_IGN);
        puts("ready");
        for (;;) pause();
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (!strcmp(way, "handler")) {
        struct sigaction action = {.sa_handler = handle};
        sigaction(SIGHUP, &action, NULL);
        puts("ready");
        for (;;) {
            sigsuspend(&none);
            puts("got");
        }
    }
    int fd = signalfd(-1, &set, 0), signal;
    struct signalfd_siginfo seen;
    puts("ready");
    for (;;) {
        if (!strcmp(way, "sigwait")) sigwait(&set, &signal);
        else if (read(fd, &seen, sizeof seen) != sizeof seen) return 1;
        puts("got");
    }
}
