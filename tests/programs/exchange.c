// Sends files in turn through one loopback connection: the first from the client's end, the second from the
// server's, and so on. Arguments: chunk file...   Each write and each read moves at most `chunk` bytes.
// Says port=N sent=BYTES answered=BYTES.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static long pass(FILE *file, int from, int to, char *block, size_t chunk) {
    long all = 0;
    size_t length;
    while ((length = fread(block, 1, chunk, file)) > 0) {
        if (write(from, block, length) != (ssize_t)length)
            return -1;
        for (size_t got = 0; got < length;) {
            ssize_t part = read(to, block, chunk);
            if (part <= 0)
                return -1;
            got += part;
        }
        all += length;
    }
    return all;
}

int main(int count, char **arguments) {
    if (count < 2)
        return 2;
    size_t chunk = atol(arguments[1]);
    char *block = malloc(chunk);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    if (!block || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    if (connect(client, (struct sockaddr *)&address, length))
        return 1;
    int server = accept(listener, NULL, NULL);
    int on = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    long total[2] = {0, 0};
    for (int i = 2; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        if (!file)
            return 1;
        setvbuf(file, NULL, _IOFBF, 1 << 16);
        int answer = i % 2;
        long passed = answer ? pass(file, server, client, block, chunk) : pass(file, client, server, block, chunk);
        if (passed < 0)
            return 1;
        total[answer] += passed;
        fclose(file);
    }
    printf("port=%d sent=%ld answered=%ld\n", ntohs(address.sin_port), total[0], total[1]);
    return 0;
}
