// Breaks connections off with a reset. Arguments: port lingers unread. Says broken=N; ends with its input.
//
// lingers  connections that are closed with SO_LINGER of 0
// unread   connections that are closed while there is something to read
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(atoi(arguments[1]));
    long lingers = atol(arguments[2]), unread = atol(arguments[3]), broken = 0;
    while (broken < lingers + unread) {
        struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        char byte;
        int connection = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection, (struct sockaddr *)&address, sizeof address))
            return 1;
        // The server has accepted once it has said something.
        if (recv(connection, &byte, 1, broken < lingers ? 0 : MSG_PEEK) != 1)
            return 1;
        if (broken < lingers && setsockopt(connection, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once))
            return 1;
        if (close(connection))
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
