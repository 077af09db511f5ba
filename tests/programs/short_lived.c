// Asks once for its parent and ends.
#include <sys/syscall.h>
#include <unistd.h>

int main(void) {
    syscall(SYS_getppid);
    return 0;
}
