// Lets data become ready on one processor while that processor is at making other data ready: in a network of its own,
// the second processor sends datagrams that the first one delivers in an interrupt (receive packet steering), while the
// first passes messages to itself. Goes on until it is killed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

static void stay_on(int processor) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    if (sched_setaffinity(0, sizeof one, &one)) err(1, "processor %d", processor);
}

static void *send_datagrams(void *unused) {
    stay_on(1);
    int socket_fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof own;
    if (bind(socket_fd, (struct sockaddr *)&own, length) || getsockname(socket_fd, (struct sockaddr *)&own, &length))
        err(1, "datagram socket");
    for (char byte;;) {
        sendto(socket_fd, "x", 1, 0, (struct sockaddr *)&own, length);
        while (recv(socket_fd, &byte, 1, MSG_DONTWAIT) == 1) {}
    }
    return unused;
}

int main(void) {
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        err(1, "a network of its own");
    if (mount("sysfs", "/sys", "sysfs", 0, NULL)) err(1, "/sys");
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &loopback)) err(1, "lo");
    int steering = open("/sys/class/net/lo/queues/rx-0/rps_cpus", O_WRONLY);
    if (steering < 0 || write(steering, "1", 1) != 1) err(1, "receive packet steering");
    pthread_t sender;
    if (pthread_create(&sender, NULL, send_datagrams, NULL)) errx(1, "no thread");
    stay_on(0);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)) err(1, "socketpair");
    puts("ready");
    fflush(stdout);
    for (char byte;;)
        if (write(pair[0], "x", 1) != 1 || read(pair[1], &byte, 1) != 1) err(1, "own message");
}
