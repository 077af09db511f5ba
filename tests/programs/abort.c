// Calls where nobody answers, and gives up at once. Arguments: port of a listener on 127.0.0.1 that drops calls; calls.
// Says aborted=N.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int aborted = 0;
    for (; aborted < atoi(arguments[2]); aborted++) {
        int caller = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(caller, (struct sockaddr *)&address, sizeof address) == 0 || errno != EINPROGRESS)
            return 1;
        close(caller);
    }
    printf("aborted=%d\n", aborted);
}
