// Calls one peer after the other, each at an address of its own in 127.0.0.0/8, where nobody answers. Arguments: peers.
// Says refused=N.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    long refused = 0;
    for (long peer = 0; peer < atol(arguments[1]); peer++) {
        // Port 1 is tcpmux (RFC 1078), which is no more.
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1)};
        address.sin_addr.s_addr = htonl(0x7F010000 + peer);
        int caller = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(caller, (struct sockaddr *)&address, sizeof address) == 0 || errno != ECONNREFUSED)
            return 1;
        refused++;
        close(caller);
    }
    printf("refused=%ld\n", refused);
}
