// Six threads that each spend their time in one way, and how long that was. Argument: milliseconds.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int over;
static volatile unsigned long sink;
static int pipes[2], sockets[2], polled[2];
static struct timespec length;

static void *spins(void *nothing) {
    while (!over)
        sink++;
    return nothing;
}

static void *sleeps(void *nothing) {
    struct timeval time = {length.tv_sec, length.tv_nsec / 1000};
    select(0, NULL, NULL, NULL, &time);
    return nothing;
}

static void *locks(void *nothing) {
    pthread_mutex_lock(&lock);
    return nothing;
}

static void *polls(void *nothing) {
    struct epoll_event event = {.events = EPOLLIN};
    int poll = epoll_create1(0);
    epoll_ctl(poll, EPOLL_CTL_ADD, polled[0], &event);
    epoll_wait(poll, &event, 1, -1);
    return nothing;
}

static void *receives(void *nothing) {
    char byte;
    sink += read(sockets[0], &byte, 1);
    return nothing;
}

static void *reads(void *nothing) {
    char byte;
    sink += read(pipes[0], &byte, 1);
    return nothing;
}

int main(int count, char **arguments) {
    (void)count;
    long milliseconds = atol(arguments[1]);
    length = (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000};
    void *(*ways[6])(void *) = {spins, sleeps, locks, polls, receives, reads};
    pthread_t threads[6];
    struct timespec begun, ended;
    if (pipe(pipes) || pipe(polled) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
        return 1;
    pthread_mutex_lock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL, ways[i], NULL);
    nanosleep(&length, NULL);
    over = 1;
    pthread_mutex_unlock(&lock);
    if (write(pipes[1], "x", 1) != 1 || write(polled[1], "x", 1) != 1 || write(sockets[1], "x", 1) != 1)
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    printf("us=%ld\n", (ended.tv_sec - begun.tv_sec) * 1000000 + (ended.tv_nsec - begun.tv_nsec) / 1000);
}
