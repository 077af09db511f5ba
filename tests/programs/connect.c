// Connects once. Arguments: address port bytes syn_retries
//
// Sends `bytes` after connecting; limits the retransmissions of the SYN to `syn_retries` unless that is 0.
// Says: outcome=established|ERRNO connect_ns=N   and waits for the end of its input before it closes.
#define _GNU_SOURCE // strerrorname_np
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    struct sockaddr_storage address = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address;
    socklen_t length;
    in_port_t port = htons(atoi(arguments[2]));
    if (inet_pton(AF_INET, arguments[1], &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET, v4->sin_port = port, length = sizeof *v4;
    } else if (inet_pton(AF_INET6, arguments[1], &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6, v6->sin6_port = port, length = sizeof *v6;
    } else {
        return 2;
    }
    long bytes = atol(arguments[3]);
    int retries = atoi(arguments[4]);
    int connection = socket(address.ss_family, SOCK_STREAM, 0);
    if (connection < 0)
        return 1;
    if (retries && setsockopt(connection, IPPROTO_TCP, TCP_SYNCNT, &retries, sizeof retries))
        return 1;

    long long begin = now_ns();
    int failed = connect(connection, (struct sockaddr *)&address, length);
    int reason = errno;
    long long end = now_ns();
    printf("outcome=%s connect_ns=%lld\n", failed ? strerrorname_np(reason) : "established", end - begin);
    fflush(stdout);
    if (failed)
        return 0;
    static char block[10000];
    while (bytes > 0) {
        ssize_t sent = write(connection, block, bytes < (long)sizeof block ? bytes : (long)sizeof block);
        if (sent <= 0)
            return 1;
        bytes -= sent;
    }
    while (read(0, block, sizeof block) > 0)
        ;
    return 0;
}
