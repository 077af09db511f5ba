// Opens and uses sockets whose end the kernel does not report, unix pairs and UDP, all at once so that none takes the
// place of another in the kernel's memory, and closes them. Arguments: rounds.
// Uses a further pair, and says sockets=N, those that were closed; then, for each line of its input, uses that pair again
// and says used.
#define _GNU_SOURCE // close_range, sched_setaffinity
#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int use(int from, int to) {
    char byte = 'x';
    return write(from, &byte, 1) == 1 && read(to, &byte, 1) == 1;
}

// Entries that a processor made last are not taken away by others (kernel, kernel/bpf/bpf_lru_list.h): each takes part.
static void next_processor(const cpu_set_t *all) {
    static int last = -1;
    do
        last = (last + 1) % CPU_SETSIZE;
    while (!CPU_ISSET(last, all));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    sched_setaffinity(0, sizeof one, &one);
}

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    long rounds = atol(arguments[1]), sockets = 0;
    struct rlimit files = {.rlim_cur = rounds * 3 + 100, .rlim_max = rounds * 3 + 100};
    if (setrlimit(RLIMIT_NOFILE, &files))
        return 1;
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all))
        return 1;
    for (long round = 0; round < rounds; round++) {
        if (round % 50 == 0)
            next_processor(&all);
        int pair[2], own = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof address;
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || bind(own, (struct sockaddr *)&address, length) ||
            getsockname(own, (struct sockaddr *)&address, &length) || connect(own, (struct sockaddr *)&address, length))
            return 1;
        if (!use(pair[0], pair[1]) || !use(own, own))
            return 1;
        sockets += 3;
    }
    close_range(3, ~0U, 0);
    sched_setaffinity(0, sizeof all, &all);
    int held[2];
    // Only one end is used, so that it stays the one that this task used last.
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, held) || write(held[0], "x", 1) != 1)
        return 1;
    printf("sockets=%ld\n", sockets);
    fflush(stdout);
    for (char line[16]; fgets(line, sizeof line, stdin);) {
        if (write(held[0], "x", 1) != 1)
            return 1;
        puts("used");
        fflush(stdout);
    }
}
