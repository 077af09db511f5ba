// Sends a file through a connection without reading it (sendfile). Arguments: port file. Says sent=BYTES.
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(atoi(arguments[1]));
    int file = open(arguments[2], O_RDONLY), connection = socket(AF_INET, SOCK_STREAM, 0);
    if (file < 0 || connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address))
        return 1;
    long long sent = 0;
    ssize_t part;
    while ((part = sendfile(connection, file, NULL, 1 << 20)) > 0)
        sent += part;
    printf("sent=%lld\n", sent);
    return part < 0;
}
