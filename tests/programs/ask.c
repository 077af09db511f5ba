// Sends requests and reads the answers. Arguments: address port requests pause_us peeks
//
// address   IPv4, IPv6, or the path of a unix socket (then port is not used)
// pause_us  unless 0: waits until the answer is there (poll), and this long more before it reads it
// peeks     how often it looks at each answer (MSG_PEEK) before it reads it
// A request is REQUEST bytes in one write; an answer is ANSWER bytes in one read. Says, each from outside the calls:
// write_ns=N read_ns=N (sums, peeks included) waited_ns=N (from before each write to after its answer's read)
// and ends with its input.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 100, ANSWER = 1000 };

static long long now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 6)
        return 2;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
    } address = {0};
    in_port_t port = htons(atoi(arguments[2]));
    socklen_t length;
    if (inet_pton(AF_INET, arguments[1], &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET, address.v4.sin_port = port, length = sizeof address.v4;
    } else if (inet_pton(AF_INET6, arguments[1], &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6, address.v6.sin6_port = port, length = sizeof address.v6;
    } else {
        if (strlen(arguments[1]) >= sizeof address.path.sun_path)
            return 2;
        address.path.sun_family = AF_UNIX, length = sizeof address.path;
        strcpy(address.path.sun_path, arguments[1]);
    }
    long requests = atol(arguments[3]), pause_us = atol(arguments[4]), peeks = atol(arguments[5]);
    struct timespec pause = {.tv_sec = pause_us / 1000000, .tv_nsec = pause_us % 1000000 * 1000};
    int connection = socket(address.any.sa_family, SOCK_STREAM, 0);
    if (connection < 0 || connect(connection, &address.any, length))
        return 1;
    long long write_ns = 0, read_ns = 0, waited_ns = 0;
    static char block[ANSWER];
    for (; requests > 0; requests--) {
        long long begin = now_ns();
        if (write(connection, block, REQUEST) != REQUEST)
            return 1;
        write_ns += now_ns() - begin;
        struct pollfd answer = {.fd = connection, .events = POLLIN};
        if (pause_us && (poll(&answer, 1, -1) != 1 || nanosleep(&pause, NULL)))
            return 1;
        for (long left = peeks; left >= 0; left--) {
            long long before = now_ns();
            if (recv(connection, block, ANSWER, left ? MSG_PEEK : 0) != ANSWER)
                return 1;
            read_ns += now_ns() - before;
        }
        waited_ns += now_ns() - begin;
    }
    printf("write_ns=%lld read_ns=%lld waited_ns=%lld\n", write_ns, read_ns, waited_ns);
    fflush(stdout);
    while (read(0, block, sizeof block) > 0)
        ;
    return 0;
}
