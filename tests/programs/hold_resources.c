// Holds open files and resident memory. Arguments: files mebibytes. Says ready; ends with its input.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    for (long files = atol(arguments[1]); files > 0; files--)
        if (open("/dev/null", O_RDONLY) < 0)
            return 1;
    size_t bytes = atol(arguments[2]) << 20;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    memset(memory, 1, bytes);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
