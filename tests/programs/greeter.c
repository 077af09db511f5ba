// Greets each caller with one byte and waits until it is gone. Says port=N, and reset=N ended=N when its input ends:
// how many callers left with a reset, and how many in peace.
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
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 16))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("port=%d\n", ntohs(address.sin_port));
    fflush(stdout);
    long reset = 0, ended = 0;
    for (;;) {
        struct pollfd either[] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
        if (poll(either, 2, -1) < 1)
            return 1;
        // Callers first: the input may end while some wait.
        if (!either[1].revents)
            break;
        int caller = accept(listener, NULL, NULL);
        char byte = 0;
        if (caller < 0 || write(caller, &byte, 1) != 1)
            return 1;
        if (read(caller, &byte, 1) == 0)
            ended++;
        else if (errno == ECONNRESET)
            reset++;
        close(caller);
    }
    printf("reset=%ld ended=%ld\n", reset, ended);
    return 0;
}
