// Plays one part of an incident: serves, calls, burns, writes, leaks. Does little until it is told "go" on its standard input;
// "delay N" and "work N" set how long a server sleeps and computes for each request, in microseconds; "take N" takes N MiB.
// ON_CPU=N pins it; ON_HANGUP=N is the delay from SIGHUP on, at which it reads that anew.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static volatile int going;
static volatile long delay_us, work_us;

static void pause_us(long us) {
    if (us > 0) usleep((useconds_t)us);
}

static void *listen_to_orders(void *unused) {
    (void)unused;
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "go", 2)) going = 1;
        if (!strncmp(line, "rest", 4)) going = 0;
        sscanf(line, "delay %ld", &delay_us);
        sscanf(line, "work %ld", &work_us);
        long mib = 0;
        if (sscanf(line, "take %ld", &mib) == 1) memset(malloc((size_t)mib << 20), 1, (size_t)mib << 20);
    }
    return NULL;
}

static long hangup_delay_us;

static void reload(int signal) {
    (void)signal;
    delay_us = hangup_delay_us;
}

static void spin(long us) {
    struct timespec begin, now;
    if (us <= 0) return;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    do {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    } while ((now.tv_sec - begin.tv_sec) * 1000000L + (now.tv_nsec - begin.tv_nsec) / 1000 < us);
}

static void *answer(void *connection) {
    int fd = (int)(long)connection;
    char byte;
    while (read(fd, &byte, 1) == 1) {
        pause_us(delay_us);
        spin(work_us);
        if (write(fd, &byte, 1) != 1) break;
    }
    close(fd);
    return NULL;
}

static const char *upstream;

static struct sockaddr_in at(const char *address, int port);

// Asks another for each answer.
static void *pass_on(void *connection) {
    int fd = (int)(long)connection, other = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in name = at("127.0.0.1", atoi(upstream));
    char byte;
    if (!connect(other, (struct sockaddr *)&name, sizeof name))
        while (read(fd, &byte, 1) == 1 && write(other, &byte, 1) == 1 && read(other, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
            continue;
    close(other);
    close(fd);
    return NULL;
}

static struct sockaddr_in at(const char *address, int port) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, address, &name.sin_addr);
    return name;
}

// Takes what is sent.
static void *drain(void *connection) {
    char block[65536];
    while (read((int)(long)connection, block, sizeof block) > 0) continue;
    close((int)(long)connection);
    return NULL;
}

static void *(*part)(void *) = answer;

static int serve(const char *address, int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in name = at(address, port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&name, sizeof name) || listen(listener, 64)) return perror("bind"), 1;
    socklen_t size = sizeof name;
    getsockname(listener, (struct sockaddr *)&name, &size);
    printf("port=%d\n", ntohs(name.sin_port));
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd >= 0 && !pthread_create(&thread, NULL, part, (void *)(long)fd)) pthread_detach(thread);
    }
}

// Asks again and again, on one connection as long as it holds.
static void call(const char *address, int port, long pause) {
    struct sockaddr_in name = at(address, port);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        char byte = 'x';
        if (!connect(fd, (struct sockaddr *)&name, sizeof name))
            while (write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1) pause_us(pause);
        close(fd);
        pause_us(50000);
    }
}

// The same, on a connection for each question: twice a second, or as often as it is told.
static void storm(const char *address, int port, long pause) {
    struct sockaddr_in name = at(address, port);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        char byte = 'x';
        if (connect(fd, (struct sockaddr *)&name, sizeof name) || write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) perror("storm");
        close(fd);
        pause_us(going ? pause : 500000);
    }
}

struct far { const char *address; int port; };

// Sends as much as goes.
static void *stream(void *argument) {
    struct far *far = argument;
    struct sockaddr_in name = at(far->address, far->port);
    static char block[8192];
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (!connect(fd, (struct sockaddr *)&name, sizeof name))
            while (write(fd, block, sizeof block) > 0) pause_us(100000);
        close(fd);
        pause_us(50000);
    }
    return NULL;
}

// Listens, and accepts nobody while told to go, or each a while after the one before.
static int deaf(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in name = at("127.0.0.1", port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&name, sizeof name) || listen(listener, 1)) return perror("bind"), 1;
    socklen_t size = sizeof name;
    getsockname(listener, (struct sockaddr *)&name, &size);
    printf("port=%d\n", ntohs(name.sin_port));
    for (;;) {
        if (going) {
            pause_us(100000);
            continue;
        }
        pause_us(delay_us);
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0) close(fd);
    }
}

