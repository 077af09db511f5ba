// Listens with the shortest accept queue, fills it and never accepts: the kernel drops further SYNs
// (Linux, net/ipv4/tcp_input.c, tcp_conn_request: sk_acceptq_is_full). Says port=N; ends with its input.
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 0))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    // A queue of length 0 takes one connection. It is full when an attempt is not through after 200 ms: on
    // loopback an answer to a SYN comes within the call.
    for (int attempt = 0; attempt < 16; attempt++) {
        int filler = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (!connect(filler, (struct sockaddr *)&address, length))
            continue;
        if (errno != EINPROGRESS)
            return 1;
        struct pollfd writable = {.fd = filler, .events = POLLOUT};
        if (poll(&writable, 1, 200) == 0) {
            close(filler);
            printf("port=%d\n", ntohs(address.sin_port));
            fflush(stdout);
            char byte;
            while (read(0, &byte, 1) > 0)
                ;
            return 0;
        }
    }
    return 1;
}
