// Asks for its parent in every guise of one program, then becomes another. Arguments: own named forked program
//
// own     by itself
// named   in a thread that has given itself the name "impostor"
// forked  children that ask once and end, without exec
// program what it becomes, under the same process id
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void ask(long times) {
    for (; times > 0; times--)
        syscall(SYS_getppid);
}

static void *ask_under_another_name(void *times) {
    if (prctl(PR_SET_NAME, "impostor"))
        _exit(1);
    ask(*(long *)times);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    ask(atol(arguments[1]));
    long named = atol(arguments[2]);
    pthread_t thread;
    if (pthread_create(&thread, NULL, ask_under_another_name, &named) || pthread_join(thread, NULL))
        return 1;
    for (long left = atol(arguments[3]); left > 0; left--) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            ask(1);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status)
            return 1;
    }
    execl(arguments[4], arguments[4], (char *)NULL);
    return 1;
}
