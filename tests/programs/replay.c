// Plays one end of recorded conversations over loopback, one connection for each script. Arguments: end calls chunk port
// script...   `end` is client or server; a server takes port 0, says port=N and serves its scripts in their order.
// `calls` says by which the bytes move; each call moves at most `chunk` of them, 0 for as many as there are.
// A script is a sequence of moves: a byte (1 towards the server), the length as 32 bits, the bytes.
// A call on an array of buffers gets an empty one, then one of 1 byte, of 4, and the rest.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int arrange(struct iovec *buffers, char *bytes, size_t length) {
    size_t sizes[] = {0, 1, 4, length};
    int count = 0;
    for (int i = 0; i < 4; i++) {
        size_t size = sizes[i] < length ? sizes[i] : length;
        buffers[count++] = (struct iovec){bytes, size};
        bytes += size;
        length -= size;
    }
    return count;
}

static ssize_t move(const char *calls, int out, int socket, char *bytes, size_t length) {
    struct iovec buffers[4];
    struct msghdr message = {.msg_iov = buffers, .msg_iovlen = arrange(buffers, bytes, length)};
    if (!strcmp(calls, "write"))
        return out ? write(socket, bytes, length) : read(socket, bytes, length);
    if (!strcmp(calls, "send"))
        return out ? send(socket, bytes, length, 0) : recv(socket, bytes, length, 0);
    if (!strcmp(calls, "writev"))
        return out ? writev(socket, buffers, 4) : readv(socket, buffers, 4);
    if (!strcmp(calls, "pwritev2"))
        return out ? pwritev2(socket, buffers, 4, -1, 0) : preadv2(socket, buffers, 4, -1, 0);
    if (!strcmp(calls, "sendmsg"))
        return out ? sendmsg(socket, &message, 0) : recvmsg(socket, &message, 0);
    return -1;
}

static int play(const char *path, int server, const char *calls, size_t chunk, int socket) {
    FILE *script = fopen(path, "rb");
    if (!script)
        return 0;
    int up;
    while ((up = fgetc(script)) != EOF) {
        uint32_t length;
        if (fread(&length, sizeof length, 1, script) != 1)
            return 0;
        char *bytes = malloc(length);
        if (fread(bytes, 1, length, script) != length)
            return 0;
        int out = (up == 1) != server;
        for (size_t at = 0; at < length;) {
            size_t most = chunk && chunk < length - at ? chunk : length - at;
            ssize_t moved = move(calls, out, socket, bytes + at, most);
            if (moved <= 0)
                return 0;
            at += moved;
        }
        free(bytes);
    }
    fclose(script);
    // Whoever is done first must not break off what the other has still to read.
    shutdown(socket, SHUT_WR);
    char rest;
    while (read(socket, &rest, 1) > 0)
        ;
    return 1;
}

int main(int count, char **arguments) {
    if (count < 6)
        return 2;
    int server = !strcmp(arguments[1], "server"), on = 1;
    size_t chunk = atol(arguments[3]);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(atoi(arguments[4]))};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (server) {
        if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1))
            return 1;
        getsockname(listener, (struct sockaddr *)&address, &length);
        printf("port=%d\n", ntohs(address.sin_port));
        fflush(stdout);
    }
    for (int i = 5; i < count; i++) {
        int connection = server ? accept(listener, NULL, NULL) : socket(AF_INET, SOCK_STREAM, 0);
        if (!server && connect(connection, (struct sockaddr *)&address, length))
            return 1;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (!play(arguments[i], server, arguments[2], chunk, connection))
            return 1;
        close(connection);
    }
    return 0;
}
