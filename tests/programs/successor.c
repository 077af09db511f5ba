// Answers each caller with the one byte that it was built with (VERSION). At SIGHUP it becomes whatever lies at its path by
// then, in place, and goes on with the same listener. Says port=N and "runs VERSION".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t asked;
static void hang_up(int signal) { (void)signal, asked = 1; }

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = count > 1 ? atoi(arguments[1]) : socket(AF_INET, SOCK_STREAM, 0);
    if (count == 1) {
        if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 128))
            return 1;
        getsockname(listener, (struct sockaddr *)&address, &length);
        printf("port=%d\n", ntohs(address.sin_port));
    }
    // Without SA_RESTART: the signal ends the waiting. What comes before is delivered when it is let through.
    struct sigaction action = {.sa_handler = hang_up};
    sigaction(SIGHUP, &action, NULL);
    sigset_t signals, none;
    sigemptyset(&none);
    sigemptyset(&signals);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    printf("runs %c\n", VERSION);
    fflush(stdout);
    while (!asked) {
        struct pollfd waiting = {.fd = listener, .events = POLLIN};
        if (ppoll(&waiting, 1, NULL, &none) < 1)
            continue;
        int caller = accept(listener, NULL, NULL);
        char byte;
        if (caller < 0 || read(caller, &byte, 1) != 1)
            return 1;
        byte = VERSION;
        if (write(caller, &byte, 1) != 1)
            return 1;
        close(caller);
    }
    char number[16];
    snprintf(number, sizeof number, "%d", listener);
    execl(arguments[0], arguments[0], number, NULL);
    return 1;
}
