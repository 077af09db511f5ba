// Holds open connections to itself over loopback. Argument: pairs (two sockets each). Says ready; ends with its input.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    long pairs = atol(arguments[1]);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files))
        return 1;
    files.rlim_cur = 2 * pairs + 10;
    if (files.rlim_max < files.rlim_cur)
        files.rlim_max = files.rlim_cur;
    if (setrlimit(RLIMIT_NOFILE, &files)) {
        perror("cannot raise the limit of open files");
        return 1;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 128))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    for (long i = 0; i < pairs; i++) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (client < 0 || connect(client, (struct sockaddr *)&address, length) || accept(listener, NULL, NULL) < 0) {
            perror("cannot connect");
            return 1;
        }
    }
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
