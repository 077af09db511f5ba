// Breaks connections off with a reset (SO_LINGER 0). Arguments: port connections. Says broken=N; ends with its input.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(atoi(arguments[1]));
    long broken = 0;
    for (long left = atol(arguments[2]); left > 0; left--) {
        struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        char byte;
        int connection = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection, (struct sockaddr *)&address, sizeof address))
            return 1;
        // The server has accepted once it has said something.
        if (read(connection, &byte, 1) != 1)
            return 1;
        if (setsockopt(connection, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) || close(connection))
            return 1;
        broken++;
    }
    printf("broken=%ld\n", broken);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
