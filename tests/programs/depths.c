// Ways to lay out a stack, between two traps: recursion, a linkage table's entries, alloca, an aligned stack, a call that does
// not return, a signal handler, a callback from the C library.
#define _GNU_SOURCE
#include <alloca.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static volatile int sink;
static jmp_buf out;

#define APART __attribute__((noinline, noclone))

static APART int deep(int left) {
    volatile char room[24];
    room[left % 24] = (char)left;
    return left ? deep(left - 1) + room[left % 24] : abs(sink);
}

static APART int grows(int length) {
    char *room = alloca(length);
    memset(room, length, length);
    return room[length / 2] + abs(sink);
}

static APART int aligned(int value) {
    _Alignas(64) volatile char room[64];
    room[value % 64] = 1;
    return deep(2) + room[1];
}

static APART __attribute__((noreturn)) void leaves(int value) {
    sink += abs(value);
    longjmp(out, 1);
}

static APART int returns(int value) {
    if (!setjmp(out))
        leaves(value);
    return sink;
}

static void handler(int number) { sink += abs(number) + deep(1); }

static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

int main(void) {
    signal(SIGUSR1, handler);
    int numbers[] = {3, 1, 2};
    __asm__ volatile("int3");
    sink += deep(200);
    for (int length = 16; length < 5000; length *= 9)
        sink += grows(length);
    sink += aligned(3) + returns(2);
    raise(SIGUSR1);
    qsort(numbers, 3, sizeof *numbers, compare);
    __asm__ volatile("int3");
    return 0;
}
