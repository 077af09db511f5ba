// Sends files in turn through one loopback connection, as exchange.c does, by sendmsg and recvmsg. Arguments: way file...
//
// peek     looks at all bytes twice (MSG_PEEK) before each read
// buffers  one byte in each buffer, as many as one call takes (UIO_MAXIOV)
// Says sent=BYTES answered=BYTES.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST = 1024 };
static char block[MOST];
static struct iovec buffers[MOST];

static struct msghdr message(size_t length, int one_each) {
    struct msghdr head = {.msg_iov = buffers, .msg_iovlen = one_each ? length : 1};
    for (size_t at = 0; at < head.msg_iovlen; at++)
        buffers[at] = (struct iovec){block + at, one_each ? 1 : length};
    return head;
}

static long pass(const char *path, int from, int to, const char *way) {
    int one_each = !strcmp(way, "buffers");
    FILE *file = fopen(path, "r");
    long all = 0;
    for (size_t length; file && (length = fread(block, 1, MOST, file)) > 0; all += length) {
        struct msghdr head = message(length, one_each);
        if (sendmsg(from, &head, 0) != (ssize_t)length)
            exit(1);
        for (int look = 0; look < 2 && !one_each; look++) {
            head = message(length, 0);
            if (recvmsg(to, &head, MSG_PEEK | MSG_WAITALL) != (ssize_t)length)
                exit(1);
        }
        head = message(length, one_each);
        if (recvmsg(to, &head, MSG_WAITALL) != (ssize_t)length)
            exit(1);
    }
    if (!file || fclose(file))
        exit(1);
    return all;
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    if (count < 2 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&address, &length) ||
        connect(client, (struct sockaddr *)&address, length))
        return 1;
    int server = accept(listener, NULL, NULL);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    long moved[2] = {0};
    for (int at = 2; at < count; at++) {
        int answers = at % 2;
        moved[answers] += pass(arguments[at], answers ? server : client, answers ? client : server, arguments[1]);
    }
    printf("sent=%ld answered=%ld\n", moved[0], moved[1]);
}
