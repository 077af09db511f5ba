// Starts processes one after the other. Arguments: forked executed program
//
// forked    children that ask once for their parent and end, without exec
// executed  children that become `program`
// Says forked=N executed=N: those that ended well.
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int ended_well(pid_t child) {
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static pid_t fork_asking(void) {
    pid_t child = fork();
    if (child == 0) {
        syscall(SYS_getppid);
        _exit(0);
    }
    return child;
}

static pid_t execute(const char *program) {
    pid_t child = vfork();
    if (child == 0) {
        execl(program, program, (char *)NULL);
        _exit(127);
    }
    return child;
}

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    long forked = 0, executed = 0;
    for (long left = atol(arguments[1]); left > 0; left--)
        forked += ended_well(fork_asking());
    for (long left = atol(arguments[2]); left > 0; left--)
        executed += ended_well(execute(arguments[3]));
    printf("forked=%ld executed=%ld\n", forked, executed);
    return 0;
}
