/* A file system of one file that stops answering, and a process that it stops.
 *
 * stuck FILE lock: maps FILE (shared), writes to it and maps something else over it. The kernel then writes the file back while
 * it holds the process's mmap_lock for writing (Linux, fs/fuse/file.c, fuse_vma_close), which is answered to nobody: whoever
 * reads the process's /proc/PID/maps or cmdline waits for that lock. Another thread of the process spends CPU time all the while, so
 * that it is met by whoever takes samples.
 * stuck FILE run PROGRAM ARGUMENT: runs a copy of PROGRAM that lies on the file system; what is asked about the file from then on
 * is not even taken. (A request that was taken and not answered holds whoever asked beyond SIGKILL: fs/fuse/dev.c,
 * request_wait_answer.)
 *
 * Says "stuck=PID" when it is so, and answers everything once it reads a line; then says "free" and ends. FILE must be there.
 * Message layouts are those of include/uapi/linux/fuse.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define REQUEST (1 << 18)
static char request[REQUEST], reply[REQUEST];
static int fuse, content = -1;
static unsigned long size = 4096;

static void fail(const char *what) { perror(what); exit(1); }

static void answer(unsigned long unique, int error, const void *data, unsigned long length) {
    struct fuse_out_header out = {.len = sizeof out + length, .error = error, .unique = unique};
    memcpy(reply, &out, sizeof out);
    if (length) memcpy(reply + sizeof out, data, length);
    if (write(fuse, reply, out.len) < 0 && errno != ENOENT) fail("answer");
}

static void serve(struct fuse_in_header *in) {
    void *body = in + 1;
    switch (in->opcode) {
    case FUSE_INIT: {
        struct fuse_init_out out = {.major = 7, .minor = 31, .max_readahead = 65536, .max_write = 65536, .max_background = 16};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = {.attr = {.ino = 1, .size = size, .mode = S_IFREG | 0755, .nlink = 1, .blksize = 4096}};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_OPEN: {
        struct fuse_open_out out = {.open_flags = FOPEN_KEEP_CACHE};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_READ: {
        struct fuse_read_in *read = body;
        static char data[65536];
        memset(data, 0, sizeof data);
        unsigned long length = read->size < sizeof data ? read->size : sizeof data;
        if (content >= 0) {
            long got = pread(content, data, length, read->offset);
            length = got < 0 ? 0 : got;
        }
        answer(in->unique, 0, data, length);
        break;
    }
    case FUSE_WRITE: {
        struct fuse_write_in *write = body;
        struct fuse_write_out out = {.size = write->size};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_SETATTR:
        answer(in->unique, 0, NULL, 0);
        break;
    case FUSE_FORGET:
    case FUSE_INTERRUPT:
        break;
    default:
        answer(in->unique, -ENOSYS, NULL, 0);
    }
}

static volatile unsigned long spun;

static void *spin(void *nothing) {
    (void)nothing;
    if (nice(19) != 19) fail("nice");
    for (;;) spun++;
    return NULL;
}

static void map_over(const char *file) {
    pthread_t spinner;
    if (pthread_create(&spinner, NULL, spin, NULL)) fail("thread");
    // Once it runs, it needs nothing of the kernel any more.
    while (spun < 1000000) usleep(1000);
    int own = open(file, O_RDWR);
    struct stat status;
    // The kernel believes in a file without bytes until it has asked.
    if (own < 0 || fstat(own, &status)) fail("open");
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
    if (page == MAP_FAILED) fail("mmap");
    page[0] = 1;
    if (mmap(page, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) fail("mmap over");
    _exit(0);
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    const char *file = arguments[1];
    int runs = !strcmp(arguments[2], "run");
    signal(SIGPIPE, SIG_IGN);
    if (runs) {
        struct stat status;
        content = open(arguments[3], O_RDONLY | O_CLOEXEC);
        if (content < 0 || fstat(content, &status)) fail("program");
        size = status.st_size;
    }
    fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0) fail("/dev/fuse");
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=100755,user_id=0,group_id=0", fuse);
    if (mount("stuck", file, "fuse", MS_NOSUID | MS_NODEV, options)) fail("mount");
    int started[2];
    if (pipe2(started, O_CLOEXEC)) fail("pipe");
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fuse);
        if (!runs) map_over(file);
        execl(file, file, arguments[4], NULL);
        fail("exec");
    }
    close(started[1]);
    int stuck = 0, over = 0, detached = 0;
    static char requests[64][256];
    int waiting = 0;
    while (!over) {
        struct pollfd files[3] = {{runs && stuck ? -1 : fuse, POLLIN, 0}, {0, POLLIN, 0}, {runs && !stuck ? started[0] : -1, POLLIN, 0}};
        if (poll(files, 3, 100) < 0 && errno != EINTR) fail("poll");
        if (files[2].revents) {
            // The exec closed the other end: it has come to run.
            usleep(200000);
            stuck = 1;
            printf("stuck=%d\n", child);
            fflush(stdout);
        }
        if (files[0].revents & POLLIN) {
            long length = read(fuse, request, sizeof request);
            if (length < 0 && errno != ENODEV && errno != EAGAIN && errno != EINTR) fail("read");
            struct fuse_in_header *in = (void *)request;
            if (length >= (long)sizeof *in) {
                if (!runs && in->opcode == FUSE_WRITE && waiting < 64) {
                    memcpy(requests[waiting++], request, length < 256 ? length : 256);
                } else {
                    serve(in);
                }
                if (in->opcode == FUSE_WRITE && !stuck) {
                    stuck = 1;
                    printf("stuck=%d\n", child);
                    fflush(stdout);
                }
            }
        }
        if (stuck && !detached) {
            // Nobody else is to come by; what has it open or mapped keeps it.
            umount2(file, MNT_DETACH);
            detached = 1;
        }
        if (files[1].revents) over = 1;
    }
    for (int at = 0; at < waiting; at++) serve((void *)requests[at]);
    // What follows is answered until the process has ended, which gives up its mapping.
    if (runs) kill(child, SIGKILL);
    while (waitpid(child, NULL, WNOHANG) == 0) {
        struct pollfd one = {fuse, POLLIN, 0};
        if (poll(&one, 1, 50) > 0 && read(fuse, request, sizeof request) > 0) serve((void *)request);
    }
    printf("free asked=%d\n", waiting);
}
