// Makes a function in a file that only memory holds, as some runtimes do, lists it in /tmp/perf-PID.map by the name given, and spends all
// its CPU time there, called by main by way of calls. Says that it is ready. Takes its list away when its input ends, and ends.
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

// push rbp; mov rbp, rsp; dec rdi; jnz to dec; pop rbp; ret
static const unsigned char CODE[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xff, 0xcf, 0x75, 0xfb, 0x5d, 0xc3};

static APART int calls(void (*made)(unsigned long)) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (poll(&input, 1, 0) == 0)
        made(100000000);
    return input.revents;
}

int main(int count, char **arguments) {
    if (count < 2)
        return 1;
    int memory = memfd_create("code", MFD_CLOEXEC);
    if (write(memory, CODE, sizeof CODE) != (ssize_t)sizeof CODE)
        return 1;
    void *code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, memory, 0);
    if (code == MAP_FAILED)
        return 1;
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *list = fopen(path, "wx");
    if (!list)
        return 1;
    fprintf(list, "%lx %zx %s\n", (unsigned long)code, sizeof CODE, arguments[1]);
    fclose(list);
    printf("ready\n");
    fflush(stdout);
    int ended = calls((void (*)(unsigned long))code);
    unlink(path);
    return ended ? 0 : 1;
}
