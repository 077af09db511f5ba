// Listens on a port of its own, says port=N, accepts one connection, reads it to its end, says read=BYTES, and ends with
// its input.
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("port=%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int connection = accept(listener, NULL, NULL);
    if (connection < 0)
        return 1;
    static char block[65536];
    ssize_t part;
    long long all = 0;
    while ((part = read(connection, block, sizeof block)) > 0)
        all += part;
    printf("read=%lld\n", all);
    fflush(stdout);
    while (read(0, block, sizeof block) > 0)
        ;
    return part < 0;
}