// Calls again and again, twice at once, without waiting for an answer.
static void knock(int port, long pause) {
    struct sockaddr_in name = at("127.0.0.1", port);
    for (;;) {
        int pair[2];
        for (int at = 0; at < 2; at++) {
            pair[at] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            connect(pair[at], (struct sockaddr *)&name, sizeof name);
        }
        pause_us(pause);
        close(pair[0]);
        close(pair[1]);
    }
}

static void *burn(void *unused) {
    (void)unused;
    for (;;) {
        if (going) spin(10000);
        else pause_us(20000);
    }
    return NULL;
}

struct writer { const char *path; size_t bytes; long pause; int waits; };

static void *synced(void *argument) {
    struct writer *writer = argument;
    char path[512], *block = malloc(writer->bytes);
    snprintf(path, sizeof path, "%s.%ld", writer->path, (long)gettid());
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    memset(block, 7, writer->bytes);
    for (off_t at = 0;; at = (at + (off_t)writer->bytes) % (64 << 20)) {
        while (writer->waits && !going) pause_us(20000);
        if (pwrite(fd, block, writer->bytes, at) < 0 || fdatasync(fd)) perror("write");
        pause_us(writer->pause);
    }
    return NULL;
}

static void all(void *(*part)(void *), void *argument, int threads) {
    pthread_t thread;
    for (int at = 0; at < threads; at++) pthread_create(&thread, NULL, part, argument);
    for (;;) pause();
}

static void hold_files(int limit, int count) {
    struct rlimit most = {(rlim_t)limit, (rlim_t)limit};
    setrlimit(RLIMIT_NOFILE, &most);
    while (!going) pause_us(20000);
    for (int at = 0; at < count; at++) open("/dev/null", O_RDONLY);
    for (;;) pause();
}

static void leak_files(long pause) {
    struct rlimit most = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &most);
    for (;; pause_us(pause)) open("/dev/null", O_RDONLY);
}

static void leak_memory(size_t bytes, long pause) {
    for (;; pause_us(pause)) memset(malloc(bytes), 1, bytes);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    const char *cpu = getenv("ON_CPU"), *role = count > 1 ? arguments[1] : "";
    if (cpu) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(cpu), &set);
        if (sched_setaffinity(0, sizeof set, &set)) return perror("sched_setaffinity"), 1;
    }
    const char *hangup = getenv("ON_HANGUP");
    if (hangup) {
        hangup_delay_us = atol(hangup);
        struct sigaction action = {.sa_handler = reload, .sa_flags = SA_RESTART};
        sigaction(SIGHUP, &action, NULL);
    }
    pthread_t orders;
    pthread_create(&orders, NULL, listen_to_orders, NULL);
#define IS(name, more) (!strcmp(role, name) && count == 2 + more)
#define N(at) atol(arguments[at])
    struct far far = {count > 2 ? arguments[2] : "", count > 3 ? atoi(arguments[3]) : 0};
    struct writer writer = {count > 2 ? arguments[2] : "", 4096, 50000, 0}, hog = {writer.path, 4 << 20, 0, 1};
    if (IS("serve", 3)) return work_us = N(4), serve(arguments[2], (int)N(3));
    if (IS("relay", 3)) return part = pass_on, upstream = arguments[4], serve(arguments[2], (int)N(3));
    if (IS("call", 3)) call(arguments[2], (int)N(3), N(4));
    if (IS("storm", 3)) storm(arguments[2], (int)N(3), N(4));
    if (IS("stream", 3)) all(stream, &far, (int)N(4));
    if (IS("drain", 2)) return part = drain, serve(arguments[2], (int)N(3));
    if (IS("deaf", 1)) return deaf((int)N(2));
    if (IS("knock", 2)) knock((int)N(2), N(3));
    if (IS("burn", 1)) all(burn, NULL, (int)N(2));
    if (IS("sync", 1)) all(synced, &writer, 1);
    if (IS("hog", 2)) all(synced, &hog, (int)N(3));
    if (IS("hold-files", 2)) hold_files((int)N(2), (int)N(3));
    if (IS("leak-files", 1)) leak_files(N(2));
    if (IS("leak-memory", 2)) leak_memory((size_t)N(2), N(3));
    fprintf(stderr, "no such part\n");
    return 2;
}
